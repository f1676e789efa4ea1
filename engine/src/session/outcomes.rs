//! What a session does when it hears what became of its facts.

use billing::{End, Settlement, WalletVersion};
use ractor::ActorRef;
use schema::{Credits, SessionId, UserId, session::EndReason, websocket::ServerMessage};

use super::{
    Reload, SessionMessage, SessionState, WalletState,
    commands::{Abandoned, LateStops},
    next_settlement, retry_later,
};
use crate::{
    engine::{StartError, Started, StopError, Stopped},
    facts::{Fact, FactOutcome, Refusal},
    update::News,
    watermark::Stamp,
};

impl SessionState {
    pub(super) fn take_outcome(
        &mut self,
        myself: &ActorRef<SessionMessage>,
        fact: &Fact,
        outcome: FactOutcome,
        stamp: Option<Stamp>,
    ) {
        self.is_in_flight = false;
        if let Some(late) = self.commands.late.take() {
            late.answer(self.user, outcome);
            return;
        }
        match (fact, outcome) {
            (Fact::Opening(opening), FactOutcome::Recorded) => {
                self.opened(opening.session, fact.version().next());
            }
            (Fact::Settlement(settlement), FactOutcome::Recorded) => {
                self.settled(settlement, fact.version().next());
            }
            (Fact::Opening(_), FactOutcome::Stale) => {
                self.commands.start_stamp = stamp;
                self.reload = Reload::Needed;
            }
            (Fact::Settlement(_), FactOutcome::Stale) => {
                self.commands.stop_stamp = self.commands.stop_stamp.take().or(stamp);
                self.reload = Reload::Needed;
            }
            (Fact::Opening(opening), FactOutcome::Refused(refusal)) => {
                self.start_refused(opening.session, refusal);
            }
            (Fact::Settlement(_), FactOutcome::Refused(Refusal::KeyUsed)) => {
                self.commands.stop_stamp = self.commands.stop_stamp.take().or(stamp);
                self.stops_refused();
            }
            (Fact::Settlement(settlement), FactOutcome::Refused(refusal)) => {
                tracing::error!(
                    user = self.user.get(),
                    session = settlement.session.get(),
                    error = &refusal as &dyn std::error::Error,
                    "a settlement was refused"
                );
                // Its stamp goes: what is refused holds nothing back.
                self.reload = Reload::Underway;
                retry_later(myself.clone());
            }
        }
    }

    pub(super) fn opened(&mut self, id: SessionId, version: WalletVersion) {
        let now = self.now();
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        wallet.start_recorded(id, version);
        wallet.advance(now);
        self.is_low_told = false;
        let Some(session) = wallet.session(id).copied() else {
            return;
        };
        let started = Started {
            session: id,
            started_at: session.started_at,
        };
        let (key, replies) = self
            .commands
            .starting
            .take()
            .map_or((None, Vec::new()), |start| (start.key, start.replies));
        let taken = replies
            .into_iter()
            .filter_map(|reply| reply.send(Ok(started)).ok());
        if taken.count() == 0 {
            // Whoever asked was told that the outcome is unknown: it never was, for nothing.
            let _ended = wallet.abandon(id);
            self.commands.abandoned = Some(Abandoned {
                session: id,
                key: key.map(|request| request.key),
            });
            return;
        }
        self.live.set(1);
        self.settle_at =
            next_settlement(session.started_at, now, self.context.settings.settle_every);
        self.tell(News::Event(ServerMessage::SessionStarted {
            session_id: id,
            started_at: session.started_at,
        }));
        self.mirror();
    }

    pub(super) fn start_refused(&mut self, id: SessionId, refusal: Refusal) {
        let error = match refusal {
            Refusal::SlotTaken => StartError::SessionActive,
            Refusal::UserUnknown => StartError::UserUnknown,
            // The engine reads what was answered under the key.
            Refusal::KeyUsed => StartError::Unavailable,
            Refusal::SessionEnded | Refusal::Contradiction => {
                tracing::error!(
                    user = self.user.get(),
                    error = &refusal as &dyn std::error::Error,
                    "a start was refused"
                );
                StartError::Unavailable
            }
        };
        self.withdraw_start(id, error);
    }

    /// Forgets a start that was not recorded and won't be, and tells whoever waits for it or its end.
    pub(super) fn withdraw_start(&mut self, id: SessionId, error: StartError) {
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        wallet.start_refused(id);
        self.commands.start_stamp = None;
        let starting = self.commands.starting.take();
        for reply in starting.map_or(Vec::new(), |start| start.replies) {
            let _gone = reply.send(Err(error));
        }
        self.refuse_stops();
    }

    /// The keys of some stops are in use. It happens where the engine could not see that before: the
    /// database was away, or another process was quicker. Those stops, and any that can't be told from
    /// them, never came: the wallet is what is recorded, and what has been served since.
    fn stops_refused(&mut self) {
        let covered = self
            .commands
            .covered_stops
            .min(self.commands.stopping.len());
        let later = self.commands.stopping.split_off(covered);
        for stop in std::mem::take(&mut self.commands.stopping) {
            if stop.key.is_some() {
                // Nothing was done. The engine reads what was answered under the key.
                let _gone = stop.reply.send(Err(StopError::Unavailable));
            } else {
                self.commands.stopping.push(stop);
            }
        }
        self.commands.stopping.extend(later);
        self.commands.covered_stops = 0;
        if self.commands.stopping.is_empty() {
            self.commands.stop_stamp = None;
        }
        if self.commands.abandoned.is_none() {
            self.wallet = WalletState::Loading(Vec::new());
            self.reload = Reload::Needed;
        }
    }

    pub(super) fn settled(&mut self, settlement: &Settlement, version: WalletVersion) {
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        let before = wallet.session(settlement.session);
        let charged =
            before.and_then(|session| settlement.total.checked_sub(session.settled.total));
        if let Some(charged) = charged {
            self.context.metrics.charged(charged);
        } else {
            tracing::error!(
                user = self.user.get(),
                session = settlement.session.get(),
                total = settlement.total.get(),
                "a settlement was recorded that the wallet knows nothing of"
            );
        }
        let end = wallet.settled(settlement, version);
        let final_credits = wallet.balance();
        if let Some(end) = end {
            self.ended(settlement, end, final_credits);
        }
        self.mirror();
    }

    pub(super) fn ended(&mut self, settlement: &Settlement, end: End, final_credits: Credits) {
        let End {
            at: ended_at,
            reason,
            consumed,
            served: _,
        } = end;
        let id = settlement.session;
        let stopped = Stopped {
            session: id,
            ended_at,
            reason,
            consumed,
            final_credits,
        };
        self.answer_stops(settlement, stopped);
        self.commands.abandoned = None;
        self.live.set(0);
        self.context.metrics.ended(reason);
        if reason == EndReason::User && consumed.is_zero() {
            self.unpaid.note(ended_at);
        }
        // The balance first: whoever hears of the end has seen what is left.
        self.tell_balance();
        self.tell(News::Event(ServerMessage::SessionStopped {
            session_id: id,
            reason,
            ended_at,
            credits_consumed: consumed,
            final_credits,
        }));
        self.start_queued();
    }

    /// Tries the starts that wait; those that still have to wait are queued again.
    pub(super) fn start_queued(&mut self) {
        for (key, reply) in std::mem::take(&mut self.commands.queued_starts) {
            self.start(key, reply);
        }
    }

    /// Answers those who wait for the end that is recorded now, but for those whose keys are not.
    fn answer_stops(&mut self, settlement: &Settlement, stopped: Stopped) {
        let mut waiting = Vec::new();
        let covered = self.commands.covered_stops;
        for (place, stop) in self.commands.stopping.drain(..).enumerate() {
            match stop.key {
                Some(request) if place >= covered => {
                    waiting.push((request, stop.reply));
                }
                _ => _ = stop.reply.send(Ok(stopped)),
            }
        }
        self.commands.covered_stops = 0;
        self.commands.stop_stamp = None;
        if !waiting.is_empty() {
            self.commands.late = Some(LateStops {
                settlement: *settlement,
                stopped,
                waiting,
            });
        }
    }
}

impl LateStops {
    /// Answers them, now that their keys are recorded, or can't be.
    fn answer(self, user: UserId, outcome: FactOutcome) {
        let is_kept = outcome == FactOutcome::Recorded;
        if !is_kept && outcome != FactOutcome::Refused(Refusal::KeyUsed) {
            tracing::error!(
                user = user.get(),
                session = self.settlement.session.get(),
                ?outcome,
                "the keys of stops could not be kept"
            );
        }
        for (_, reply) in self.waiting {
            // Where a key is in use, the engine reads what was answered under it.
            let answer = is_kept
                .then_some(self.stopped)
                .ok_or(StopError::Unavailable);
            let _gone = reply.send(answer);
        }
    }
}

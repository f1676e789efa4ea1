//! What a session does when it hears what became of its facts.

use billing::{End, Settlement, WalletVersion};
use ractor::ActorRef;
use schema::{Credits, SessionId, websocket::ServerMessage};

use super::{Reload, SessionMessage, SessionState, WalletState, next_settlement, retry_later};
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
        match (fact, outcome) {
            (Fact::Opening(opening), FactOutcome::Recorded) => {
                self.opened(opening.session, fact.version().next());
            }
            (Fact::Settlement(settlement), FactOutcome::Recorded) => {
                self.settled(settlement, fact.version().next());
            }
            (Fact::Opening(_), FactOutcome::Stale) => {
                self.start_stamp = stamp;
                self.reload = Reload::Needed;
            }
            (Fact::Settlement(_), FactOutcome::Stale) => {
                self.stop_stamp = self.stop_stamp.take().or(stamp);
                self.reload = Reload::Needed;
            }
            (Fact::Opening(opening), FactOutcome::Refused(refusal)) => {
                self.start_refused(opening.session, refusal);
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
        let is_taken = self
            .starting
            .take()
            .is_some_and(|reply| reply.send(Ok(started)).is_ok());
        if !is_taken {
            // Whoever asked was told that the outcome is unknown: it never was, for nothing.
            let _abandoned = wallet.abandon(id);
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
        self.start_stamp = None;
        if let Some(reply) = self.starting.take() {
            let _gone = reply.send(Err(error));
        }
        for reply in self.stopping.drain(..) {
            let _gone = reply.send(Err(StopError::NoActiveSession));
        }
        self.stop_stamp = None;
        self.start_queued();
    }

    pub(super) fn settled(&mut self, settlement: &Settlement, version: WalletVersion) {
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        let end = wallet.settled(settlement, version);
        let final_credits = wallet.balance();
        if let Some(end) = end {
            self.ended(settlement.session, end, final_credits);
        }
        self.mirror();
    }

    pub(super) fn ended(&mut self, id: SessionId, end: End, final_credits: Credits) {
        let End {
            at: ended_at,
            reason,
            consumed,
            served: _,
        } = end;
        for reply in self.stopping.drain(..) {
            let _gone = reply.send(Ok(Stopped {
                session: id,
                ended_at,
                reason,
                consumed,
                final_credits,
            }));
        }
        self.stop_stamp = None;
        self.live.set(0);
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
        for reply in std::mem::take(&mut self.queued_starts) {
            self.start(reply);
        }
    }
}

//! Taking decisions anew: what a wallet does when it hears that somebody else changed the balance
//! while it decided things that are not recorded yet.
//!
//! Each change counts from its own instant, so the wallet goes back to the first of them, and lets
//! time pass again with the changes and with the commands that were given since.

use schema::{Millis, SessionId, UnixMillis, session::EndReason};

use super::{BalanceChange, Rebase, Session, Wallet};
use crate::{Meter, recovery::MeterTurn};

/// The time from one instant to the next.
const TICK: Millis = Millis::literal(1);

/// That a session was to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) session: SessionId,
    pub(super) at: UnixMillis,
    pub(super) reason: EndReason,
}

/// That the live sessions were paused, or let run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) at: UnixMillis,
    pub(super) to: MeterTurn,
    /// The meters that it changed, as they were before.
    pub(super) before: Vec<(SessionId, Meter)>,
}

/// What counts anew from its own instant.
enum Replayed {
    Change(BalanceChange),
    Switch(Switch),
    Stop(Stop),
}

impl Replayed {
    /// The order of law 7: at one instant, credits come before commands.
    fn order(&self) -> (UnixMillis, bool) {
        match self {
            Self::Change(change) => (change.at, false),
            Self::Switch(switch) => (switch.at, true),
            Self::Stop(stop) => (stop.at, true),
        }
    }
}

impl Wallet {
    /// Takes over what the database says, read at or after `now`, and takes every decision anew that
    /// is not recorded and could have come out otherwise. Returns the recorded sessions that are live
    /// in the database no longer: somebody else ended them.
    pub fn rebase(&mut self, now: UnixMillis, facts: &Rebase) -> Vec<SessionId> {
        // What ends before a change does so without it, however late it is noticed.
        self.advance(now);
        let mut ended_elsewhere = Vec::new();
        self.sessions.retain_mut(|session| {
            let live = facts.live.iter().find(|(id, _)| *id == session.id);
            if let Some((_, settled)) = live {
                session.settled = *settled;
                session.is_recorded = true;
            } else if session.is_recorded {
                ended_elsewhere.push(session.id);
            }
            live.is_some() || !session.is_recorded
        });
        self.version = facts.version;

        let changed: i64 = facts.changes.iter().map(|change| change.amount.get()).sum();
        self.ledger_balance = facts.ledger_balance.get() - changed;
        self.replay(&facts.changes);
        self.ledger_balance = facts.ledger_balance.get();
        self.advance(now);
        self.forget_commands_before(UnixMillis::EPOCH);
        ended_elsewhere
    }

    /// Lets an unrecorded start count from `now` instead: another node has served a session of the
    /// wallet since, perhaps from start to end. A stop that came after it counts from `now` too.
    pub fn restart(&mut self, now: UnixMillis, id: SessionId) {
        let is_in_question = |session: &&mut Session| session.id == id && !session.is_recorded;
        let Some(session) = self.sessions.iter_mut().find(is_in_question) else {
            return;
        };
        session.started_at = now;
        session.meter = Meter::running(Millis::ZERO, now);
        session.end = None;
        for stop in self.stops.iter_mut().filter(|stop| stop.session == id) {
            stop.at = now;
            session.end(now, stop.reason);
        }
        for switch in &mut self.switches {
            switch.before.retain(|(session, _)| *session != id);
        }
        self.advance(now);
    }

    /// A start that is not recorded and, after a [`Wallet::rebase`], no longer covered: its session's
    /// first interval never began, or what the session has cost until a stop is gone. Whoever took
    /// the credits could not know of the start. Nobody was told of it either, so it may be
    /// withdrawn, see [`Wallet::start_refused`].
    pub fn uncovered_start(&self) -> Option<SessionId> {
        let start = self.sessions.iter().find(|session| !session.is_recorded)?;
        let never_began = start
            .end
            .is_some_and(|end| end.reason == EndReason::Depleted && end.at == start.started_at);
        (never_began || self.is_overdrawn()).then_some(start.id)
    }

    /// Somebody else changes the balance at `at`.
    pub(crate) fn change_balance_at(&mut self, at: UnixMillis, amount: i64) {
        // An interval that begins at the change's instant does so after it.
        self.advance(at.saturating_sub(TICK));
        self.change_balance(amount);
        self.instant = self.instant.max(at);
    }

    /// The balance is another one, and always was: for what comes before a replay.
    pub(crate) fn change_balance(&mut self, amount: i64) {
        self.ledger_balance += amount;
    }

    /// Goes back to the first of `changes` and from there on takes every decision anew, with the
    /// changes; commands keep their instants.
    fn replay(&mut self, changes: &[BalanceChange]) {
        let now = self.instant;
        // A change that is ahead of our time counts from now.
        let changes = changes.iter().map(|change| BalanceChange {
            at: change.at.min(now),
            ..*change
        });
        let Some(first) = changes.clone().map(|change| change.at).min() else {
            return;
        };
        let mut replayed: Vec<_> = changes.map(Replayed::Change).collect();
        replayed.extend(self.undo_from(first));
        replayed.sort_by_key(Replayed::order);

        self.instant = first;
        for event in replayed {
            match event {
                Replayed::Change(change) => {
                    self.change_balance_at(change.at, change.amount.get());
                }
                Replayed::Switch(switch) => {
                    self.advance(switch.at);
                    self.switch(switch.to, |session| {
                        session.started_at < switch.at
                            || switch.before.iter().any(|(id, _)| *id == session.id)
                    });
                }
                Replayed::Stop(stop) => {
                    self.advance(stop.at);
                    if let Some(session) = self
                        .sessions
                        .iter_mut()
                        .find(|session| session.id == stop.session)
                    {
                        session.end(stop.at, stop.reason);
                    }
                }
            }
        }
    }

    /// Takes back the ends and the switches from `first` on. Returns the commands from there on.
    fn undo_from(&mut self, first: UnixMillis) -> Vec<Replayed> {
        for session in &mut self.sessions {
            session.end.take_if(|end| end.at >= first);
        }
        let kept = self.switches.partition_point(|switch| switch.at < first);
        let switches = self.switches.split_off(kept);
        for (id, meter) in switches.iter().rev().flat_map(|switch| &switch.before) {
            if let Some(session) = self.sessions.iter_mut().find(|session| session.id == *id) {
                session.meter = *meter;
            }
        }
        let stops = self
            .stops
            .iter()
            .filter(|stop| stop.at >= first)
            .copied()
            .map(Replayed::Stop);
        switches
            .into_iter()
            .map(Replayed::Switch)
            .chain(stops)
            .collect()
    }
}

//! What becomes of a fact, decided from what is recorded under the users' locks.
//!
//! In the order in which it is tried:
//!
//! | the fact                                                     | outcome                  |
//! |--------------------------------------------------------------|--------------------------|
//! | is about a user who doesn't exist                            | refused, `UserUnknown`   |
//! | has a key that is in use for another fact                    | refused, `KeyUsed`       |
//! | is recorded already, just so                                 | recorded                 |
//! | was decided from another version than the wallet's           | stale                    |
//! | is about a wallet that the batch has written to              | stale                    |
//! | opens a session under an id that is in use                   | refused, `Contradiction` |
//! | opens a session in a slot that has a live one                | refused, `SlotTaken`     |
//! | settles no session of the user and node                      | refused, `Contradiction` |
//! | settles a session that has ended                             | refused, `SessionEnded`  |
//! | settles out of turn, or less than before                     | refused, `Contradiction` |
//! | settles more than the wallet holds                           | refused, `Contradiction` |
//! | is none of these                                             | written                  |
//!
//! A stale fact comes before most refusals, because whoever decided it did not know what is recorded
//! now: it is to be decided anew, and may come out otherwise. A key that is in use stays so.

use std::collections::{HashMap, HashSet};

use billing::{Opening, Settlement};
use schema::{Credits, UserId, session::EndReason};

use super::keys::{self, UsedKeys};
use crate::facts::{Fact, FactOutcome, NodeName, Recording, Refusal};

/// What is to be done about a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is written; this is the outcome.
    Told(FactOutcome),
    /// The session is to be inserted.
    Open(Opening),
    /// The settlement is to be written.
    Settle(Settling),
}

/// A settlement with what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settling {
    /// The settlement.
    pub(super) settlement: Settlement,
    /// What it moves, now that the settlements before it are known.
    pub(super) difference: Credits,
    /// What the wallet holds after it.
    pub(super) balance_after: Credits,
}

/// What a batch's facts are about, as recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    users: HashMap<i64, FoundUser>,
    sessions: HashMap<i64, FoundSession>,
    /// The user and slot of every live session.
    live: HashSet<(i64, i32)>,
    used_keys: UsedKeys,
}

/// A user's wallet as recorded.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct FoundUser {
    pub(super) id: i64,
    pub(super) version: i64,
    pub(super) credits: i64,
}

/// A session as recorded.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct FoundSession {
    pub(super) id: i64,
    pub(super) user_id: i64,
    pub(super) slot: i32,
    pub(super) node: String,
    pub(super) start_time: i64,
    pub(super) end_reason: Option<String>,
    pub(super) credits_consumed: i64,
    pub(super) settled_seq: i64,
    pub(super) settled_at: i64,
    pub(super) served_ms: i64,
    pub(super) tariff_credits: i64,
    pub(super) tariff_interval_ms: i64,
    pub(super) tariff_charged_at: String,
}

impl Found {
    /// What these rows say.
    pub(super) fn new(
        users: Vec<FoundUser>,
        sessions: Vec<FoundSession>,
        used_keys: UsedKeys,
    ) -> Self {
        let live = sessions
            .iter()
            .filter(|session| session.end_reason.is_none());
        Self {
            live: live
                .map(|session| (session.user_id, session.slot))
                .collect(),
            users: users.into_iter().map(|user| (user.id, user)).collect(),
            sessions: sessions
                .into_iter()
                .map(|session| (session.id, session))
                .collect(),
            used_keys,
        }
    }
}

impl Verdict {
    /// The session to be inserted, if there is one.
    pub(super) const fn opening(&self) -> Option<Opening> {
        if let Self::Open(opening) = self {
            Some(*opening)
        } else {
            None
        }
    }

    /// The settlement to be written, if there is one.
    pub(super) const fn settling(&self) -> Option<Settling> {
        if let Self::Settle(settling) = self {
            Some(*settling)
        } else {
            None
        }
    }
}

/// The verdict on the fact of each of `recordings`, which `node` decided.
pub(super) fn decide(node: &NodeName, recordings: &[Recording], found: &Found) -> Vec<Verdict> {
    let mut written: HashSet<UserId> = HashSet::new();
    let verdicts = recordings.iter().map(|recording| {
        let user = recording.fact.user();
        let verdict = verdict(node, recording, found, written.contains(&user));
        if !matches!(verdict, Verdict::Told(_)) {
            written.insert(user);
        }
        verdict
    });
    verdicts.collect()
}

fn verdict(node: &NodeName, recording: &Recording, found: &Found, is_written: bool) -> Verdict {
    let fact = &recording.fact;
    let Some(user) = found.users.get(&fact.user().get()) else {
        return refused(Refusal::UserUnknown);
    };
    if keys::is_used_elsewhere(recording, &found.used_keys) {
        return refused(Refusal::KeyUsed);
    }
    let is_recorded = match fact {
        Fact::Opening(opening) => is_opening_recorded(node, opening, found),
        Fact::Settlement(settlement) => is_settlement_recorded(node, settlement, found),
    };
    if is_recorded {
        return Verdict::Told(FactOutcome::Recorded);
    }
    if user.version != fact.version().get() || is_written {
        return Verdict::Told(FactOutcome::Stale);
    }
    match fact {
        Fact::Opening(opening) => open(opening, found),
        Fact::Settlement(settlement) => settle(node, settlement, user, found),
    }
}

fn open(opening: &Opening, found: &Found) -> Verdict {
    if found.sessions.contains_key(&opening.session.get()) {
        return refused(Refusal::Contradiction);
    }
    if found
        .live
        .contains(&(opening.user.get(), opening.slot.get()))
    {
        return refused(Refusal::SlotTaken);
    }
    Verdict::Open(*opening)
}

fn settle(node: &NodeName, settlement: &Settlement, user: &FoundUser, found: &Found) -> Verdict {
    let session = found.sessions.get(&settlement.session.get());
    let Some(session) = session.filter(|session| session.is_of(node, settlement)) else {
        return refused(Refusal::Contradiction);
    };
    if session.end_reason.is_some() {
        return refused(Refusal::SessionEnded);
    }
    let is_in_turn = settlement.seq == session.settled_seq + 1
        && settlement.at.get() >= session.settled_at
        && (session.served_ms..=settlement.at.get() - session.start_time)
            .contains(&settlement.served.get());
    if !is_in_turn {
        return refused(Refusal::Contradiction);
    }
    let difference = Credits::new(settlement.total.get() - session.credits_consumed);
    let balance_after =
        difference.and_then(|difference| Credits::new(user.credits - difference.get()));
    match (difference, balance_after) {
        (Ok(difference), Ok(balance_after)) => Verdict::Settle(Settling {
            settlement: *settlement,
            difference,
            balance_after,
        }),
        _ => refused(Refusal::Contradiction),
    }
}

const fn refused(refusal: Refusal) -> Verdict {
    Verdict::Told(FactOutcome::Refused(refusal))
}

fn is_opening_recorded(node: &NodeName, opening: &Opening, found: &Found) -> bool {
    found
        .sessions
        .get(&opening.session.get())
        .is_some_and(|session| {
            session.user_id == opening.user.get()
                && session.slot == opening.slot.get()
                && session.node == node.as_str()
                && session.start_time == opening.started_at.get()
                && session.tariff_credits == opening.tariff.price().get()
                && session.tariff_interval_ms == opening.tariff.interval().get()
                && session.tariff_charged_at == opening.tariff.charged_at().as_str()
        })
}

fn is_settlement_recorded(node: &NodeName, settlement: &Settlement, found: &Found) -> bool {
    found
        .sessions
        .get(&settlement.session.get())
        .is_some_and(|session| {
            session.is_of(node, settlement)
                && session.settled_seq == settlement.seq
                && session.credits_consumed == settlement.total.get()
                && session.served_ms == settlement.served.get()
                && session.settled_at == settlement.at.get()
                && session.end_reason.as_deref() == settlement.end.map(EndReason::as_str)
        })
}

impl FoundSession {
    fn is_of(&self, node: &NodeName, settlement: &Settlement) -> bool {
        self.user_id == settlement.user.get() && self.node == node.as_str()
    }
}

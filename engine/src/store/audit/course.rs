//! What only shows in the course of a wallet's versions: which of them are accounted for (law 7), and that
//! a session ends by itself only where the next interval could not be paid (law 2).
//!
//! The order is that of versions and never that of instants: another node's clock, or an operator's, may
//! be off. An instant is only compared with the end of a session that it may have come too late for.

use std::collections::BTreeMap;

use schema::UserId;

use super::{Findings, Place};

/// Something that was written to a wallet. They are taken in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub(super) struct Event {
    /// The wallet's version by it.
    pub(super) version: i64,
    /// Its place among those of the same version: one of the constants.
    pub(super) turn: i64,
    /// The entry's or session's id.
    pub(super) id: i64,
    /// The instant of the entry, or of the session's end; that of its last settlement if it is live.
    pub(super) at: i64,
    /// What an entry does to the balance, or the price of an interval where the credits ran out.
    pub(super) number: i64,
    /// The session that an entry of usage is for, else 0; of a session, whether it has ended: 0 or 1.
    pub(super) session: i64,
    /// Of a session: the earliest start of those whose last write came after its own.
    pub(super) others_from: i64,
}

impl Event {
    /// An entry.
    pub(super) const ENTRY: i64 = 0;
    /// The last write of a session so far.
    pub(super) const SESSION: i64 = 1;
}

/// What of a wallet has to be known before its versions can be followed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// How many writes left no trace: those for sessions that were deleted, and repairs.
    pub(super) forgotten: i128,
    /// How many writes without an entry there were for sessions of which no version is known, since they
    /// ended before versions were recorded. They come before all others.
    pub(super) of_old_sessions: i128,
    /// Whether all sessions are of one slot, so that each ends before the next one starts.
    pub(super) is_one_slot: bool,
}

/// Follows a wallet through its versions.
#[derive(Debug)]
pub(super) struct Course {
    user: UserId,
    known: Known,
    balance: i128,
    /// What came in, by the instant that it counts from.
    incoming: BTreeMap<i64, i128>,
    /// The version of the event before.
    version: i64,
    /// How many versions without an entry are to be accounted for yet.
    untold: i128,
    /// How many of them come before the first usage since the last session, if there was any.
    untold_before_usage: Option<i128>,
    /// The session whose usage was seen since the last session, and the entry.
    usage: Option<(i64, i64)>,
    /// How many versions may be without a trace.
    spare: i128,
    sessions_seen: u64,
}

impl Course {
    pub(super) fn new(user: UserId, known: Known) -> Self {
        Self {
            user,
            known,
            balance: 0,
            incoming: BTreeMap::new(),
            version: 0,
            untold: 0,
            untold_before_usage: None,
            usage: None,
            spare: known.forgotten + known.of_old_sessions,
            sessions_seen: 0,
        }
    }

    /// What was written next.
    pub(super) fn take(&mut self, event: &Event, findings: &mut Findings<'_>) {
        let step = i128::from(event.version) - i128::from(self.version);
        let own = i128::from(event.turn == Event::ENTRY && step > 0);
        self.untold += step - own;
        self.version = event.version;
        if event.turn == Event::ENTRY {
            self.take_entry(event, findings);
        } else {
            self.take_session(event, step > 0, findings);
        }
    }

    fn take_entry(&mut self, event: &Event, findings: &mut Findings<'_>) {
        self.balance += i128::from(event.number);
        if event.number > 0 {
            *self.incoming.entry(event.at).or_default() += i128::from(event.number);
        }
        if event.session == 0 {
            return;
        }
        let is_first = self
            .usage
            .is_none_or(|(session, _)| session == event.session);
        if self.known.is_one_slot && !is_first {
            let what = format!(
                "entry {} is for session {} at version {}, in the midst of another session's",
                event.id, event.session, event.version
            );
            findings.add(
                7,
                self.place("ledger", event.id),
                "usage of two sessions in a slot is mixed",
                what,
            );
        }
        self.usage.get_or_insert((event.session, event.id));
        self.untold_before_usage.get_or_insert(self.untold);
    }

    /// The last write of a session. It is a settlement that moved nothing, or the start, unless it was an
    /// entry, which came just before.
    fn take_session(&mut self, event: &Event, is_silent: bool, findings: &mut Findings<'_>) {
        self.check_depletion(event, findings);
        if !self.known.is_one_slot {
            return;
        }
        self.sessions_seen += 1;
        let has_ended = event.session != 0;
        // Its start, and an end that moved nothing.
        let expected = 1 + i128::from(has_ended && is_silent);
        let more = self.untold - expected;
        if more < 0 || more > self.spare {
            let what = format!(
                "{} versions without an entry lead up to version {} of session {}, not {expected}",
                self.untold, event.version, event.id
            );
            findings.add(
                7,
                self.place("sessions", event.id),
                "versions of the wallet are not accounted for",
                what,
            );
        }
        self.spare = (self.spare - more.max(0)).max(0);
        let is_old = self.sessions_seen == 1 && self.known.of_old_sessions > 0;
        if !is_old {
            self.check_usage(event, findings);
        }
        self.untold = 0;
        self.usage = None;
        self.untold_before_usage = None;
    }

    /// The usage since the session before is this one's, and came after its start.
    fn check_usage(&self, event: &Event, findings: &mut Findings<'_>) {
        let Some((session, entry)) = self.usage else {
            return;
        };
        if session != event.id {
            let what = format!(
                "entry {entry} is for session {session}, and comes before the end of session {} in its slot",
                event.id
            );
            findings.add(
                7,
                self.place("ledger", entry),
                "usage of two sessions in a slot is mixed",
                what,
            );
        }
        if self.untold_before_usage.is_some_and(|untold| untold < 1) {
            let what = format!(
                "entry {entry} is for session {session}, and no version before it is its start's"
            );
            findings.add(
                7,
                self.place("ledger", entry),
                "usage comes before the session's start",
                what,
            );
        }
    }

    /// With another session live at that time, that one's hold counts too, and the ledger alone can't tell.
    fn check_depletion(&self, event: &Event, findings: &mut Findings<'_>) {
        let Event {
            at,
            id,
            number: price,
            others_from,
            ..
        } = *event;
        if price <= 0 || others_from <= at {
            return;
        }
        // What came in by then may have come when the session had ended, though that was not durable.
        let late: i128 = self.incoming.range(at..).map(|(_, amount)| amount).sum();
        let left = self.balance - late;
        if left >= i128::from(price) {
            let what =
                format!("session {id} ran out of credits with {left} left, at a price of {price}");
            findings.add(
                2,
                self.place("sessions", id),
                "a session ran out of credits that were there",
                what,
            );
        }
    }

    fn place(&self, table: &str, id: i64) -> Place {
        Place::of_user(table, id, self.user)
    }
}

//! What only shows in the course of time: a session ends by itself only where the next interval could
//! not be paid (law 2).

use super::Findings;

/// Something that happened to a wallet. They are taken in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub(super) struct Event {
    /// When.
    pub(super) at: i64,
    /// Its place among those of the same instant: one of the constants.
    pub(super) turn: i64,
    /// The entry's or session's id.
    pub(super) id: i64,
    /// What an entry does to the balance, when a session that starts will end, or the price of an
    /// interval where the credits ran out.
    pub(super) number: i64,
}

impl Event {
    /// An entry that takes credits out of the wallet.
    pub(super) const OUTGOING: i64 = 0;
    /// A session starts.
    pub(super) const START: i64 = 1;
    /// A session ran out of credits.
    pub(super) const DEPLETION: i64 = 2;
    /// An entry that brings credits. At the very end of a session it may have come after the end was
    /// durable.
    pub(super) const INCOMING: i64 = 3;
}

/// Follows a wallet through time.
#[derive(Debug, Default)]
pub(super) struct Course {
    balance: i128,
    /// The two of the sessions started so far that end last, each with its end and its id.
    last_ends: [Option<(i64, i64)>; 2],
}

impl Course {
    /// What happened next.
    pub(super) fn take(&mut self, event: &Event, findings: &mut Findings<'_>) {
        match event.turn {
            Event::START => self.start(event),
            Event::DEPLETION => self.check(event, findings),
            _ => self.balance += i128::from(event.number),
        }
    }

    fn start(&mut self, event: &Event) {
        let started = Some((event.number, event.id));
        let [last, second] = self.last_ends;
        if started > last {
            self.last_ends = [started, last];
        } else if started > second {
            self.last_ends = [last, started];
        }
    }

    /// With another session live at that instant, that one's hold counts too, and the ledger alone
    /// can't tell.
    fn check(&self, event: &Event, findings: &mut Findings<'_>) {
        let Event {
            at,
            id,
            number: price,
            ..
        } = event;
        let others = self.last_ends.iter().flatten();
        if others
            .filter(|(_, other)| other != id)
            .any(|(end, _)| end >= at)
        {
            return;
        }
        let left = self.balance;
        if left >= i128::from(*price) {
            findings.add(
                2,
                format!("session {id} ran out of credits with {left} left, at a price of {price}"),
            );
        }
    }
}

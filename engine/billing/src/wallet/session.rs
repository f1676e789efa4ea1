//! One session on a wallet, and what it has cost.

use schema::{Credits, Millis, SessionId, UnixMillis, session::EndReason};

use crate::{Meter, Tariff};

/// Which of a user's places for a live session it takes. Each holds one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNumber(i32);

impl SlotNumber {
    /// The slot with this number.
    pub const fn new(slot: i32) -> Self {
        Self(slot)
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// How much of a session's charge is in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// How many settlements there were.
    pub seq: i64,
    /// What they moved, together.
    pub total: Credits,
}

/// How a session ended. Decided, and recorded by the session's last settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The instant it ended.
    pub at: UnixMillis,
    /// Why.
    pub reason: EndReason,
    /// What it cost in all.
    pub consumed: Credits,
    /// The time it was served for.
    pub served: Millis,
}

/// A live session, or one that ended and is not yet settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its slot.
    pub slot: SlotNumber,
    /// Its tariff.
    pub tariff: Tariff,
    /// When it started.
    pub started_at: UnixMillis,
    /// Its served time.
    pub meter: Meter,
    /// What of its charge is in the ledger.
    pub settled: Settled,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// Whether its start is durable.
    pub is_recorded: bool,
}

impl Session {
    /// Whether it has not ended.
    pub const fn is_live(&self) -> bool {
        self.end.is_none()
    }

    /// What it has been charged at `now`, or nothing where no wallet could hold that much.
    pub fn charge(&self, now: UnixMillis) -> Option<Credits> {
        self.end.map_or_else(
            || self.tariff.charge(self.meter.served(now)),
            |end| Some(end.consumed),
        )
    }

    /// What it has been charged and holds at `now`.
    pub(super) fn committed(&self, now: UnixMillis) -> Option<Credits> {
        if now < self.started_at {
            return Some(Credits::ZERO);
        }
        self.end.map_or_else(
            || self.tariff.committed(self.meter.served(now)),
            |end| Some(end.consumed),
        )
    }

    /// What its completed intervals cost at `now`.
    pub(super) fn completed(&self, now: UnixMillis) -> Option<Credits> {
        self.tariff
            .price_of(self.tariff.intervals_completed(self.meter.served(now)))
    }

    /// Whether an interval ends exactly at `at`. So it is at the start too, where one begins.
    pub(super) fn is_at_boundary(&self, at: UnixMillis) -> bool {
        let served = self.meter.served(at);
        let is_running = self.meter.is_running() && at >= self.started_at;
        is_running
            && self
                .tariff
                .served_after(self.tariff.intervals_completed(served))
                == Some(served)
    }

    pub(super) fn boundary_after(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.meter.reaches(
            self.tariff
                .served_after(self.tariff.intervals_begun(self.meter.served(now)))?,
        )
    }

    /// Ends at `at`, unless it has ended, and returns its end.
    ///
    /// At a depletion the next interval does not begin, and an end by the engine before anything was
    /// served is free; else the charge is what a live session would have. It is never less than what is
    /// settled: a session that was charged at its start and paused at once may have settled that.
    pub(super) fn end(&mut self, at: UnixMillis, reason: EndReason) -> End {
        *self.end.get_or_insert_with(|| {
            let at = at
                .max(self.started_at)
                .max(self.meter.running_since().unwrap_or(at));
            let served = self.meter.served(at);
            let is_next_begun = match reason {
                EndReason::Depleted => false,
                EndReason::Engine => served > Millis::ZERO,
                EndReason::User | EndReason::Admin => true,
            };
            let intervals = self.tariff.intervals_completed(served);
            let consumed = if is_next_begun {
                self.tariff.charge(served)
            } else {
                self.tariff.price_of(intervals)
            };
            let Some(consumed) = consumed else {
                panic!("session {} cost more than a wallet can hold", self.id);
            };
            End {
                at,
                reason,
                consumed: consumed.max(self.settled.total),
                served,
            }
        })
    }
}

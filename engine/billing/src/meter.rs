//! Served time: how long a session has really been served, as a function of facts and an instant.
//!
//! A session is served while its node runs and it is not paused. A crash loses the time between the
//! node's last `alive_at` and its next start, in the customer's favour.

use schema::{Millis, UnixMillis};

/// A stretch of time, from `from` up to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it begins.
    pub from: UnixMillis,
    /// When it is over; a span that ends before it begins is empty.
    pub to: UnixMillis,
}

/// A recorded fact: at `at`, the session had been served for `served`. Its start is one, with
/// nothing served, and so is each settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The instant it speaks of.
    pub at: UnixMillis,
    /// What had been served by then.
    pub served: Millis,
}

/// A session's running account of served time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// What was served before `running_since`, or in all where the meter stands still.
    served: Millis,
    /// Since when it runs; nothing while the session is paused.
    running_since: Option<UnixMillis>,
}

impl Meter {
    /// A meter that has counted `served` and runs on from `now`.
    pub const fn running(served: Millis, now: UnixMillis) -> Self {
        Self {
            served,
            running_since: Some(now),
        }
    }

    /// What has been served at `now`.
    pub fn served(self, now: UnixMillis) -> Millis {
        self.running_since.map_or(self.served, |since| {
            self.served.saturating_add(now.since(since))
        })
    }

    /// Whether served time is being counted.
    pub const fn is_running(self) -> bool {
        self.running_since.is_some()
    }

    /// Since when it has been counting without a break, if it does.
    pub const fn running_since(self) -> Option<UnixMillis> {
        self.running_since
    }

    /// The instant at which `served` will have been served: nothing where the meter stands still or
    /// the instant is past the end of time. An instant that is over already is told too, but none
    /// before the meter last began to run.
    pub fn reaches(self, served: Millis) -> Option<UnixMillis> {
        self.running_since
            .and_then(|since| since.checked_add(served.saturating_sub(self.served)))
    }

    /// Stands still from `now` on.
    pub fn pause(&mut self, now: UnixMillis) {
        *self = Self {
            served: self.served(now),
            running_since: None,
        };
    }

    /// Runs on from `now`. Does nothing to a meter that runs.
    pub fn resume(&mut self, now: UnixMillis) {
        self.running_since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    #[test]
    fn a_pause_is_not_served() {
        let mut meter = Meter::running(Millis::ZERO, ms(100));
        meter.pause(ms(350));
        assert_eq!(
            (meter.served(ms(9_999)).get(), meter.reaches(Millis::MAX)),
            (250, None)
        );
        meter.resume(ms(1_000));
        meter.resume(ms(2_000));
        assert_eq!(meter.served(ms(1_050)).get(), 300);
        assert_eq!(meter.reaches(Millis::new(300).unwrap()), Some(ms(1_050)));
    }
}

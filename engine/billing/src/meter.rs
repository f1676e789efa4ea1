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

impl Span {
    /// The part of `self` inside `other`.
    fn overlap(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            to: self.to.min(other.to),
        }
    }

    fn length(self) -> Millis {
        self.to.since(self.from)
    }
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

/// What a session had been served for when its node went down: its last checkpoint, and since then
/// the overlap with the node's `runs` (each from its start to its last `alive_at`) less the session's
/// `pauses`. The runs don't overlap each other, nor do the pauses.
pub fn served_before_cut(checkpoint: Checkpoint, runs: &[Span], pauses: &[Span]) -> Millis {
    let since = Span {
        from: checkpoint.at,
        to: UnixMillis::MAX,
    };
    runs.iter().fold(checkpoint.served, |served, run| {
        let run = run.overlap(since);
        let frozen = pauses.iter().fold(Millis::ZERO, |sum, pause| {
            sum.saturating_add(run.overlap(*pause).length())
        });
        served.saturating_add(run.length().saturating_sub(frozen))
    })
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

    fn span(from: i64, to: i64) -> Span {
        Span {
            from: ms(from),
            to: ms(to),
        }
    }

    /// Law 8's worked examples, and what surrounds them. Times in ms.
    #[test]
    fn downtime_is_free() {
        let check = |what: &str, start: i64, runs: &[Span], back: i64, stop: i64, served: i64| {
            let checkpoint = Checkpoint {
                at: ms(start),
                served: Millis::ZERO,
            };
            let meter = Meter::running(served_before_cut(checkpoint, runs, &[]), ms(back));
            assert_eq!(meter.served(ms(stop)).get(), served, "{what}");
        };
        check(
            "alive 5.0, killed 5.9, back 8.9, stopped 9.9",
            0,
            &[span(0, 5_000)],
            8_900,
            9_900,
            6_000,
        );
        check(
            "the same with alive 4.9",
            0,
            &[span(0, 4_900)],
            8_900,
            9_900,
            5_900,
        );
        check(
            "start 5.4 after alive 5.0: nothing before the restart",
            5_400,
            &[span(0, 5_000)],
            8_900,
            8_900,
            0,
        );
        check(
            "two crashes",
            0,
            &[span(0, 5_000), span(8_900, 9_900)],
            20_000,
            20_500,
            6_500,
        );
    }

    #[test]
    fn a_checkpoint_stands_for_all_before_it() {
        let checkpoint = Checkpoint {
            at: ms(900_000),
            served: Millis::new(850_000).unwrap(),
        };
        let alive_lags = served_before_cut(checkpoint, &[span(0, 899_500)], &[]);
        assert_eq!(alive_lags.get(), 850_000);
        let alive_later = served_before_cut(checkpoint, &[span(0, 903_000)], &[]);
        assert_eq!(alive_later.get(), 853_000);
    }

    #[test]
    fn pauses_are_not_served() {
        let checkpoint = Checkpoint {
            at: ms(0),
            served: Millis::ZERO,
        };
        let served = served_before_cut(
            checkpoint,
            &[span(0, 10_000), span(20_000, 30_000)],
            &[span(8_000, 25_000)],
        );
        assert_eq!(served.get(), 8_000 + 5_000);

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

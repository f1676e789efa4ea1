//! What was due, and how late it came. The balance falls for the k-th time k intervals after the
//! session's start, downtime not counted; a fall that never came is infinitely late.
//!
//! The schedule is fixed by the first balance that a watcher gets and never moves, so a server that
//! falls behind can't hide it. It counts from the instant of the start that is recorded, not from when
//! anybody heard of it.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::{
    fleet::{Arrival, Seen, Snapshot},
    hiccup,
};

/// How much before it is due a fall may come: the server's clock has whole milliseconds.
const EARLY_MICROS_MAX: i64 = 1_000;

/// What counts as the coming of a fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The balance right after it, pushed.
    Pushed,
    /// Any balance that shows it, a later one too, and the first after connecting again: for watchers
    /// who were away.
    Shown,
}

/// How a window went.
#[derive(Debug)]
pub struct Score {
    /// How late the falls came that came, in microseconds.
    pub lateness: Histogram<u64>,
    /// How many never came.
    pub missing: u64,
    /// How many came more than once.
    pub doubled: u64,
    /// How many came before they were due.
    pub early: u64,
    /// How late they came by the second in which they were due, in microseconds; missing ones as `None`.
    pub by_second: BTreeMap<i64, Vec<Option<i64>>>,
}

/// When one session's balance falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When fall 0 would be: the start, moved by the downtime. In microseconds since 1970.
    from_micros: i64,
    interval_micros: i64,
    price: i64,
}

impl Schedule {
    /// The schedule of the session in the snapshot.
    pub const fn of(snapshot: &Snapshot) -> Self {
        let falls = snapshot.consumed / snapshot.price;
        let from_ms = snapshot.next_charge_at - (falls + 1) * snapshot.interval_ms;
        Self {
            from_micros: from_ms * 1_000,
            interval_micros: snapshot.interval_ms * 1_000,
            price: snapshot.price,
        }
    }

    /// How much later than its start would say everything of the session is due: its downtime, in
    /// milliseconds.
    pub const fn downtime_ms(self, snapshot: &Snapshot) -> i64 {
        self.from_micros / 1_000 - snapshot.started_at
    }

    /// The numbers of the falls that are due in this time, with when, in microseconds since 1970.
    fn due(self, from_micros: i64, to_micros: i64) -> impl Iterator<Item = (i64, i64)> {
        let before = (from_micros - self.from_micros).max(0) / self.interval_micros;
        (before.max(1)..)
            .map(move |fall| (fall, self.from_micros + fall * self.interval_micros))
            .skip_while(move |(_, due)| *due < from_micros)
            .take_while(move |(_, due)| *due < to_micros)
    }
}

impl Score {
    /// The score of what was due in this time, in microseconds since 1970, to these watchers.
    pub fn of<'s>(
        watchers: impl Iterator<Item = &'s Seen>,
        from_micros: i64,
        to_micros: i64,
        rule: Rule,
    ) -> Self {
        let mut score = Self {
            lateness: hiccup::new_histogram(),
            missing: 0,
            doubled: 0,
            early: 0,
            by_second: BTreeMap::new(),
        };
        for seen in watchers {
            score.take(seen, from_micros, to_micros, rule);
        }
        score
    }

    /// How many falls were due.
    pub fn due(&self) -> u64 {
        self.lateness.len() + self.missing
    }

    /// The lateness that this share of the falls stays within, in microseconds; nothing where it is
    /// infinite.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        quantile(&self.lateness, self.missing, share)
    }

    fn take(&mut self, seen: &Seen, from_micros: i64, to_micros: i64, rule: Rule) {
        let Some(snapshot) = &seen.snapshot else {
            self.missing += 1;
            return;
        };
        let schedule = Schedule::of(snapshot);
        for (fall, due) in schedule.due(from_micros, to_micros) {
            let shows = |arrival: &&Arrival| match rule {
                Rule::Pushed => !arrival.is_first && arrival.consumed == fall * schedule.price,
                Rule::Shown => arrival.consumed >= fall * schedule.price,
            };
            let mut showing = seen.arrivals.iter().filter(shows);
            let late = showing.next().map(|arrival| arrival.at_micros - due);
            if rule == Rule::Pushed && showing.next().is_some() {
                self.doubled += 1;
            }
            self.by_second
                .entry(due / 1_000_000)
                .or_default()
                .push(late);
            match late {
                None => self.missing += 1,
                Some(late) => {
                    if late < -EARLY_MICROS_MAX {
                        self.early += 1;
                    }
                    let late = u64::try_from(late).unwrap_or(0);
                    self.lateness.saturating_record(late);
                }
            }
        }
    }
}

/// The value that this share stays within, where so many more were infinite; nothing where it is
/// infinite itself.
pub fn quantile(histogram: &Histogram<u64>, infinite: u64, share: f64) -> Option<u64> {
    let all = histogram.len() + infinite;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among far fewer than 2^52, from a share between 0 and 1"
    )]
    let rank = ((all as f64) * share).ceil() as u64;
    if rank > histogram.len() || all == 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    let share_of_finite = rank as f64 / histogram.len() as f64;
    Some(histogram.value_at_quantile(share_of_finite))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(arrivals: &[(i64, i64, bool)]) -> Seen {
        let arrival = |(at_micros, consumed, is_first): &(i64, i64, bool)| Arrival {
            at_micros: *at_micros,
            consumed: *consumed,
            is_first: *is_first,
        };
        Seen {
            snapshot: Some(Snapshot::EXAMPLE),
            arrivals: arrivals.iter().map(arrival).collect(),
            ..Seen::default()
        }
    }

    fn score(arrivals: &[(i64, i64, bool)], rule: Rule) -> (Vec<u64>, u64, u64, u64) {
        let seen = seen(arrivals);
        // Falls 3 and 4 are due at 13.5 and 14.5 s.
        let score = Score::of([&seen].into_iter(), 13_000_000, 15_000_000, rule);
        assert_eq!(score.due(), 2);
        let late = score.lateness.iter_recorded();
        let late = late.map(|late| late.value_iterated_to()).collect();
        (late, score.missing, score.doubled, score.early)
    }

    #[test]
    fn the_schedule_follows_from_the_first_balance() {
        let schedule = Schedule::of(&Snapshot::EXAMPLE);
        assert_eq!(schedule.downtime_ms(&Snapshot::EXAMPLE), 500);
        let due: Vec<_> = schedule.due(12_500_000, 14_500_000).collect();
        assert_eq!(due, [(2, 12_500_000), (3, 13_500_000)]);
        let due: Vec<_> = schedule.due(0, 11_500_001).collect();
        assert_eq!(due, [(1, 11_500_000)]);
    }

    #[test]
    fn lateness_counts_from_the_start_whenever_its_reply_came() {
        // Started at 20 s and told of while the second interval ran: there was no downtime.
        let snapshot = Snapshot {
            started_at: 20_000,
            consumed: 2,
            next_charge_at: 22_000,
            ..Snapshot::EXAMPLE
        };
        let schedule = Schedule::of(&snapshot);
        assert_eq!(schedule.downtime_ms(&snapshot), 0);
        let due: Vec<_> = schedule.due(20_500_000, 23_000_001).collect();
        let expected = [(1, 21_000_000), (2, 22_000_000), (3, 23_000_000)];
        assert_eq!(due, expected);
    }

    #[test]
    fn falls_are_late_missing_doubled_or_early() {
        let pushed = |arrivals: &[_]| score(arrivals, Rule::Pushed);
        let (third, fourth) = ((13_500_007, 6, false), (14_500_009, 8, false));
        assert_eq!(pushed(&[third, fourth]), (vec![7, 9], 0, 0, 0));
        assert_eq!(pushed(&[fourth]), (vec![9], 1, 0, 0));
        assert_eq!(pushed(&[third, third, fourth]), (vec![7, 9], 0, 1, 0));
        // The first balance of a connection is no push.
        let first = (13_500_003, 6, true);
        assert_eq!(pushed(&[first, fourth]), (vec![9], 1, 0, 0));
        assert_eq!(pushed(&[first, third, fourth]), (vec![7, 9], 0, 0, 0));
        let early = (13_498_000, 6, false);
        assert_eq!(pushed(&[early, fourth]), (vec![0, 9], 0, 0, 1));
        // The server's clock has whole milliseconds.
        let within = (13_499_500, 6, false);
        assert_eq!(pushed(&[within, fourth]), (vec![0, 9], 0, 0, 0));
    }

    #[test]
    fn who_was_away_is_shown_several_falls_at_once() {
        let shown = |arrivals: &[_]| score(arrivals, Rule::Shown);
        assert_eq!(
            shown(&[(14_500_447, 8, true)]),
            (vec![447, 1_000_447], 0, 0, 0)
        );
        assert_eq!(shown(&[(13_500_009, 6, true)]), (vec![9], 1, 0, 0));
    }

    #[test]
    fn what_never_came_is_infinitely_late() {
        let mut late = hiccup::new_histogram();
        for micros in 1..=90 {
            late.saturating_record(micros);
        }
        assert_eq!(quantile(&late, 0, 0.5), Some(45));
        assert_eq!(quantile(&late, 10, 0.5), Some(50));
        assert_eq!(quantile(&late, 10, 0.9), Some(90));
        assert_eq!(quantile(&late, 10, 0.91), None);
        assert_eq!(quantile(&late, 10, 1.0), None);
        assert_eq!(quantile(&hiccup::new_histogram(), 0, 0.5), None);
    }

    #[test]
    fn a_watcher_without_any_balance_misses_something() {
        let score = Score::of([&Seen::default()].into_iter(), 0, 1, Rule::Pushed);
        assert_eq!(score.missing, 1);
    }
}

//! So much in so much time, for each of many keys: the generic cell rate algorithm (GCRA, ITU-T I.371)
//! in whole numbers, in a table of bounded size.
//!
//! A key owes one share of the window for each time that counted, and pays back as time passes. While it owes
//! less than the whole window, one more may come. So there is no edge of a window to wait for, and one
//! number a key is all there is to keep.
//!
//! Where there are too many keys, the one that owes least is forgotten: whoever comes up with endless
//! keys loses those, and never the one that was tried most.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use schema::{Millis, UnixMillis};

/// How many entries that owe nothing any more are removed with each that comes.
const SWEPT_AT_ONCE: usize = 2;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many times; 0 for any number.
    pub times: u32,
    /// In how much time; more than nothing.
    pub window: Millis,
}

/// Counts for each key how often something happened lately.
#[derive(Debug)]
pub struct Throttle<K> {
    rate: Rate,
    keys_max: usize,
    /// Until when each key owes something, in [units](Self::units).
    owes_until: HashMap<K, i128>,
    /// The same in order.
    order: BTreeSet<(i128, K)>,
}

impl<K: Copy + Eq + Hash + Ord> Throttle<K> {
    /// Nothing has happened yet. There are never more than `keys_max` keys.
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        Self {
            rate,
            keys_max,
            owes_until: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// How long `key` has to wait until it may happen again; nothing if it may now.
    pub fn wait(&self, key: K, now: UnixMillis) -> Option<Millis> {
        let times = i128::from(self.rate.times);
        if times == 0 {
            return None;
        }
        let room = self.window_units();
        let owed = (self.owed_until(key, now) + self.share()) - self.units(now);
        let excess = owed - room;
        if excess <= 0 {
            return None;
        }
        // Rounded up: who comes back then does not come too early.
        let wait = (excess + times - 1) / times;
        let wait = i64::try_from(wait).ok().and_then(|ms| Millis::new(ms).ok());
        Some(wait.unwrap_or(Millis::MAX))
    }

    /// It happened once more for `key`, whether it might or not.
    pub fn count(&mut self, key: K, now: UnixMillis) {
        if self.rate.times == 0 {
            return;
        }
        let until = self.owed_until(key, now) + self.share();
        self.put(key, until);
        self.sweep(now);
    }

    /// One that was counted for `key` did not count after all.
    pub fn take_back(&mut self, key: K) {
        if let Some(until) = self.owes_until.get(&key).copied() {
            self.put(key, until - self.share());
        }
    }

    /// How many keys there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.owes_until.len()
    }

    /// An instant in units of which a millisecond has as many as there are times in a window: so the
    /// share of one time is whole.
    fn units(&self, at: UnixMillis) -> i128 {
        i128::from(at.get()) * i128::from(self.rate.times)
    }

    /// What a key owes for one time.
    fn share(&self) -> i128 {
        i128::from(self.rate.window.get())
    }

    fn window_units(&self) -> i128 {
        self.share() * i128::from(self.rate.times)
    }

    fn owed_until(&self, key: K, now: UnixMillis) -> i128 {
        let now = self.units(now);
        self.owes_until
            .get(&key)
            .map_or(now, |until| now.max(*until))
    }

    fn put(&mut self, key: K, until: i128) {
        if let Some(before) = self.owes_until.insert(key, until) {
            self.order.remove(&(before, key));
        }
        self.order.insert((until, key));
    }

    /// Removes a few that owe nothing, and while there are too many the one that owes least.
    fn sweep(&mut self, now: UnixMillis) {
        let now = self.units(now);
        for _ in 0..SWEPT_AT_ONCE {
            let owes_nothing = self.order.first().is_some_and(|(until, _)| *until <= now);
            if owes_nothing || self.order.len() > self.keys_max {
                self.remove_first();
            }
        }
    }

    fn remove_first(&mut self) {
        if let Some((_, key)) = self.order.pop_first() {
            self.owes_until.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_123;

    /// When it is tried, and how long to wait then; it counts where that is nothing.
    type Course = &'static [(i64, i64)];

    fn at(offset: i64) -> UnixMillis {
        UnixMillis::new(NOW + offset).unwrap()
    }

    fn throttle(times: u32, window_ms: i64, keys_max: usize) -> Throttle<u8> {
        let window = Millis::new(window_ms).unwrap();
        Throttle::new(Rate { times, window }, keys_max)
    }

    #[test]
    fn so_many_may_come_in_a_window() {
        let table: [(&str, u32, i64, Course); 6] = [
            (
                "one a second",
                1,
                1_000,
                &[(0, 0), (0, 1_000), (999, 1), (1_000, 0), (1_000, 1_000)],
            ),
            (
                "three at once",
                3,
                3_000,
                &[
                    (0, 0),
                    (0, 0),
                    (0, 0),
                    (0, 1_000),
                    (999, 1),
                    (1_000, 0),
                    (1_000, 1_000),
                ],
            ),
            (
                "spread out",
                2,
                1_000,
                &[
                    (0, 0),
                    (500, 0),
                    (500, 0),
                    (500, 500),
                    (1_000, 0),
                    (5_000, 0),
                    (5_000, 0),
                    (5_000, 500),
                ],
            ),
            (
                "a share that is no whole number",
                3,
                1_000,
                &[
                    (0, 0),
                    (0, 0),
                    (0, 0),
                    (0, 334),
                    (333, 1),
                    (334, 0),
                    (334, 333),
                    (667, 0),
                    (667, 333),
                ],
            ),
            (
                "more than milliseconds",
                5,
                2,
                &[
                    (0, 0),
                    (0, 0),
                    (0, 0),
                    (0, 0),
                    (0, 0),
                    (0, 1),
                    (1, 0),
                    (1, 0),
                    (1, 1),
                ],
            ),
            ("any number", 0, 1_000, &[(0, 0), (0, 0), (0, 0)]),
        ];
        for (what, times, window, course) in table {
            let mut throttle = throttle(times, window, 10);
            for (step, (when, wait)) in course.iter().enumerate() {
                let told = throttle.wait(1, at(*when));
                assert_eq!(told.map_or(0, Millis::get), *wait, "{what}, step {step}");
                if told.is_none() {
                    throttle.count(1, at(*when));
                }
                assert_eq!(throttle.wait(2, at(*when)), None, "{what}: others go free");
            }
        }
    }

    #[test]
    fn what_is_taken_back_did_not_count() {
        let mut throttle = throttle(2, 1_000, 10);
        throttle.count(1, at(0));
        throttle.count(1, at(0));
        assert!(throttle.wait(1, at(0)).is_some());
        throttle.take_back(1);
        assert_eq!(throttle.wait(1, at(0)), None);
        throttle.count(1, at(0));
        assert!(throttle.wait(1, at(0)).is_some());
        // What is paid off already gives no credit for later.
        throttle.take_back(1);
        throttle.take_back(1);
        throttle.take_back(1);
        throttle.take_back(2);
        throttle.count(1, at(1));
        throttle.count(1, at(1));
        assert!(throttle.wait(1, at(1)).is_some());
    }

    #[test]
    fn endless_keys_don_t_push_out_the_one_that_was_tried_most() {
        let mut throttle = throttle(3, 60_000, 4);
        for _ in 0..3 {
            throttle.count(0, at(0));
        }
        for key in 1..=200 {
            throttle.count(key, at(i64::from(key)));
            assert!(throttle.len() <= 4);
        }
        assert!(throttle.wait(0, at(200)).is_some());
    }

    #[test]
    fn what_owes_nothing_is_forgotten() {
        let mut throttle = throttle(3, 3_000, 100);
        for key in 0..100 {
            throttle.count(key, at(0));
        }
        assert_eq!(throttle.len(), 100);
        for _ in 0..60 {
            throttle.count(200, at(1_000));
        }
        assert_eq!(throttle.len(), 1);
        assert_eq!(throttle.order.len(), 1);
    }
}

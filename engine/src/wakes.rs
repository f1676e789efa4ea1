//! Who is to be woken when: an ordered map from instants, from which any entry can be taken at once.
//!
//! A timing wheel takes and gives in constant time, but its entries can only run out, or have to be
//! told apart from others that took their places. Here an entry goes the moment its owner does; a
//! million of them take about 40 MB, and a microsecond each to put in and take out.

use std::collections::BTreeMap;

use schema::UnixMillis;

/// Tells owners apart whose instants are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WakeNumber(u64);

impl WakeNumber {
    /// The number `number`.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Wakes<T> {
    by_instant: BTreeMap<(UnixMillis, WakeNumber), T>,
}

impl<T> Default for Wakes<T> {
    fn default() -> Self {
        Self {
            by_instant: BTreeMap::new(),
        }
    }
}

impl<T> Wakes<T> {
    /// Wakes `owner` at `at`. Returns whether nobody is to be woken before.
    pub fn insert(&mut self, at: UnixMillis, number: WakeNumber, owner: T) -> bool {
        self.by_instant.insert((at, number), owner);
        self.by_instant.keys().next() == Some(&(at, number))
    }

    /// Wakes the owner of `number` no more at `at`.
    pub fn remove(&mut self, at: UnixMillis, number: WakeNumber) {
        self.by_instant.remove(&(at, number));
    }

    /// Takes out up to `max` of those who are to be woken at `now` or before, the earliest first.
    pub fn take_due(&mut self, now: UnixMillis, max: usize) -> Vec<(UnixMillis, T)> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some(first) = self.by_instant.first_entry()
            && first.key().0 <= now
        {
            let ((at, _), owner) = first.remove_entry();
            due.push((at, owner));
        }
        due
    }

    /// When the next one is to be woken.
    pub fn next_at(&self) -> Option<UnixMillis> {
        self.by_instant.keys().next().map(|(at, _)| *at)
    }

    /// How many are to be woken.
    pub fn len(&self) -> usize {
        self.by_instant.len()
    }

    /// Whether nobody is to be woken.
    pub fn is_empty(&self) -> bool {
        self.by_instant.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    #[test]
    fn the_earliest_come_first_and_no_sooner_than_they_are_due() {
        let mut wakes = Wakes::default();
        let number = WakeNumber::new;
        assert!(wakes.insert(at(20), number(1), 'b'));
        assert!(!wakes.insert(at(20), number(2), 'c'));
        assert!(!wakes.insert(at(30), number(3), 'd'));
        assert!(wakes.insert(at(10), number(4), 'a'));
        assert!(!wakes.insert(at(25), number(5), 'x'));
        wakes.remove(at(25), number(5));
        wakes.remove(at(26), number(5));

        assert_eq!((wakes.len(), wakes.next_at()), (4, Some(at(10))));
        assert_eq!(wakes.take_due(at(9), 10), []);
        assert_eq!(wakes.take_due(at(20), 2), [(at(10), 'a'), (at(20), 'b')]);
        assert_eq!(wakes.take_due(at(20), 2), [(at(20), 'c')]);
        assert_eq!(wakes.take_due(at(99), 2), [(at(30), 'd')]);
        assert!(wakes.is_empty() && wakes.next_at().is_none());
    }
}

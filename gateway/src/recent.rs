//! A bounded memory of what was used of late.
//!
//! It has two generations: what is put in or used again is in the young one; when that is full, it
//! becomes the old one, and what was in there is forgotten. So every step is a lookup or two, and
//! nothing is kept for long that nobody uses.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, mem};

/// See the module's documentation.
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// How many a generation has at most.
    generation_max: usize,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    /// Keeps at least the `max / 2` that were used last, and `max` at most.
    pub fn new(max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: max.div_ceil(2),
        }
    }

    /// The value of `key`, if it is still known.
    pub fn get<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, value.clone());
        Some(value)
    }

    /// Keeps `value`, in place of an earlier one.
    pub fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation_max {
            self.old = mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Forgets the value of `key`.
    pub fn forget<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.young = HashMap::new();
        self.old = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut recent = Recent::new(4);
        for number in 0..100 {
            recent.put(number, number);
            assert_eq!(recent.get(&0), Some(0), "{number}");
            assert!(recent.young.len() + recent.old.len() <= 4, "{number}");
        }
        assert_eq!((recent.get(&99), recent.get(&90)), (Some(99), None));
        recent.put(99, 7);
        assert_eq!(recent.get(&99), Some(7));
        recent.forget(&99);
        assert_eq!(recent.get(&99), None);
        recent.clear();
        assert_eq!(recent.get(&0), None);
    }
}

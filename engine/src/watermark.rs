//! The instant up to which everything that callers asked for is recorded.
//!
//! A start or a stop is stamped with the time at which it was taken, and the stamp is held until the
//! fact is durable or refused. `alive_at` may then be set to any instant before all held stamps: a
//! crash after that loses no fact that the alive time would count against the customer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use schema::{Millis, UnixMillis};

use crate::clock::Clock;

/// Hands out stamps and knows the oldest that is held. Clones share it.
#[derive(Clone, Debug)]
pub struct Watermark {
    clock: Clock,
    /// How many stamps are held at each instant.
    held: Arc<Mutex<BTreeMap<UnixMillis, u32>>>,
}

/// The time at which something was asked for, held until it is recorded: drop it then.
#[derive(Debug)]
pub struct Stamp {
    at: UnixMillis,
    watermark: Watermark,
}

impl Watermark {
    /// A watermark that stamps with `clock`.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            held: Arc::default(),
        }
    }

    /// Stamps something with the time now.
    pub fn stamp(&self) -> Stamp {
        // Reading the clock inside the lock: no stamp can be older than a reached instant.
        let mut held = self.lock();
        let at = self.clock.now();
        *held.entry(at).or_default() += 1;
        drop(held);
        Stamp {
            at,
            watermark: self.clone(),
        }
    }

    /// The latest instant before which nothing that was stamped is still to be recorded.
    pub fn reached(&self) -> UnixMillis {
        let held = self.lock();
        let now = self.clock.now();
        let one = Millis::new(1).unwrap_or(Millis::ZERO);
        held.keys()
            .next()
            .map_or(now, |oldest| oldest.saturating_sub(one).min(now))
    }

    /// The map is valid after any panic: each change of it is a single step.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UnixMillis, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    /// The instant it holds.
    pub const fn at(&self) -> UnixMillis {
        self.at
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        let mut held = self.watermark.lock();
        if let Some(count) = held.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_held_stamp_holds_it_back() {
        let watermark = Watermark::new(Clock::start_at(UnixMillis::new(1_000).unwrap()));
        assert_eq!(watermark.reached().get(), 1_000);
        let (first, twin) = (watermark.stamp(), watermark.stamp());
        tokio::time::advance(Duration::from_millis(5)).await;
        let second = watermark.stamp();
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_eq!((first.at().get(), second.at().get()), (1_000, 1_005));
        assert_eq!(watermark.reached().get(), 999);
        drop(first);
        assert_eq!(watermark.reached().get(), 999);
        drop(twin);
        assert_eq!(watermark.reached().get(), 1_004);
        drop(second);
        assert_eq!(watermark.reached().get(), 1_010);
    }
}

//! The instant up to which everything that callers asked for is recorded.
//!
//! A start or a stop is stamped with the time at which it was taken, and the stamp is held until the
//! fact is durable or refused. `alive_at` may then be set to any instant before all held stamps: a
//! crash after that loses no fact that the alive time would count against the customer.
//!
//! While time stands still nothing is served, so a stamp holds nothing back then: what it dates
//! counts from the instant up to which everything was served.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use schema::{Millis, UnixMillis};

use crate::timeline::{Moment, Timeline};

/// The time from one instant to the next.
const TICK: Millis = Millis::literal(1);

/// Hands out stamps and knows the oldest that is held. Clones share it.
#[derive(Clone, Debug)]
pub struct Watermark {
    timeline: Timeline,
    /// How many stamps are held at each instant.
    held: Arc<Mutex<BTreeMap<UnixMillis, u32>>>,
}

/// The time at which something was asked for, held until it is recorded: drop it then.
#[derive(Debug)]
pub struct Stamp {
    moment: Moment,
    /// Where it is held, if it is.
    watermark: Option<Watermark>,
}

impl Watermark {
    /// A watermark that stamps with the time of `timeline`.
    pub fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            held: Arc::default(),
        }
    }

    /// Stamps something with the time now.
    pub fn stamp(&self) -> Stamp {
        // Reading the time inside the lock: no stamp can be older than a reached instant.
        let mut held = self.lock();
        let moment = self.timeline.moment();
        if moment.is_serving {
            *held.entry(moment.at).or_default() += 1;
        }
        drop(held);
        Stamp {
            moment,
            watermark: moment.is_serving.then(|| self.clone()),
        }
    }

    /// Whether everything that was stamped is recorded.
    pub fn is_clear(&self) -> bool {
        self.lock().is_empty()
    }

    /// The latest instant before which nothing that was stamped is still to be recorded.
    pub fn reached(&self) -> UnixMillis {
        let held = self.lock();
        let now = self.timeline.now();
        let before = |oldest: &UnixMillis| oldest.saturating_sub(TICK).min(now);
        held.keys().next().map_or(now, before)
    }

    /// The map is valid after any panic: each change of it is a single step.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UnixMillis, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    /// The time that it was made.
    pub const fn moment(&self) -> Moment {
        self.moment
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        let Some(watermark) = &self.watermark else {
            return;
        };
        let mut held = watermark.lock();
        if let Some(count) = held.get_mut(&self.moment.at) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.moment.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use billing::Takeover;

    use super::*;
    use crate::{
        clock::Clock,
        facts::{NodeName, NodeRun, ProcessId},
    };

    #[tokio::test(start_paused = true)]
    async fn the_oldest_held_stamp_holds_it_back() {
        let begin = UnixMillis::new(1_000).unwrap();
        let run = NodeRun {
            node: NodeName::new("a").unwrap(),
            epoch: 1,
            process: ProcessId::random(),
            started_at: begin,
            takeover: Takeover::Resume,
        };
        let timeline = Timeline::new(Clock::start_at(begin), run, Vec::new());
        let watermark = Watermark::new(timeline.clone());
        assert_eq!(watermark.reached().get(), 1_000);
        let (first, twin) = (watermark.stamp(), watermark.stamp());
        tokio::time::advance(Duration::from_millis(5)).await;
        let second = watermark.stamp();
        tokio::time::advance(Duration::from_millis(5)).await;
        let instants = [&first, &second].map(|stamp| stamp.moment().at.get());
        assert_eq!(instants, [1_000, 1_005]);
        assert_eq!(watermark.reached().get(), 999);
        drop(first);
        assert_eq!(watermark.reached().get(), 999);
        drop(twin);
        assert_eq!(watermark.reached().get(), 1_004);
        drop(second);
        assert_eq!(watermark.reached().get(), 1_010);

        timeline.halt();
        let halted = watermark.stamp();
        assert_eq!(halted.moment().at.get(), 1_010);
        assert!(watermark.is_clear(), "nothing is served meanwhile");
    }
}

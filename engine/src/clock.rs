//! Time: the only place that reads a clock (law 11).
//!
//! The wall clock is read once, at start-up; from then on time is monotonic, so a step of the wall
//! clock changes no charge. It never starts before what is recorded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use schema::{Millis, UnixMillis};
use tokio::time::Instant;

/// How far the wall clock may be behind the recorded instants: 24 hours.
const BEHIND_MAX: Millis = match Millis::new(24 * 3_600_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// Why the clock can't be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// The wall clock is more than 24 h behind what is recorded.
    #[error(
        "the wall clock reads {wall} ms since 1970 but the database holds instants up to {latest}: set the clock right"
    )]
    Behind {
        /// What the wall clock says.
        wall: UnixMillis,
        /// The greatest instant recorded.
        latest: UnixMillis,
    },
    /// The wall clock is before 1970 or past the end of time.
    #[error("the wall clock is before 1970 or absurdly far ahead: set the clock right")]
    Absurd,
}

/// A monotonic clock in whole milliseconds since 1970. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The monotonic instant that is `base_ms`.
    origin: Instant,
    base_ms: Arc<AtomicI64>,
}

impl Clock {
    /// A clock that starts at the wall clock's time, or right after `latest`, the greatest instant
    /// recorded, where that is later.
    pub fn start(latest: Option<UnixMillis>) -> Result<Self, ClockError> {
        Self::start_from(wall_clock()?, latest)
    }

    /// A clock that starts at `wall`, what a wall clock says, by the same rule.
    pub fn start_from(wall: UnixMillis, latest: Option<UnixMillis>) -> Result<Self, ClockError> {
        let Some(latest) = latest else {
            return Ok(Self::start_at(wall));
        };
        if latest.since(wall) > BEHIND_MAX {
            return Err(ClockError::Behind { wall, latest });
        }
        Ok(Self::start_at(
            wall.max(UnixMillis::new(latest.get() + 1).unwrap_or(latest)),
        ))
    }

    /// A clock that starts at `base`: for tests on tokio's paused time.
    pub fn start_at(base: UnixMillis) -> Self {
        Self {
            origin: Instant::now(),
            base_ms: Arc::new(AtomicI64::new(base.get())),
        }
    }

    /// The time now.
    pub fn now(&self) -> UnixMillis {
        let elapsed = i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX);
        let now = self.base_ms.load(Ordering::Relaxed).saturating_add(elapsed);
        UnixMillis::new(now).unwrap_or(UnixMillis::MAX)
    }

    /// Makes the time at least `instant` from now on.
    pub fn raise_to(&self, instant: UnixMillis) {
        let behind = instant.since(self.now());
        self.base_ms.fetch_add(behind.get(), Ordering::Relaxed);
    }

    /// The monotonic instant at which this clock will read `at`; now, where that is over.
    pub fn instant_of(&self, at: UnixMillis) -> Instant {
        // From the origin, not from now: the clock's reading is up to a millisecond behind it.
        let after = at.get() - self.base_ms.load(Ordering::Relaxed);
        let after = Duration::from_millis(u64::try_from(after).unwrap_or(0));
        (self.origin + after).max(Instant::now())
    }
}

/// What the wall clock says.
fn wall_clock() -> Result<UnixMillis, ClockError> {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = since_1970.map_err(|_| ClockError::Absurd)?.as_millis();
    i64::try_from(millis)
        .ok()
        .and_then(|millis| UnixMillis::new(millis).ok())
        .ok_or(ClockError::Absurd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_monotonic_and_never_before_the_data() {
        let wall = wall_clock().unwrap();
        let ahead = ms(wall.get() + 3_600_000);
        let clock = Clock::start(Some(ahead)).unwrap();
        assert_eq!(clock.now(), ms(ahead.get() + 1));
        tokio::time::advance(std::time::Duration::from_millis(250)).await;
        assert_eq!(clock.now(), ms(ahead.get() + 251));
        clock.raise_to(ms(ahead.get() + 1_000));
        clock.raise_to(ahead);
        assert_eq!(clock.now(), ms(ahead.get() + 1_000));
    }

    #[tokio::test]
    async fn a_clock_a_day_behind_the_data_is_refused() {
        let latest = ms(wall_clock().unwrap().get() + 25 * 3_600_000);
        assert!(
            matches!(Clock::start(Some(latest)), Err(ClockError::Behind { latest: told, .. }) if told == latest)
        );
    }
}

//! The harness's own time: monotonic, and independent of every clock of the server's.

use std::time::{Duration, Instant};

use serde::Serialize;

/// An instant: microseconds since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Moment(u64);

impl Moment {
    /// Later than every instant of a run.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `micros` after the run began.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The microseconds since the run began.
    pub const fn micros(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06} s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Tells the time of a run. Copies tell the same.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
}

impl Stopwatch {
    /// A run that begins now.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    /// The time now.
    pub fn now(self) -> Moment {
        Moment(u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// How long the run has lasted.
    pub fn elapsed(self) -> Duration {
        self.began.elapsed()
    }
}

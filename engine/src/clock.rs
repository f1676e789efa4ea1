//! Time: the only place that reads a clock (law 11).
//!
//! The wall clock is read once, at start-up; from then on time is monotonic, so a step of the wall
//! clock changes no charge. It never starts before what is recorded.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use schema::{Millis, UnixMillis};
use tokio::time::Instant;

use crate::facts::NodeTime;

/// The time from one instant to the next.
const TICK: Millis = Millis::literal(1);

/// How far the wall clock may be behind what the node's runs have recorded, beyond what it was known to
/// be behind: 24 hours.
const BEHIND_MAX: Millis = Millis::literal(24 * 3_600_000);

/// The last instant that a clock starts at. It leaves no process time to come to the end of all instants.
const START_MAX: UnixMillis = UnixMillis::literal(1 << 52);

/// Why the clock can't be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// The wall clock is more than 24 h behind what the node's runs have recorded.
    #[error(
        "the wall clock is {} h behind this node's records, which go up to {latest} ms since 1970. If the \
         clock is wrong, set it right. If it is right, it was wrong when this was recorded: run \
         `minute-credit restored`, and times go on from there",
        latest.since(*wall).get() / 3_600_000
    )]
    Behind {
        /// What the wall clock says.
        wall: UnixMillis,
        /// The greatest instant that the node has recorded.
        latest: UnixMillis,
    },
    /// The wall clock is before 1970 or past the end of time.
    #[error("the wall clock is before 1970 or absurdly far ahead: set the clock right")]
    Absurd,
}

/// What a clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The time.
    pub at: UnixMillis,
    /// How far it is ahead of the wall clock that the process started with.
    pub lead: Millis,
}

/// Of a clock that is not ahead of the wall clock.
impl From<UnixMillis> for ClockReading {
    fn from(at: UnixMillis) -> Self {
        let lead = Millis::ZERO;
        Self { at, lead }
    }
}

/// A monotonic clock in whole milliseconds since 1970. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The monotonic instant that is `base_ms`.
    origin: Instant,
    base_ms: Arc<AtomicI64>,
    /// What the wall clock said at `origin`.
    wall: UnixMillis,
}

impl Clock {
    /// The clock of a process that serves. It starts at the wall clock's time, or right after what the
    /// node's own runs have recorded where that is later; what other nodes and writers recorded moves it
    /// nowhere.
    pub fn start(recorded: Option<NodeTime>) -> Result<Self, ClockError> {
        Self::start_from(wall_clock()?, recorded)
    }

    /// A clock that starts at `wall`, what a wall clock says, by the same rule.
    pub fn start_from(wall: UnixMillis, recorded: Option<NodeTime>) -> Result<Self, ClockError> {
        if let Some(NodeTime { latest, lead }) = recorded
            && latest.since(wall).saturating_sub(lead) > BEHIND_MAX
        {
            return Err(ClockError::Behind { wall, latest });
        }
        Self::starting(wall, recorded)
    }

    /// The clock of a command, which serves nobody: it never refuses for being behind.
    pub fn of_command(recorded: Option<NodeTime>) -> Result<Self, ClockError> {
        Self::starting(wall_clock()?, recorded)
    }

    fn starting(wall: UnixMillis, recorded: Option<NodeTime>) -> Result<Self, ClockError> {
        let after = recorded.map_or(Some(wall), |recorded| recorded.latest.checked_add(TICK));
        let base = after.map(|after| wall.max(after));
        let base = base.filter(|base| *base <= START_MAX);
        Ok(Self {
            wall,
            ..Self::start_at(base.ok_or(ClockError::Absurd)?)
        })
    }

    /// A clock that starts at `base`: for tests on tokio's paused time.
    pub fn start_at(base: UnixMillis) -> Self {
        Self {
            origin: Instant::now(),
            base_ms: Arc::new(AtomicI64::new(base.get())),
            wall: base,
        }
    }

    /// The time now.
    pub fn now(&self) -> UnixMillis {
        instant(self.base_ms.load(Ordering::Relaxed) + self.elapsed_ms())
    }

    /// The time now, with how far it is ahead.
    pub fn reading(&self) -> ClockReading {
        ClockReading {
            at: self.now(),
            lead: self.lead(),
        }
    }

    /// How far the time is ahead of the wall clock that the process started with: it began after what
    /// the node had recorded, by a clock that was ahead.
    pub fn lead(&self) -> Millis {
        instant(self.base_ms.load(Ordering::Relaxed)).since(self.wall)
    }

    /// What the wall clock would say now if it had not been set since the process started.
    pub fn wall(&self) -> UnixMillis {
        instant(self.wall.get() + self.elapsed_ms())
    }

    fn elapsed_ms(&self) -> i64 {
        let Ok(elapsed) = i64::try_from(self.origin.elapsed().as_millis()) else {
            unreachable!("no process runs for 292 million years");
        };
        elapsed
    }

    /// Makes the time at least `instant` from now on.
    pub fn raise_to(&self, instant: UnixMillis) {
        let behind = instant.since(self.now());
        self.base_ms.fetch_add(behind.get(), Ordering::Relaxed);
    }

    /// The monotonic instant at which this clock will read `at`; now, where that is over.
    pub fn instant_of(&self, at: UnixMillis) -> Instant {
        // From the origin, not from now: the clock's reading is up to a millisecond behind it.
        let after = at.since(instant(self.base_ms.load(Ordering::Relaxed)));
        (self.origin + after.to_duration()).max(Instant::now())
    }
}

/// The instant `millis` after 1970. [`START_MAX`] keeps the time from coming to the end of all instants;
/// past it no charge may follow from any.
fn instant(millis: i64) -> UnixMillis {
    match UnixMillis::new(millis) {
        Ok(instant) => instant,
        Err(error) => panic!("the time is no instant: {error}"),
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

    fn recorded(latest: UnixMillis) -> NodeTime {
        let lead = Millis::ZERO;
        NodeTime { latest, lead }
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_monotonic_and_never_before_the_data() {
        let wall = wall_clock().unwrap();
        let ahead = ms(wall.get() + 3_600_000);
        let clock = Clock::start(Some(recorded(ahead))).unwrap();
        assert_eq!(clock.now(), ms(ahead.get() + 1));
        tokio::time::advance(std::time::Duration::from_millis(250)).await;
        assert_eq!(clock.now(), ms(ahead.get() + 251));
        clock.raise_to(ms(ahead.get() + 1_000));
        clock.raise_to(ahead);
        assert_eq!(clock.now(), ms(ahead.get() + 1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_a_day_behind_its_node_is_refused_unless_that_is_known() {
        const DAY: i64 = 24 * 3_600_000;
        let check = |behind: i64, known: i64, lead: Option<i64>| {
            let wall = ms(1_700_000_000_000);
            let recorded = NodeTime {
                latest: ms(wall.get() + behind),
                lead: Millis::new(known).unwrap(),
            };
            let started = Clock::start_from(wall, Some(recorded));
            let found = started.map(|clock| clock.lead().get()).ok();
            assert_eq!(found, lead, "{behind} ms behind, {known} ms known");
        };
        check(-5, 0, Some(0));
        check(0, 0, Some(1));
        check(DAY, 0, Some(DAY + 1));
        check(DAY + 1, 0, None);
        check(DAY + 1, 1, Some(DAY + 2));
        check(3 * DAY, 3 * DAY, Some(3 * DAY + 1));
        check(4 * DAY + 1, 3 * DAY, None);
        let recorded = recorded(ms(wall_clock().unwrap().get() + 3 * DAY));
        let told = Clock::start(Some(recorded)).unwrap_err().to_string();
        assert!(
            told.contains("72 h behind") || told.contains("71 h behind"),
            "{told}"
        );
        assert!(told.contains("minute-credit restored"), "{told}");
        let of_command = Clock::of_command(Some(recorded)).unwrap();
        assert!(
            of_command.now() > recorded.latest,
            "a command refuses nobody"
        );
    }
}

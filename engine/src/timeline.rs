//! The engine's time: what the clock says while a run of our node lasts, and standing still between
//! two runs (law 8).
//!
//! Time stands still when the process was suspended, or when its database has been away for longer
//! than the grace. Whoever then reads the time gets the instant at which the run ended, so that
//! nothing can be decided about time in which nothing was served. Time goes on when the next run is
//! recorded; sessions learn of the cut in between when they next read the time, before they use it.
//!
//! A suspension is found by the first reading after it, whoever reads: were it left to a timer of
//! its own, sessions could wake before it and be charged for the time that they slept.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use billing::Run;
use schema::UnixMillis;

use crate::{clock::Clock, facts::NodeRun};

/// A process that has not read the time for longer was suspended: 10 s. It reads it every second.
const SUSPENDED_AFTER_MS: i64 = 10_000;

/// The time. Clones share it.
#[derive(Clone, Debug)]
pub struct Timeline {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    /// The latest instant that was told, in ms; its complement while time stands still at it.
    latest: AtomicI64,
    /// How many runs there are.
    count: AtomicUsize,
    runs: RwLock<Runs>,
}

/// The runs of our node.
#[derive(Clone, Debug)]
pub struct Runs {
    /// The one that lasts, or was the last to.
    pub current: NodeRun,
    /// All that may have served a live session, in order, the current one at the end.
    pub all: Arc<[Run]>,
}

/// An instant, and how many runs had begun by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The instant.
    pub at: UnixMillis,
    /// How many of [`Runs::all`] had begun: a session that knows fewer has to catch up first.
    pub runs: usize,
    /// Whether time went on then.
    pub is_serving: bool,
}

impl Timeline {
    /// The time from the start of `run` on, after `earlier` runs.
    pub fn new(clock: Clock, run: NodeRun, mut earlier: Vec<Run>) -> Self {
        clock.raise_to(run.started_at);
        let latest = AtomicI64::new(clock.now().get());
        earlier.push(run.lasting());
        let count = AtomicUsize::new(earlier.len());
        let runs = RwLock::new(Runs {
            current: run,
            all: earlier.into(),
        });
        Self {
            shared: Arc::new(Shared {
                clock,
                latest,
                count,
                runs,
            }),
        }
    }

    /// The time.
    pub fn now(&self) -> UnixMillis {
        self.read().0
    }

    /// The time, and whether it goes on.
    fn read(&self) -> (UnixMillis, bool) {
        let shared = &self.shared;
        let mut latest = shared.latest.load(Ordering::Acquire);
        loop {
            if latest < 0 {
                return (instant(!latest), false);
            }
            let now = shared.clock.now().get();
            if now <= latest {
                return (instant(latest), true);
            }
            let is_suspended = now - latest > SUSPENDED_AFTER_MS;
            let next = if is_suspended { !latest } else { now };
            let exchanged = shared.latest.compare_exchange_weak(
                latest,
                next,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match exchanged {
                Ok(_) if is_suspended => {
                    tracing::warn!(
                        late_ms = now - latest,
                        "the process was suspended: sessions stand still until the next run"
                    );
                    return (instant(latest), false);
                }
                Ok(_) => return (instant(now), true),
                Err(changed) => latest = changed,
            }
        }
    }

    /// The time, with the number of runs that one who decides by it has to know.
    pub fn moment(&self) -> Moment {
        // In this order: time goes on after the number has been raised.
        let (at, is_serving) = self.read();
        let runs = self.shared.count.load(Ordering::Acquire);
        Moment {
            at,
            runs,
            is_serving,
        }
    }

    /// Since when time has been standing still, if it does.
    pub fn halted_at(&self) -> Option<UnixMillis> {
        let (at, is_serving) = self.read();
        (!is_serving).then_some(at)
    }

    /// Whether sessions are being served.
    pub fn is_serving(&self) -> bool {
        self.halted_at().is_none()
    }

    /// Lets time stand still from now on.
    pub fn halt(&self) {
        self.now();
        let halt = |latest: i64| (latest >= 0).then_some(!latest);
        // It fails where time stands still already.
        let _halted = self
            .shared
            .latest
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, halt);
    }

    /// Lets time go on in `run`, from its start; time must stand still.
    pub fn resume(&self, run: NodeRun) {
        let Some(cut) = self.halted_at() else {
            tracing::error!("a run began while another one lasted");
            return;
        };
        let shared = &self.shared;
        shared.clock.raise_to(run.started_at);
        let mut runs = shared.runs.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = runs.all.to_vec();
        if let Some(last) = all.last_mut() {
            last.to = cut;
        }
        all.push(run.lasting());
        shared.count.store(all.len(), Ordering::Release);
        *runs = Runs {
            current: run,
            all: all.into(),
        };
        let now = shared.clock.now().get();
        shared.latest.store(now, Ordering::Release);
    }

    /// The runs. While time stands still the last of them ends where it does: a wallet that is read
    /// then may know of changes of later instants, and must not have been served up to them.
    pub fn runs(&self) -> Runs {
        let runs = self.shared.runs.read();
        let runs = runs.unwrap_or_else(PoisonError::into_inner);
        let Some(cut) = self.halted_at() else {
            return runs.clone();
        };
        let mut all = runs.all.to_vec();
        if let Some(last) = all.last_mut() {
            last.to = cut;
        }
        Runs {
            current: runs.current.clone(),
            all: all.into(),
        }
    }

    /// The time, with the runs that it lies in.
    pub fn now_and_runs(&self) -> (UnixMillis, Runs) {
        // In this order: where time goes on in between, it has not come further than the runs say.
        let now = self.now();
        (now, self.runs())
    }

    /// The clock, which never stands still: for what is no session's.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }
}

/// What `latest` holds is an instant that the clock told, or its complement.
fn instant(millis: i64) -> UnixMillis {
    match UnixMillis::new(millis) {
        Ok(instant) => instant,
        Err(error) => panic!("the time is no instant: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use billing::Takeover;
    use tokio::time::advance;

    use super::*;
    use crate::facts::{NodeName, ProcessId};

    fn run(epoch: i64, started_at: i64) -> NodeRun {
        NodeRun {
            node: NodeName::new("a").unwrap(),
            epoch,
            process: ProcessId::random(),
            started_at: instant(started_at),
            takeover: Takeover::Resume,
        }
    }

    fn timeline() -> Timeline {
        Timeline::new(Clock::start_at(instant(1_000)), run(1, 1_000), Vec::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspension_shows_to_the_first_reading_after_it() {
        let timeline = timeline();
        advance(Duration::from_secs(10)).await;
        assert_eq!(timeline.now(), instant(11_000), "late, but not too late");
        advance(Duration::from_millis(10_001)).await;
        assert_eq!(timeline.now(), instant(11_000));
        advance(Duration::from_mins(1)).await;
        assert_eq!(timeline.halted_at(), Some(instant(11_000)));

        timeline.resume(run(2, 81_000));
        let moment = timeline.moment();
        assert_eq!((moment.at, moment.runs), (instant(81_001), 2));
        let runs = timeline.runs();
        let spans: Vec<_> = runs.all.iter().map(|run| (run.from, run.to)).collect();
        let expected = [
            (instant(1_000), instant(11_000)),
            (instant(81_000), UnixMillis::MAX),
        ];
        assert_eq!((spans.as_slice(), runs.current.epoch), (&expected[..], 2));
    }

    #[tokio::test(start_paused = true)]
    async fn it_stands_still_until_the_next_run() {
        let timeline = timeline();
        advance(Duration::from_secs(5)).await;
        timeline.halt();
        advance(Duration::from_secs(5)).await;
        timeline.halt();
        assert_eq!(timeline.halted_at(), Some(instant(6_000)));
        assert_eq!(timeline.moment().runs, 1);
        // A run that begins ahead of the clock takes it along.
        timeline.resume(run(2, 12_500));
        assert_eq!(
            (timeline.now(), timeline.halted_at()),
            (instant(12_500), None)
        );
    }
}

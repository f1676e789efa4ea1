//! What befalls the server: each round lets it work for a while, then strikes, then sees it recover.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use tokio::time::{Instant, sleep};

use crate::{
    history::{Operation, Outcome, Recorder, Request},
    moment::Moment,
    options::{Faults, Options, Store},
    processes::Processes,
    proxy::{Proxy, Weather},
    server::Log,
};

/// Longer than the ten seconds after which a process counts as having been down.
const SUSPENSION: Duration = Duration::from_millis(11_500);
/// How long it may take after an outage until everything works again, on a busy machine.
const RECOVERY: Duration = Duration::from_mins(1);
/// Among how many of the latest operations it is looked whether everything works again.
const LATEST: usize = 1_000;
/// Files that may not grow beyond this can take nothing: the database's log is longer.
const FULL_BYTES: u64 = 4_096;
/// What was sent before the disk was full may still be answered so much later.
const IN_FLIGHT: Duration = Duration::from_millis(250);

/// A strike that ends a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// SIGKILL.
    Kill,
    /// SIGKILL, and once more while the next process starts up.
    KillTwice,
    /// SIGTERM.
    Terminate,
    /// Another process is started under the same node's name.
    TakeOver,
    /// SIGSTOP, and SIGCONT long after.
    Suspend,
    /// Connections to the database are cut off when a COMMIT was done, before its reply.
    CutAfterCommit,
    /// Connections to the database are cut off instead of carrying a COMMIT.
    CutBeforeCommit,
    /// All that goes to and from the database is late.
    Slow,
    /// The database takes everything and answers nothing.
    BlackHole,
    /// The database can't be reached.
    Down,
    /// All connections to the database break once.
    Reset,
    /// Redis is late, silent or gone.
    Redis,
    /// The disk is full.
    DiskFull,
}

impl Strike {
    /// The words in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillTwice => "kill, and again during start-up",
            Self::Terminate => "terminate",
            Self::TakeOver => "take over",
            Self::Suspend => "suspend",
            Self::CutAfterCommit => "cut off after COMMIT was done",
            Self::CutBeforeCommit => "cut off before COMMIT",
            Self::Slow => "slow database",
            Self::BlackHole => "silent database",
            Self::Down => "database gone",
            Self::Reset => "all connections reset",
            Self::Redis => "Redis late, silent or gone",
            Self::DiskFull => "disk full",
        }
    }
}

/// How often each strike on the processes is made, in comparison.
const ON_PROCESSES: [(Strike, u32); 4] = [
    (Strike::Kill, 72),
    (Strike::KillTwice, 12),
    (Strike::Terminate, 8),
    (Strike::TakeOver, 8),
];
/// How often each strike on the network is made, in comparison.
const ON_NETWORK: [(Strike, u32); 7] = [
    (Strike::CutAfterCommit, 40),
    (Strike::CutBeforeCommit, 12),
    (Strike::Slow, 10),
    (Strike::BlackHole, 12),
    (Strike::Down, 10),
    (Strike::Reset, 8),
    (Strike::Redis, 8),
];

/// The networks that the server reaches its databases by.
pub struct Networks {
    /// To Postgres.
    pub postgres: Proxy,
    /// To Redis, if there is one.
    pub redis: Option<Proxy>,
}

/// Strikes the server.
pub struct Nemesis {
    /// The server.
    pub processes: Processes,
    networks: Option<Networks>,
    recorder: Recorder,
    log: Log,
    random: StdRng,
    round_ms: u64,
    suspend_every: u32,
    strikes: Vec<(Strike, u32)>,
    /// How often each strike was made.
    pub made: BTreeMap<Strike, u32>,
}

impl Nemesis {
    /// A nemesis of `processes`, which reach their databases by `networks` where there are any.
    pub fn new(
        processes: Processes,
        networks: Option<Networks>,
        recorder: Recorder,
        log: Log,
        random: StdRng,
        options: &Options,
    ) -> Self {
        let mut strikes = Vec::new();
        if matches!(options.faults, Faults::Kill | Faults::All) {
            strikes.extend(ON_PROCESSES);
        }
        match (options.faults, options.store) {
            (Faults::Cut | Faults::All, Store::Postgres) => strikes.extend(ON_NETWORK),
            (Faults::DiskFull | Faults::All, Store::Sqlite) => strikes.push((Strike::DiskFull, 30)),
            _ => {}
        }
        let may_suspend = matches!(options.faults, Faults::Kill | Faults::All);
        Self {
            processes,
            networks,
            recorder,
            log,
            random,
            round_ms: options.round_ms,
            suspend_every: if may_suspend {
                options.suspend_every
            } else {
                0
            },
            strikes,
            made: BTreeMap::new(),
        }
    }

    /// One round.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        self.work().await;
        self.processes.check_alive()?;
        let strike = self.choose()?;
        self.log
            .line(&format!("--- {}: {}", self.recorder.now(), strike.as_str()));
        *self.made.entry(strike).or_default() += 1;
        self.strike(strike).await?;
        self.processes.check_alive()
    }

    /// How many COMMITs were cut off.
    pub fn cuts(&self) -> u64 {
        self.networks
            .as_ref()
            .map_or(0, |networks| networks.postgres.cuts())
    }

    /// Lets the server work. Half of the rounds end right after something was asked of it.
    async fn work(&mut self) {
        let length = self.millis(self.round_ms / 10, self.round_ms * 2);
        sleep(length).await;
        if self.random.random() {
            let delay = Duration::from_micros(self.random.random_range(0..12_000));
            let decided = self.recorder.decided();
            // Where nobody asks for anything there is nothing to aim at.
            let _ = tokio::time::timeout(Duration::from_secs(1), decided).await;
            sleep(delay).await;
        }
    }

    fn choose(&mut self) -> anyhow::Result<Strike> {
        if self.suspend_every > 0 && self.random.random_ratio(1, self.suspend_every) {
            return Ok(Strike::Suspend);
        }
        let chosen = self
            .strikes
            .choose_weighted(&mut self.random, |(_, weight)| *weight)?;
        Ok(chosen.0)
    }

    async fn strike(&mut self, strike: Strike) -> anyhow::Result<()> {
        match strike {
            Strike::Kill => self.processes.kill().await?,
            Strike::KillTwice => {
                self.processes.kill().await?;
                let after = self.millis(0, 200);
                self.processes.start_and_kill(after).await?;
            }
            Strike::Terminate => self.processes.stop().await?,
            Strike::TakeOver => return self.processes.take_over().await,
            Strike::Suspend => return self.processes.suspend(SUSPENSION).await,
            Strike::CutAfterCommit => {
                return self.outage(Weather::CutsAfterCommit, (200, 1_200)).await;
            }
            Strike::CutBeforeCommit => {
                return self.outage(Weather::CutsBeforeCommit, (200, 1_200)).await;
            }
            Strike::Slow => {
                let delay = self.millis(2, 150);
                return self.outage(Weather::Slow(delay), (500, 2_500)).await;
            }
            Strike::BlackHole => return self.outage(Weather::BlackHole, (300, 4_000)).await,
            Strike::Down => return self.outage(Weather::Down, (300, 4_000)).await,
            Strike::Reset => return self.outage(Weather::Down, (0, 20)).await,
            Strike::Redis => return self.redis_outage().await,
            Strike::DiskFull => return self.fill_disk().await,
        }
        let down = self.millis(0, 200);
        sleep(down).await;
        self.processes.start().await
    }

    async fn outage(&mut self, weather: Weather, millis: (u64, u64)) -> anyhow::Result<()> {
        let length = self.millis(millis.0, millis.1);
        if let Some(networks) = &self.networks {
            networks.postgres.set(weather);
            sleep(length).await;
            networks.postgres.set(Weather::Fair);
        }
        self.recover().await
    }

    async fn redis_outage(&mut self) -> anyhow::Result<()> {
        let length = self.millis(300, 4_000);
        let delay = self.millis(2, 500);
        let weathers = [Weather::Slow(delay), Weather::BlackHole, Weather::Down];
        let weather = *weathers.choose(&mut self.random).unwrap_or(&Weather::Down);
        if let Some(redis) = self.networks.as_ref().and_then(|all| all.redis.as_ref()) {
            redis.set(weather);
            // Billing must not notice.
            self.recover().await?;
            sleep(length).await;
            redis.set(Weather::Fair);
        }
        Ok(())
    }

    async fn fill_disk(&mut self) -> anyhow::Result<()> {
        let length = self.millis(500, 3_000) + IN_FLIGHT;
        self.processes.limit_files(Some(FULL_BYTES)).await?;
        sleep(IN_FLIGHT).await;
        let full = self.recorder.now();
        sleep(length).await;
        let freed = self.recorder.now();
        self.processes.limit_files(None).await?;
        let kept = self.recorder.read(|history| {
            let mut operations = history.operations.iter();
            operations
                .find(|operation| was_recorded_between(operation, full, freed))
                .cloned()
        });
        if let Some(operation) = kept {
            self.recorder.complain(format!(
                "acknowledged while the disk was full, from {full} to {freed}: {operation:?}"
            ));
        }
        self.recover().await
    }

    /// Returns when users get what they ask for again.
    async fn recover(&self) -> anyhow::Result<()> {
        let healed = self.recorder.now();
        let deadline = Instant::now() + RECOVERY;
        loop {
            let works = self.recorder.read(|history| {
                let is_done = |request| {
                    let mut latest = history.operations.iter().rev().take(LATEST);
                    latest.any(|operation| {
                        operation.request == request
                            && operation
                                .acknowledged()
                                .is_some_and(|(attempt, _)| attempt.sent > healed)
                    })
                };
                is_done(Request::Start) && is_done(Request::Stop)
            });
            if works {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{RECOVERY:?} after an outage users still get nothing"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..to))
    }
}

/// Whether a start or a stop was asked for and acknowledged between two instants.
fn was_recorded_between(operation: &Operation, from: Moment, to: Moment) -> bool {
    matches!(operation.request, Request::Start | Request::Stop)
        && operation.attempts.iter().any(|attempt| {
            matches!(attempt.outcome, Outcome::Acknowledged(_))
                && attempt.sent > from
                && attempt.ended < to
        })
}

//! What `load bench` takes, and the plans that follow from it.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{
    place::{Bench, StoreKind},
    workload::{
        Plan,
        criterion::CriterionPlan,
        cycle::CyclePlan,
        drain::DrainPlan,
        page::PagePlan,
        read::ReadPlan,
        sessions::{SessionsPlan, Start},
        slow::{Slow, SlowPlan},
        storm::StormPlan,
        watch::{Phases, WatchPlan},
    },
};

/// How often everything is done without `--runs`.
const RUNS: usize = 5;
/// How many connections start and stop: each waits for its operation to be durable, so that fewer would
/// measure little but waiting.
const CYCLE_CONNECTIONS: usize = 192;

/// The arguments of `load bench`.
#[derive(Args)]
pub struct BenchArguments {
    /// The program that is measured
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        default_value = "minute-credit"
    )]
    program: PathBuf,
    /// Where the server keeps its data. Postgres comes with Redis, and the environment must name both;
    /// each run has a database of its own beside the one that is named, and Redis is emptied
    #[arg(long, value_enum, global = true)]
    store: Option<StoreKind>,
    /// How often each work load is run [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N", global = true)]
    runs: Option<usize>,
    /// One run of everything, for shorter times and with fewer sessions
    #[arg(long, global = true)]
    quick: bool,
    /// For how long each figure is measured, in seconds, in place of each work load's own time
    #[arg(long, value_name = "S", global = true)]
    seconds: Option<u64>,
    /// Another setting for the server, as its environment would have it; may be given again
    #[arg(long = "set", value_name = "NAME=VALUE", global = true)]
    settings: Vec<String>,
    /// The file for all figures of all runs as JSON
    #[arg(long, value_name = "FILE", global = true)]
    pub json: Option<PathBuf>,
    /// The folder for the table, the JSON document and the plots
    #[arg(long, value_name = "FOLDER", global = true)]
    pub out: Option<PathBuf>,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Live sessions that nobody watches: memory, idle processor, drift, recovery after kill -9
    Sessions {
        /// How many sessions [default: 100000, or 20000 with --quick]
        #[arg(long, value_name = "N")]
        n: Option<usize>,
        /// How they come about
        #[arg(long, value_enum, default_value = "calls")]
        start: Start,
    },
    /// Sessions that are watched over websockets: lateness, memory per socket, processor per push
    ///
    /// Without sizes: 10000 sessions with 1000 and with 10000 watched, staggered; and 18000 with 18000
    /// watched, all in one instant.
    Watch {
        /// How many sessions
        #[arg(long, value_name = "N")]
        n: Option<usize>,
        /// How many of them are watched [default: all]
        #[arg(long, value_name = "W", requires = "n")]
        watched: Option<usize>,
        /// All balances fall at the same instant, instead of evenly over an interval
        #[arg(long, requires = "n")]
        together: bool,
    },
    /// Start and stop, durable: operations a second, and their time
    ///
    /// On SQLite and on Postgres with Redis, unless --store picks one.
    Cycle {
        /// How many connections
        #[arg(long, value_name = "C", default_value_t = CYCLE_CONNECTIONS)]
        connections: usize,
        /// How many users take turns [default: one for each connection]
        #[arg(long, value_name = "N")]
        users: Option<usize>,
    },
    /// Live balances over HTTP: requests a second, and their time
    Read {
        /// How many connections
        #[arg(long, value_name = "C", default_value_t = 64)]
        connections: usize,
        /// How many users have a live session
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        n: usize,
    },
    /// Watchers of whom 5 % never read, beside the same without them
    Slow {
        /// How many sessions, all of them watched
        #[arg(long, value_name = "N", default_value_t = 2_000)]
        n: usize,
    },
    /// All watchers are cut off and come back at once
    Storm {
        /// How many sessions, all of them watched
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        n: usize,
    },
    /// SIGTERM with every socket open, and what the next server finds
    Drain {
        /// How many sessions, all of them watched
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        n: usize,
    },
    /// The dashboard in a real Chromium, with empty caches: time to the first balance on the screen
    Page {
        /// How often it is loaded, each time by a new browser [default: 10, or 3 with --quick]
        #[arg(long, value_name = "N")]
        loads: Option<usize>,
    },
    /// The micro-benchmarks of the workspace: cargo bench
    Criterion,
    /// All work loads in their usual sizes
    All,
}

impl BenchArguments {
    /// How often everything is done.
    pub fn rounds(&self) -> usize {
        let usual = if self.quick { 1 } else { RUNS };
        self.runs.unwrap_or(usual).max(1)
    }

    /// What stays the same in all runs.
    pub fn bench(&self) -> anyhow::Result<Bench> {
        let setting = |text: &String| {
            let (name, value) = text
                .split_once('=')
                .with_context(|| format!("--set wants NAME=VALUE, not {text}"))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        let program = self.program.canonicalize();
        Ok(Bench {
            program: program.with_context(|| format!("no {}", self.program.display()))?,
            settings: self
                .settings
                .iter()
                .map(setting)
                .collect::<anyhow::Result<_>>()?,
            window: self.seconds.map(Duration::from_secs),
            is_quick: self.quick,
        })
    }

    /// What is to be done.
    pub fn plans(&self) -> Vec<Plan> {
        match &self.workload {
            Workload::Sessions { n, start } => self.sessions(*n, *start),
            Workload::Watch {
                n,
                watched,
                together,
            } => self.watch(*n, *watched, *together),
            Workload::Cycle { connections, users } => self.cycle(*connections, *users),
            Workload::Read { connections, n } => self.read(*connections, *n),
            Workload::Slow { n } => self.slow(*n),
            Workload::Storm { n } => self.storm(*n),
            Workload::Drain { n } => self.drain(*n),
            Workload::Page { loads } => self.page(*loads),
            Workload::Criterion => self.criterion(),
            Workload::All => [
                self.sessions(None, Start::Calls),
                self.watch(None, None, false),
                self.cycle(CYCLE_CONNECTIONS, None),
                self.read(64, 1_000),
                self.slow(2_000),
                self.storm(10_000),
                self.drain(10_000),
                self.page(None),
                self.criterion(),
            ]
            .concat(),
        }
    }

    fn store(&self) -> StoreKind {
        self.store.unwrap_or(StoreKind::Sqlite)
    }

    fn sessions(&self, n: Option<usize>, start: Start) -> Vec<Plan> {
        let usual = if self.quick { 20_000 } else { 100_000 };
        vec![Plan::Sessions(SessionsPlan {
            store: self.store(),
            sessions: n.unwrap_or(usual).max(1),
            start,
        })]
    }

    fn cycle(&self, connections: usize, users: Option<usize>) -> Vec<Plan> {
        let both = [StoreKind::Sqlite, StoreKind::Postgres];
        let stores = both
            .into_iter()
            .filter(|store| self.store.is_none_or(|wanted| wanted == *store));
        let connections = connections.max(1);
        let plan = |store| {
            Plan::Cycle(CyclePlan {
                store,
                connections,
                users: users.unwrap_or(connections).max(connections),
            })
        };
        stores.map(plan).collect()
    }

    fn read(&self, connections: usize, users: usize) -> Vec<Plan> {
        vec![Plan::Read(ReadPlan {
            store: self.store(),
            connections: connections.max(1),
            users: users.max(1),
        })]
    }

    fn slow(&self, watched: usize) -> Vec<Plan> {
        let plan = |slow| {
            Plan::Slow(SlowPlan {
                store: self.store(),
                watched: watched.max(1),
                slow,
            })
        };
        [Slow::None, Slow::Some].map(plan).to_vec()
    }

    fn storm(&self, watched: usize) -> Vec<Plan> {
        vec![Plan::Storm(StormPlan {
            store: self.store(),
            watched: watched.max(1),
        })]
    }

    fn drain(&self, watched: usize) -> Vec<Plan> {
        vec![Plan::Drain(DrainPlan {
            store: self.store(),
            watched: watched.max(1),
        })]
    }

    fn page(&self, loads: Option<usize>) -> Vec<Plan> {
        let usual = if self.quick { 3 } else { 10 };
        vec![Plan::Page(PagePlan {
            store: self.store(),
            loads: loads.unwrap_or(usual).max(1),
        })]
    }

    fn criterion(&self) -> Vec<Plan> {
        vec![Plan::Criterion(CriterionPlan {
            is_quick: self.quick,
        })]
    }

    fn watch(&self, n: Option<usize>, watched: Option<usize>, together: bool) -> Vec<Plan> {
        let plan = |sessions: usize, watched: usize, phases| {
            Plan::Watch(WatchPlan {
                store: self.store(),
                sessions,
                watched: watched.clamp(1, sessions),
                phases,
            })
        };
        let phases = if together {
            Phases::Together
        } else {
            Phases::Spread
        };
        match n {
            Some(n) => vec![plan(n.max(1), watched.unwrap_or(n), phases)],
            None => vec![
                plan(10_000, 1_000, Phases::Spread),
                plan(10_000, 10_000, Phases::Spread),
                plan(18_000, 18_000, Phases::Together),
            ],
        }
    }
}

/// The command that the figures can be had with again.
pub fn command_line() -> String {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut words = vec!["scripts/bench".to_owned()];
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "bench" if words.len() == 1 => {}
            // The script gives it.
            "--program" => drop(arguments.next()),
            _ => words.push(argument),
        }
    }
    words.join(" ")
}

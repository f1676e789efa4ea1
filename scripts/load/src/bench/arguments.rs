//! What `load bench` takes, and the plans that follow from it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

use super::{
    filled::{Home, Past},
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
/// How many connections start and stop: one alone, as many as a small service has, and so many that
/// each may wait for its operation to be durable while the server has enough to do.
const CYCLE_CONNECTIONS: [usize; 3] = [1, 16, 192];
/// How many users come and go, how many there are, and how many sessions they have had.
const CYCLE_USERS: usize = 100_000;
const POPULATION: usize = 1_000_000;
const HISTORY: usize = 5_000_000;
/// How many minutes are measured: the first and the last are told.
const CYCLE_MINUTES: usize = 10;
/// The same among all work loads, which take long enough.
const CYCLE_MINUTES_OF_ALL: usize = 2;
/// How many connections read balances, of how many users with a live session, or without one.
const READ_CONNECTIONS: usize = 64;
const READ_LIVE: usize = 1_000;
const READ_IDLE: usize = 100_000;
/// The same sizes with `--quick`.
const QUICK_READ_IDLE: usize = 10_000;
const QUICK_USERS: usize = 5_000;
const QUICK_POPULATION: usize = 20_000;
const QUICK_HISTORY: usize = 100_000;
const QUICK_MINUTES: usize = 2;

/// The arguments of `load bench`.
#[derive(Args)]
#[command(next_help_heading = "Options of every work load")]
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
    /// The folder to keep filled databases in, so that later calls of the same sizes need not fill them
    /// again, also those with another program if its schema is the same. On Postgres they stay there,
    /// as databases whose names begin with `minute_credit_filled_`. After 20 days they are filled anew.
    /// Without this a database is filled once for all runs of this call, and goes in the end
    #[arg(long, value_name = "FOLDER", global = true)]
    filled: Option<PathBuf>,
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
    /// Lateness counts from the deduction's own instant: `startedAt` and a whole number of intervals,
    /// whenever the reply to the start came.
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
        /// How the sessions come about: by calls over HTTP, which are staggered; or recorded, and
        /// taken over as after a crash [default: calls, or recorded with --together]
        #[arg(long, value_enum)]
        start: Option<Start>,
    },
    /// Start and stop, durable: operations a second, and their time
    ///
    /// Users come in random order, each starts a session, stops it, and comes back when at least half of
    /// the others have been there, on a database with a past. Rate and times of the first minute and of
    /// the last are in the table, those of every minute in a remark. Then come a minute of a few warm users,
    /// as many as connections, and a minute by each smaller number of connections. Before and after all
    /// of it, users without a session read their balances.
    ///
    /// With the usual sizes one run takes about 15 minutes, and filling the database some minutes more,
    /// which --filled saves the next call. --runs 1 is enough for a look.
    ///
    /// On SQLite and on Postgres with Redis, unless --store picks one.
    Cycle(CycleArguments),
    /// Balances over HTTP: requests a second, and their time
    ///
    /// Without sizes: 1000 users with a live session; and 100000 without one, or 10000 with --quick.
    Read {
        /// How many connections
        #[arg(long, value_name = "C", default_value_t = READ_CONNECTIONS)]
        connections: usize,
        /// How many users have a live session
        #[arg(long, value_name = "N")]
        n: Option<usize>,
        /// How many users have none; they and the others are read in turn
        #[arg(long, value_name = "N")]
        idle: Option<usize>,
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

/// The arguments of `load bench cycle`.
#[derive(Args, Clone, Debug)]
struct CycleArguments {
    /// How many connections. The largest number does the whole time, each other one a minute after it
    #[arg(long, value_name = "C,C,…", value_delimiter = ',', default_values_t = CYCLE_CONNECTIONS,
        value_parser = parse_count)]
    connections: Vec<usize>,
    /// How many users come and go, at least two for each connection
    /// [default: 100000, or 5000 with --quick]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    users: Option<usize>,
    /// How many sessions they and others have had; 0 for a fresh database
    /// [default: 5000000, or 100000 with --quick]
    #[arg(long, value_name = "N")]
    history: Option<usize>,
    /// How many users there are, also those who don't come [default: 1000000, or 20000 with --quick;
    /// without a past, those who come]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    population: Option<usize>,
    /// How many minutes the whole time has [default: 10, or 2 with --quick]; --seconds sets what a
    /// minute is, 60 or with --quick 10
    #[arg(long, value_name = "M", value_parser = parse_count)]
    minutes: Option<usize>,
    /// Vacuum and analyse Postgres before; as it was filled it has no statistics
    #[arg(long)]
    vacuumed: bool,
    /// Leave out the few warm users and the idle ones
    #[arg(long)]
    alone: bool,
    /// Tell how many statements Postgres was sent for each operation, and how long they took, by
    /// `pg_stat_statements`
    #[arg(long)]
    statements: bool,
}

impl CycleArguments {
    /// Those among all work loads.
    fn of_all() -> Self {
        Self {
            connections: CYCLE_CONNECTIONS.to_vec(),
            users: None,
            history: None,
            population: None,
            minutes: Some(CYCLE_MINUTES_OF_ALL),
            vacuumed: false,
            alone: false,
            statements: false,
        }
    }
}

/// A count of at least one.
fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("{text} is no whole number")),
    }
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
            filled: Arc::new(Home::new(self.filled.as_deref())?),
        })
    }

    /// What is to be done.
    pub fn plans(&self) -> anyhow::Result<Vec<Plan>> {
        Ok(match &self.workload {
            Workload::Sessions { n, start } => self.sessions(*n, *start),
            Workload::Watch {
                n,
                watched,
                together,
                start,
            } => {
                ensure!(
                    !together || *start != Some(Start::Calls),
                    "by calls no two sessions start --together"
                );
                self.watch(*n, *watched, *together, *start)
            }
            Workload::Cycle(cycle) => self.cycle(cycle)?,
            Workload::Read {
                connections,
                n,
                idle,
            } => self.read(*connections, *n, *idle)?,
            Workload::Slow { n } => self.slow(*n),
            Workload::Storm { n } => self.storm(*n),
            Workload::Drain { n } => self.drain(*n),
            Workload::Page { loads } => self.page(*loads),
            Workload::Criterion => self.criterion(),
            Workload::All => [
                self.sessions(None, Start::Calls),
                self.watch(None, None, false, None),
                self.cycle(&CycleArguments::of_all())?,
                self.read(READ_CONNECTIONS, None, None)?,
                self.slow(2_000),
                self.storm(10_000),
                self.drain(10_000),
                self.page(None),
                self.criterion(),
            ]
            .concat(),
        })
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

    fn cycle(&self, cycle: &CycleArguments) -> anyhow::Result<Vec<Plan>> {
        let both = [StoreKind::Sqlite, StoreKind::Postgres];
        let stores = both
            .into_iter()
            .filter(|store| self.store.is_none_or(|wanted| wanted == *store));
        let usual = |usual, quick| if self.quick { quick } else { usual };
        let users = cycle.users.unwrap_or(usual(CYCLE_USERS, QUICK_USERS));
        let history = cycle.history.unwrap_or(usual(HISTORY, QUICK_HISTORY));
        let population = match cycle.population {
            Some(population) => population,
            None if history == 0 => users,
            None => usual(POPULATION, QUICK_POPULATION).max(users),
        };
        ensure!(
            population >= users,
            "--users {users} can't come of a --population of {population}"
        );
        let mut connections = cycle.connections.clone();
        connections.sort_unstable();
        let most = connections.last().copied().unwrap_or(1);
        ensure!(
            users >= 2 * most,
            "{most} connections need at least {} --users, so that somebody is away",
            2 * most
        );
        let past = (history > 0 || population > users).then_some(Past {
            population,
            sessions: history,
        });
        let plan = |store| {
            Plan::Cycle(CyclePlan {
                store,
                connections: connections.clone(),
                users,
                past,
                minutes: cycle.minutes.unwrap_or(usual(CYCLE_MINUTES, QUICK_MINUTES)),
                is_vacuumed: cycle.vacuumed,
                is_alone: cycle.alone,
                counts_statements: cycle.statements && store == StoreKind::Postgres,
            })
        };
        Ok(stores.map(plan).collect())
    }

    fn read(
        &self,
        connections: usize,
        live: Option<usize>,
        idle: Option<usize>,
    ) -> anyhow::Result<Vec<Plan>> {
        let plan = |live, idle| {
            Plan::Read(ReadPlan {
                store: self.store(),
                connections: connections.max(1),
                live,
                idle,
            })
        };
        if live.is_none() && idle.is_none() {
            let idle = if self.quick {
                QUICK_READ_IDLE
            } else {
                READ_IDLE
            };
            return Ok(vec![plan(READ_LIVE, 0), plan(0, idle)]);
        }
        let (live, idle) = (live.unwrap_or(0), idle.unwrap_or(0));
        ensure!(
            live + idle > 0,
            "nobody's balance is to be read: give --n or --idle"
        );
        Ok(vec![plan(live, idle)])
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

    fn watch(
        &self,
        n: Option<usize>,
        watched: Option<usize>,
        together: bool,
        start: Option<Start>,
    ) -> Vec<Plan> {
        let plan = |sessions: usize, watched: usize, phases| {
            Plan::Watch(WatchPlan {
                store: self.store(),
                sessions,
                watched: watched.clamp(1, sessions),
                phases,
                start: match phases {
                    Phases::Spread => start.unwrap_or(Start::Calls),
                    Phases::Together => Start::Recorded,
                },
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArguments,
    }

    fn plans(line: &str) -> Result<Vec<Plan>, String> {
        let words = ["bench"].into_iter().chain(line.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.bench.plans().map_err(|error| error.to_string())
    }

    fn cycle(line: &str) -> CyclePlan {
        match plans(line).unwrap().last() {
            Some(Plan::Cycle(plan)) => plan.clone(),
            other => panic!("no cycle but {other:?}"),
        }
    }

    #[test]
    fn a_cycle_is_that_of_a_customer_by_default() {
        let plan = cycle("cycle");
        assert_eq!(plans("cycle").unwrap().len(), 2);
        assert_eq!((plan.users, plan.minutes), (100_000, 10));
        assert_eq!(plan.connections, [1, 16, 192]);
        let past = Past {
            population: 1_000_000,
            sessions: 5_000_000,
        };
        assert_eq!(plan.past, Some(past));
        assert!(!plan.is_vacuumed && !plan.is_alone && !plan.counts_statements);
        let quick = cycle("cycle --quick");
        assert_eq!((quick.users, quick.minutes), (5_000, 2));
    }

    #[test]
    fn a_cycle_can_be_fresh_small_and_alone() {
        let plan = cycle(
            "cycle --history 0 --users 50 --connections 8 --minutes 3 --alone --statements --store postgres",
        );
        assert_eq!((plan.users, plan.past, plan.minutes), (50, None, 3));
        assert_eq!(plan.connections, [8]);
        // The largest number does the whole time, wherever it stands.
        assert_eq!(
            cycle("cycle --connections 192,16,1").connections,
            [1, 16, 192]
        );
        assert!(plan.is_alone && plan.counts_statements);
        assert!(!cycle("cycle --statements --store sqlite").counts_statements);
        let plan = cycle("cycle --history 0 --users 400 --population 900");
        assert_eq!(plan.past.map(|past| past.population), Some(900));
        // There are at least as many as come.
        let plan = cycle("cycle --users 2000000");
        assert_eq!(plan.past.map(|past| past.population), Some(2_000_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        let check = |line: &str, word: &str| {
            let error = plans(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        };
        check("cycle --users 383", "384 --users");
        check("cycle --users 1000 --population 999", "--population");
        check("cycle --connections 1,0", "at least 1");
        check("cycle --minutes 0", "at least 1");
        check("cycle --users many", "no whole number");
        check("read --n 0 --idle 0", "--idle");
        check("watch --n 9 --together --start calls", "--together");
    }

    #[test]
    fn idle_users_are_read_too() {
        let check = |line: &str, expected: &[(usize, usize)]| {
            let sizes = plans(line).unwrap().into_iter().map(|plan| match plan {
                Plan::Read(ReadPlan { live, idle, .. }) => (live, idle),
                other => panic!("no read but {other:?}"),
            });
            assert_eq!(sizes.collect::<Vec<_>>(), expected, "{line}");
        };
        check("read", &[(1_000, 0), (0, 100_000)]);
        check("read --quick", &[(1_000, 0), (0, 10_000)]);
        check("read --idle 7", &[(0, 7)]);
        check("read --n 3", &[(3, 0)]);
        check("read --n 3 --idle 7", &[(3, 7)]);
    }

    #[test]
    fn staggered_sessions_are_started_by_calls_unless_asked_otherwise() {
        use Phases::{Spread, Together};
        use Start::{Calls, Recorded};
        let check = |line: &str, expected: &[(usize, usize, Phases, Start)]| {
            let found = plans(line).unwrap().into_iter().map(|plan| match plan {
                Plan::Watch(plan) => (plan.sessions, plan.watched, plan.phases, plan.start),
                other => panic!("no watch but {other:?}"),
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{line}");
        };
        let usual = [
            (10_000, 1_000, Spread, Calls),
            (10_000, 10_000, Spread, Calls),
            (18_000, 18_000, Together, Recorded),
        ];
        check("watch", &usual);
        check("watch --n 9", &[(9, 9, Spread, Calls)]);
        check("watch --n 9 --start recorded", &[(9, 9, Spread, Recorded)]);
        check(
            "watch --n 9 --watched 3 --together",
            &[(9, 3, Together, Recorded)],
        );
    }
}

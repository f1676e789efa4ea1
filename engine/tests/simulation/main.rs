//! Simulation: the real actors on the paused clock, on a store that delays, loses calls, loses
//! replies of what it has done, goes away for a while, and is taken over by new engines; the process
//! is suspended now and then, and another node serves the same users. Many users at a time, all
//! chance from one seed. In the end every reply that a client got is held against what is recorded.
//!
//! `SIMULATION_SEEDS=1000` tries that many seeds; `SIMULATION_SEED=17` replays one.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    reason = "tests say what they expect by unwrapping it"
)]

mod check;
mod client;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use billing::{ChargedAt, Span, Tariff};
use engine::{
    Clock, Engine, EngineSettings,
    engine::StopError,
    facts::{NodeName, ResumePolicy},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schema::{
    Credits, Millis, SessionId, UserId,
    session::{EndReason, SessionRecord},
};
use support::{
    memory::{Faults, MemoryStore, Sabotage},
    world::{BEGIN, World, ms, pass, settings},
};

use self::{
    check::Account,
    client::{Client, History},
};

/// How many seeds are tried if nobody says otherwise.
const SEEDS: u64 = 60;
/// How many users there are.
const USERS: u64 = 6;
/// For how long they are active, in simulated milliseconds.
const ACTIVE_MS: u64 = 240_000;

/// The other node's name.
const RIVAL: &str = "rival";

/// How late a beat may notice that the grace is over.
const BEAT: Duration = Duration::from_millis(1_100);

/// What seeds have tried.
#[derive(Debug, Default)]
struct Totals {
    sessions: usize,
    /// Starts and stops that were acknowledged.
    started: usize,
    stopped: usize,
    /// Starts and stops whose outcome the client was not told.
    unknown: usize,
    /// Starts that a revoke overtook and that were withdrawn.
    overtaken: usize,
    /// Requests that were sent again after they had been answered.
    repeated: usize,
    /// Starts on two nodes at once of which one was refused.
    rivalled: usize,
}

impl Totals {
    fn add(&mut self, more: &Self) {
        self.sessions += more.sessions;
        self.started += more.started;
        self.stopped += more.stopped;
        self.unknown += more.unknown;
        self.overtaken += more.overtaken;
        self.repeated += more.repeated;
        self.rivalled += more.rivalled;
    }
}

/// The engine that serves now, and after it the one that it took over from. Some clients still find
/// that one for a while.
type Serving = Arc<Mutex<[Engine; 2]>>;

#[test]
fn every_reply_agrees_with_what_is_recorded() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().unwrap())
    };
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let mut totals = Totals::default();
    for seed in seeds.clone() {
        println!("SIMULATION_SEED={seed}");
        totals.add(&runtime().block_on(simulate(seed, None)));
    }
    println!("{} seeds: {totals:?}", seeds.clone().count());
    let tried = [
        totals.sessions,
        totals.stopped,
        totals.unknown,
        totals.overtaken,
        totals.repeated,
        totals.rivalled,
    ];
    assert!(
        seeds.count() < 20 || tried.iter().all(|count| *count > 0),
        "the seeds try everything"
    );
}

/// With a rule broken in the store, some seed goes red: the checks check.
#[test]
fn a_broken_rule_is_noticed() {
    for sabotage in [
        Sabotage::VersionsIgnored,
        Sabotage::SettlementsAdded,
        Sabotage::EpochsIgnored,
        Sabotage::KeysIgnored,
        Sabotage::SlotsIgnored,
    ] {
        let is_noticed = (0..SEEDS * 10).any(|seed| {
            let run =
                std::thread::spawn(move || runtime().block_on(simulate(seed, Some(sabotage))));
            run.join().is_err()
        });
        assert!(is_noticed, "{sabotage:?}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Runs one seed.
async fn simulate(seed: u64, sabotage: Option<Sabotage>) -> Totals {
    let mut chance = StdRng::seed_from_u64(seed);
    let store = Arc::new(MemoryStore::default());
    store.set_sabotage(sabotage);
    let clock = Clock::start_at(ms(BEGIN));
    let settings = any_settings(&mut chance);
    let world = World::begin_on(Arc::clone(&store), clock.clone(), settings.clone()).await;
    let serving: Serving = Arc::new(Mutex::new([world.engine.clone(), world.engine.clone()]));
    let rival = EngineSettings {
        node: NodeName::new(RIVAL).unwrap(),
        ..settings.clone()
    };
    let rival = World::begin_on(Arc::clone(&store), clock.clone(), rival).await;
    let openings: Vec<(UserId, i64)> = (0..USERS)
        .map(|_| {
            let credits = chance.random_range(0..120);
            (store.add_user(credits), credits)
        })
        .collect();
    store.set_faults(Some(any_faults(&mut chance)));

    let clients: Vec<_> = openings
        .iter()
        .map(|(user, _)| {
            let client = Client::new(
                *user,
                StdRng::seed_from_u64(chance.random()),
                Arc::clone(&serving),
                rival.engine.clone(),
                Arc::clone(&store),
            );
            tokio::spawn(client.run())
        })
        .collect();
    let unserved = trouble(&mut chance, &store, &clock, &settings, &serving).await;
    let mut histories = Vec::new();
    for client in clients {
        histories.push(client.await.unwrap());
    }

    // All is well again: every session ends, and then nothing may be left over.
    store.set_faults(None);
    pass(20_000).await;
    let [engine, _] = serving.lock().unwrap().clone();
    for engine in [&engine, &rival.engine] {
        for ((user, _), history) in openings.iter().zip(&mut histories) {
            match engine.stop_session(*user, EndReason::User, None).await {
                Ok(stopped) => history.stopped.push(stopped),
                Err(error) => assert!(matches!(error, StopError::NoActiveSession), "{error:?}"),
            }
        }
        engine.shutdown(Duration::from_secs(5)).await;
    }
    let runs = store.runs();
    for ((_, end), (start, _)) in runs.iter().zip(runs.iter().skip(1)) {
        assert!(end.is_some_and(|end| end < *start), "{runs:?} overlap");
    }
    let sessions = store.all_sessions();
    for ((user, opening), history) in openings.iter().zip(&histories) {
        let own: BTreeMap<SessionId, SessionRecord> = sessions
            .iter()
            .filter(|(owner, _)| owner == user)
            .map(|(_, record)| (record.session_id, *record))
            .collect();
        let account = Account {
            store: &store,
            user: *user,
            opening: *opening,
            history,
            sessions: own,
            tariff: settings.tariff,
            unserved: &unserved,
        };
        account.check();
    }
    let sum = |of: fn(&History) -> usize| histories.iter().map(of).sum();
    Totals {
        sessions: sessions.len(),
        started: sum(|history| history.started.len()),
        stopped: sum(|history| history.stopped.len()),
        unknown: sum(|history| history.unknown_starts + history.unknown_stops),
        overtaken: store.overtaken_starts(),
        repeated: sum(|history| history.repeated),
        rivalled: sum(|history| history.rivalled),
    }
}

/// A tariff and a rhythm of settlements.
fn any_settings(chance: &mut StdRng) -> EngineSettings {
    let millis = |millis| Millis::new(millis).unwrap();
    let charged_at = if chance.random_bool(0.5) {
        ChargedAt::End
    } else {
        ChargedAt::Start
    };
    let price = Credits::new(chance.random_range(1..4)).unwrap();
    let interval = millis(chance.random_range(300..7_000));
    EngineSettings {
        tariff: Tariff::new(price, interval, charged_at).unwrap(),
        settle_every: millis(chance.random_range(5_000..60_000)),
        outage_grace: Duration::from_millis(chance.random_range(2_000..30_000)),
        resume: ResumePolicy::Within(millis(chance.random_range(15_000..60_000))),
        ..settings()
    }
}

fn any_faults(chance: &mut StdRng) -> Faults {
    Faults {
        chance: StdRng::seed_from_u64(chance.random()),
        lost_calls: chance.random_range(0..150),
        lost_replies: chance.random_range(0..150),
        slow_calls: chance.random_range(0..20),
    }
}

/// What goes wrong beside single calls: takeovers, outages, suspensions. Returns when nothing can have
/// been served.
async fn trouble(
    chance: &mut StdRng,
    store: &Arc<MemoryStore>,
    clock: &Clock,
    settings: &EngineSettings,
    serving: &Serving,
) -> Vec<Span> {
    let mut unserved = Vec::new();
    for _ in 0..chance.random_range(0..6) {
        pass(chance.random_range(5_000..ACTIVE_MS / 5)).await;
        match chance.random_range(0..3) {
            0 => {
                // A new process takes over; the old one learns of it at its next write.
                store.set_faults(None);
                let world =
                    World::begin_on(Arc::clone(store), clock.clone(), settings.clone()).await;
                let mut serving = serving.lock().unwrap();
                serving.swap(0, 1);
                serving[0] = world.engine.clone();
                drop(serving);
                store.set_faults(Some(any_faults(chance)));
            }
            1 => {
                let from = clock.now();
                store.set_down(true);
                pass(chance.random_range(1_000..70_000)).await;
                store.set_down(false);
                // Sessions pause at the first beat after the grace.
                let grace = settings.outage_grace + BEAT;
                let grace = Millis::new(i64::try_from(grace.as_millis()).unwrap()).unwrap();
                let from = from.checked_add(grace).unwrap();
                unserved.push(Span {
                    from,
                    to: clock.now(),
                });
            }
            _ => {
                let (from, asleep_ms) = (clock.now(), chance.random_range(1_000..70_000));
                tokio::time::advance(Duration::from_millis(asleep_ms)).await;
                let to = clock.now();
                unserved.extend((asleep_ms > 10_000).then_some(Span { from, to }));
            }
        }
    }
    unserved
}

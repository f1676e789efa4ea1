//! Simulation: the real actors on the paused clock, on a store that delays, loses calls, loses
//! replies of what it has done, goes away for a while, and is taken over by new engines; the process
//! is suspended now and then. Many users at a time, all chance from one seed. In the end every reply that a client got is held against what is recorded.
//!
//! `SIMULATION_SEEDS=1000` tries that many seeds; `SIMULATION_SEED=17` replays one.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    reason = "tests say what they expect by unwrapping it"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use billing::{ChargedAt, Span, Tariff};
use engine::{
    Clock, Engine, EngineSettings,
    engine::{StartError, Started, StopError, Stopped},
    facts::ResumePolicy,
    store::{AdjustError, Adjustment, Shortfall, Store},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use schema::{
    Credits, CreditsChange, Millis, SessionId, UnixMillis, UserId,
    ledger::EntryKind,
    session::{EndReason, SessionRecord},
};
use support::{
    memory::{Faults, MemoryStore, Sabotage},
    world::{BEGIN, World, ms, pass, settings},
};

/// How many seeds are tried if nobody says otherwise.
const SEEDS: u64 = 60;
/// How many users there are.
const USERS: u64 = 6;
/// For how long they are active, in simulated milliseconds.
const ACTIVE_MS: u64 = 240_000;

/// How late a beat may notice that the grace is over.
const BEAT: Duration = Duration::from_millis(1_100);

/// What one user's client has been told.
#[derive(Default)]
struct History {
    started: Vec<Started>,
    stopped: Vec<Stopped>,
    unknown_starts: usize,
    unknown_stops: usize,
    /// What an operator gave, less what was taken back.
    adjusted: i64,
}

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
}

impl Totals {
    fn add(&mut self, more: &Self) {
        self.sessions += more.sessions;
        self.started += more.started;
        self.stopped += more.stopped;
        self.unknown += more.unknown;
        self.overtaken += more.overtaken;
    }
}

/// The engine that serves now; crashes put another in its place.
type Serving = Arc<Mutex<Engine>>;

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
    let millis = |millis| Millis::new(millis).unwrap();
    let charged_at = if chance.random_bool(0.5) {
        ChargedAt::End
    } else {
        ChargedAt::Start
    };
    let price = Credits::new(chance.random_range(1..4)).unwrap();
    let interval = millis(chance.random_range(300..7_000));
    let settings = EngineSettings {
        tariff: Tariff::new(price, interval, charged_at).unwrap(),
        settle_every: millis(chance.random_range(5_000..60_000)),
        outage_grace: Duration::from_millis(chance.random_range(2_000..30_000)),
        resume: ResumePolicy::Within(millis(chance.random_range(15_000..60_000))),
        ..settings()
    };
    let world = World::begin_on(Arc::clone(&store), clock.clone(), settings.clone()).await;
    let serving: Serving = Arc::new(Mutex::new(world.engine.clone()));
    let openings: Vec<(UserId, i64)> = (0..USERS)
        .map(|_| {
            let credits = chance.random_range(0..120);
            (store.add_user(credits), credits)
        })
        .collect();
    store.set_faults(Some(Faults {
        chance: StdRng::seed_from_u64(seed ^ 0xFACE),
        lost_calls: chance.random_range(0..150),
        lost_replies: chance.random_range(0..150),
        slow_calls: chance.random_range(0..20),
    }));

    let clients: Vec<_> = openings
        .iter()
        .map(|(user, _)| {
            let chance = StdRng::seed_from_u64(chance.random());
            tokio::spawn(client(
                *user,
                chance,
                Arc::clone(&serving),
                Arc::clone(&store),
            ))
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
    let engine = serving.lock().unwrap().clone();
    for ((user, _), history) in openings.iter().zip(&mut histories) {
        match engine.stop_session(*user, EndReason::User).await {
            Ok(stopped) => history.stopped.push(stopped),
            Err(error) => assert!(matches!(error, StopError::NoActiveSession), "{error:?}"),
        }
    }
    engine.shutdown(Duration::from_secs(5)).await;
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
                *serving.lock().unwrap() = world.engine.clone();
                store.set_faults(Some(Faults {
                    chance: StdRng::seed_from_u64(chance.random()),
                    lost_calls: chance.random_range(0..150),
                    lost_replies: chance.random_range(0..150),
                    slow_calls: chance.random_range(0..20),
                }));
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

/// One user, who starts, stops, looks and gets credits at random until time is up.
async fn client(
    user: UserId,
    mut chance: StdRng,
    serving: Serving,
    store: Arc<MemoryStore>,
) -> History {
    let mut history = History::default();
    let mut adjustments = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(ACTIVE_MS);
    while tokio::time::Instant::now() < deadline {
        let engine = serving.lock().unwrap().clone();
        adjustments += 1;
        let adjustment = Adjustment {
            at: engine.clock().now(),
            idempotency_key: format!("adjustment-{adjustments}"),
            ..drawn(&mut chance, user, &history)
        };
        match chance.random_range(0..11) {
            0..3 => history.take_start(engine.start_session(user).await),
            3 => {
                // An operator does something at the same time.
                let wait = chance.random_range(0..40);
                let (started, adjusted) = tokio::join!(engine.start_session(user), async {
                    pass(wait).await;
                    adjusted(&store, adjustment).await
                });
                history.take_start(started);
                history.adjusted += adjusted;
            }
            4..8 => match engine.stop_session(user, EndReason::User).await {
                Ok(stopped) => history.stopped.push(stopped),
                Err(StopError::OutcomeUnknown) => history.unknown_stops += 1,
                Err(StopError::NoActiveSession | StopError::Unavailable) => {}
            },
            8 => drop(engine.balance(user).await),
            9 => {
                close_to_depletion(&engine, user, &mut chance).await;
                history.adjusted += adjusted(&store, adjustment).await;
            }
            _ => history.adjusted += adjusted(&store, adjustment).await,
        }
        pass(chance.random_range(0..15_000)).await;
    }
    history
}

/// Waits until the user's credits are about to run out, if that is soon: then writers race.
async fn close_to_depletion(engine: &Engine, user: UserId, chance: &mut StdRng) {
    let Ok(balance) = engine.balance(user).await else {
        return;
    };
    let depletes_at = balance.session.and_then(|session| session.depletes_at);
    let left = depletes_at.map_or(0, |at| at.since(engine.clock().now()).get());
    if left < 30_000 {
        let early = chance.random_range(0..300);
        pass(left.saturating_sub(early).max(0).unsigned_abs()).await;
    }
}

impl History {
    fn take_start(&mut self, result: Result<Started, StartError>) {
        match result {
            Ok(started) => self.started.push(started),
            Err(StartError::OutcomeUnknown) => self.unknown_starts += 1,
            Err(error) => assert!(!matches!(error, StartError::UserUnknown)),
        }
    }
}

/// What an operator might do: give credits, take some back, or refund a session.
fn drawn(chance: &mut StdRng, user: UserId, history: &History) -> Adjustment {
    let stopped = history.stopped.as_slice();
    let (kind, session) = match (chance.random_range(0..5), stopped.choose(chance)) {
        (0..2, _) => (EntryKind::Grant, None),
        (2, Some(stopped)) => (EntryKind::Refund, Some(stopped.session)),
        _ => (EntryKind::Revoke, None),
    };
    let amount = Credits::new(chance.random_range(1..60)).unwrap();
    Adjustment {
        user,
        kind,
        amount: if kind == EntryKind::Revoke {
            CreditsChange::outgoing(amount)
        } else {
            CreditsChange::incoming(amount)
        },
        session,
        shortfall: if chance.random_bool(0.5) {
            Shortfall::TakeWhatIsFree
        } else {
            Shortfall::Refuse
        },
        at: ms(BEGIN),
        reason: "for the simulation".to_owned(),
        operator: "simulation".to_owned(),
        idempotency_key: String::new(),
    }
}

/// Makes the adjustment, with the same key until its outcome is known. Returns what it moved.
async fn adjusted(store: &MemoryStore, adjustment: Adjustment) -> i64 {
    loop {
        match store.adjust(adjustment.clone()).await {
            Ok(adjusted) => return adjusted.amount.get(),
            Err(AdjustError::MoreThanFree { .. } | AdjustError::MoreThanSpent { .. }) => return 0,
            Err(AdjustError::Store(_)) => pass(50).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What is known of one user in the end.
struct Account<'a> {
    store: &'a MemoryStore,
    user: UserId,
    opening: i64,
    history: &'a History,
    sessions: BTreeMap<SessionId, SessionRecord>,
    tariff: Tariff,
    /// When nothing can have been served.
    unserved: &'a [Span],
}

impl Account<'_> {
    /// Holds what the client was told against what is recorded.
    fn check(&self) {
        let Self {
            store,
            user,
            opening,
            history,
            sessions,
            ..
        } = self;
        let (user, opening) = (*user, *opening);
        let consumed: i64 = sessions
            .values()
            .map(|session| session.credits_consumed.get())
            .sum();
        let left = opening + history.adjusted - consumed;
        assert_eq!(
            store.balances(user, opening),
            (left, left),
            "{user}: what came in, less what was consumed"
        );
        assert!(left >= 0);

        let mut last_end = None;
        for (id, session) in sessions {
            let ended_at = session
                .ended_at
                .unwrap_or_else(|| panic!("session {id} never ended"));
            assert!(
                last_end.is_none_or(|end| end <= session.started_at),
                "session {id} overlaps the one before"
            );
            last_end = Some(ended_at);
            self.check_session(*id, session, ended_at);
        }
        self.check_told();
    }

    /// Laws 2, 4 and 8 for one session.
    fn check_session(&self, id: SessionId, session: &SessionRecord, ended_at: UnixMillis) {
        let Self {
            store,
            user,
            opening,
            tariff,
            unserved,
            ..
        } = self;
        assert!(
            session.served_ms <= store.available(id),
            "session {id} was served {} ms, and its node's runs lasted for {} of it",
            session.served_ms,
            store.available(id)
        );
        let lost: i64 = unserved
            .iter()
            .map(|span| {
                span.to
                    .min(ended_at)
                    .since(span.from.max(session.started_at))
            })
            .map(Millis::get)
            .sum();
        assert!(
            session.served_ms.get() + lost <= ended_at.since(session.started_at).get(),
            "session {id} was served while nothing was: {} ms",
            session.served_ms
        );
        let intervals = tariff.intervals_completed(session.served_ms);
        let charge = match session.end_reason.unwrap() {
            EndReason::Depleted => tariff.price_of(intervals),
            EndReason::Engine if session.served_ms == Millis::ZERO => Some(Credits::ZERO),
            _ => tariff.charge(session.served_ms),
        };
        if session.end_reason == Some(EndReason::Depleted) {
            let left = opening + store.moved_before(*user, ended_at);
            let price = tariff.price().get();
            assert!(left < price, "session {id} ended with {left} left");
        }
        assert_eq!(
            Some(session.credits_consumed),
            charge,
            "session {id} costs what it was served for"
        );
        assert_eq!(
            store.usage(id).iter().sum::<i64>(),
            session.credits_consumed.get()
        );
        assert!(
            store.refunded(id) <= session.credits_consumed.get(),
            "session {id} is refunded more than it cost"
        );
        assert!(
            session.end_reason != Some(EndReason::Depleted) || charge != Some(Credits::ZERO),
            "session {id} never began, and is recorded"
        );
    }

    /// What was acknowledged is recorded just so, and nothing else.
    fn check_told(&self) {
        let Self {
            store,
            history,
            sessions,
            ..
        } = self;
        let told: BTreeSet<SessionId> = history
            .started
            .iter()
            .map(|started| started.session)
            .collect();
        assert_eq!(
            told.len(),
            history.started.len(),
            "no two starts are told of one session"
        );
        for started in &history.started {
            let session = sessions
                .get(&started.session)
                .unwrap_or_else(|| panic!("{} was lost", started.session));
            assert_eq!(session.started_at, started.started_at);
        }
        let untold = sessions.keys().filter(|id| !told.contains(id)).count();
        assert!(
            untold <= history.unknown_starts,
            "{untold} sessions that nobody asked for"
        );
        for stopped in &history.stopped {
            let session = &sessions[&stopped.session];
            assert_eq!(
                session.ended_at,
                Some(stopped.ended_at),
                "session {}",
                stopped.session
            );
            assert_eq!(
                (session.credits_consumed, session.end_reason),
                (stopped.consumed, Some(stopped.reason))
            );
            assert_eq!(
                store.left_at_end(stopped.session),
                Some(stopped.final_credits),
                "session {}",
                stopped.session
            );
        }
    }
}

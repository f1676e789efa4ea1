//! Idempotency keys in the engine: what it does with requests that come again, on tokio's paused
//! clock, with a database that goes away at the worst moments.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    reason = "tests say what they expect by unwrapping it"
)]

mod support;

use std::{sync::Arc, time::Duration};

use engine::{
    Clock, Engine, EngineSettings,
    engine::{StartError, Started, StopError, Stopped},
    keys::{Fingerprint, IdempotencyKey, KEPT_FOR, RequestKey},
    store::Store,
};
use futures_util::future::join_all;
use schema::{UserId, session::EndReason};
use support::{
    memory::MemoryStore,
    world::{BEGIN, World, ms, pass, settings},
};

const START: u8 = 1;
const STOP: u8 = 2;
const OTHER: u8 = 3;

/// The key `text` of a request that asks for the `what`th thing.
fn key(text: &str, what: u8) -> RequestKey {
    RequestKey {
        key: IdempotencyKey::new(text.as_bytes()).unwrap(),
        fingerprint: Fingerprint::new([what; 32]),
    }
}

async fn start(engine: &Engine, user: UserId, text: &str) -> Result<Started, StartError> {
    engine.start_session(user, Some(key(text, START))).await
}

async fn stop(engine: &Engine, user: UserId, text: &str) -> Result<Stopped, StopError> {
    let key = Some(key(text, STOP));
    engine.stop_session(user, EndReason::User, key).await
}

/// Begins a stop that waits.
fn begin_stop(
    world: &World,
    user: UserId,
    key: Option<RequestKey>,
) -> tokio::task::JoinHandle<Result<Stopped, StopError>> {
    let engine = world.engine.clone();
    tokio::spawn(async move { engine.stop_session(user, EndReason::User, key).await })
}

#[tokio::test(start_paused = true)]
async fn a_request_is_done_once_under_its_key() {
    let world = World::begin().await;
    let World { engine, store, .. } = &world;
    let user = store.add_user(100);
    engine.watch(user);
    let started = start(engine, user, "a").await.unwrap();
    assert_eq!(start(engine, user, "a").await.unwrap(), started);
    assert!(matches!(
        start(engine, user, "b").await,
        Err(StartError::SessionActive)
    ));
    pass(12_500).await;
    let stopped = stop(engine, user, "c").await.unwrap();
    assert_eq!(
        (stopped.session, stopped.consumed.get()),
        (started.session, 2)
    );
    assert_eq!(stop(engine, user, "c").await.unwrap(), stopped);
    assert_eq!(start(engine, user, "a").await.unwrap(), started);
    assert!(matches!(
        stop(engine, user, "d").await,
        Err(StopError::NoActiveSession)
    ));

    // The repetitions have left the wallet alone, and refusals have kept nothing.
    let second = start(engine, user, "b").await.unwrap();
    assert_ne!(second.session, started.session);
    pass(100).await;
    let told = world.balances().len();
    assert_eq!(stop(engine, user, "c").await.unwrap(), stopped);
    pass(100).await;
    assert_eq!(world.balances().len(), told, "nobody sees it stand still");
    assert_eq!(engine.live_sessions(), 1);
    assert_eq!(
        stop(engine, user, "d").await.unwrap().session,
        second.session
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_is_for_one_request_of_one_user() {
    let World { engine, store, .. } = &World::begin().await;
    let (user, other) = (store.add_user(100), store.add_user(100));
    start(engine, user, "k").await.unwrap();
    let another = engine.start_session(user, Some(key("k", OTHER))).await;
    assert!(matches!(another, Err(StartError::KeyConflict)));
    assert!(matches!(
        stop(engine, user, "k").await,
        Err(StopError::KeyConflict)
    ));
    assert_eq!(engine.live_sessions(), 1);
    start(engine, other, "k").await.unwrap();

    stop(engine, user, "l").await.unwrap();
    for what in [START, OTHER] {
        let another = engine.start_session(user, Some(key("l", what))).await;
        assert!(matches!(another, Err(StartError::KeyConflict)));
    }
    let another = engine.stop_session(user, EndReason::User, Some(key("l", OTHER)));
    assert!(matches!(another.await, Err(StopError::KeyConflict)));
}

#[tokio::test(start_paused = true)]
async fn twins_wait_and_are_told_the_same() {
    let World { engine, store, .. } = &World::begin().await;
    let user = store.add_user(100);
    let started = join_all((0..20).map(|_| start(engine, user, "a"))).await;
    let first = started[0].as_ref().unwrap();
    assert!(
        started
            .iter()
            .all(|other| other.as_ref().is_ok_and(|o| o == first))
    );
    let stopped = join_all((0..20).map(|_| stop(engine, user, "b"))).await;
    let first = stopped[0].as_ref().unwrap();
    assert!(
        stopped
            .iter()
            .all(|other| other.as_ref().is_ok_and(|o| o == first))
    );
    assert_eq!(store.all_sessions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_joins_the_start_that_is_on_its_way() {
    let settings = EngineSettings {
        call_timeout: Duration::from_millis(500),
        ..settings()
    };
    let store = Arc::new(MemoryStore::default());
    let world = World::begin_on(store, Clock::start_at(ms(BEGIN)), settings).await;
    let (engine, store) = (&world.engine, &world.store);
    let user = store.add_user(100);
    store.set_write_delay(Duration::from_millis(2_800));
    let mut unknown = 0;
    let started = loop {
        match start(engine, user, "k").await {
            Ok(started) => break started,
            Err(StartError::OutcomeUnknown) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
        // Meanwhile the key can't be used for anything else.
        let other = engine.start_session(user, Some(key("k", OTHER))).await;
        assert!(matches!(other, Err(StartError::KeyConflict)));
        let other = stop(engine, user, "k").await;
        assert!(matches!(other, Err(StopError::KeyConflict)));
        let other = start(engine, user, "l").await;
        assert!(matches!(other, Err(StartError::SessionActive)));
    };
    assert!(unknown >= 5, "{unknown}");
    store.set_write_delay(Duration::ZERO);
    pass(10_000).await;
    assert_eq!((engine.live_sessions(), store.all_sessions().len()), (1, 1));
    assert_eq!(start(engine, user, "k").await.unwrap(), started);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_waits_for_is_ended_and_its_key_is_free() {
    let World { engine, store, .. } = &World::begin().await;
    let user = store.add_user(100);
    store.set_read_only(true);
    assert!(matches!(
        start(engine, user, "k").await,
        Err(StartError::OutcomeUnknown)
    ));
    store.set_read_only(false);
    pass(3_000).await;
    assert_eq!((engine.live_sessions(), store.keys()), (0, 0));
    let started = start(engine, user, "k").await.unwrap();
    assert_eq!(start(engine, user, "k").await.unwrap(), started);
    let sessions = store.all_sessions();
    let lengths: Vec<_> = sessions
        .iter()
        .map(|(_, session)| {
            session
                .ended_at
                .map(|end| end.since(session.started_at).get())
        })
        .collect();
    assert_eq!(lengths, [Some(0), None]);
}

#[tokio::test(start_paused = true)]
async fn a_success_outlives_its_process() {
    let world = World::begin().await;
    let user = world.store.add_user(100);
    let started = start(&world.engine, user, "a").await.unwrap();
    pass(7_000).await;
    let (store, clock) = (world.store.clone(), world.engine.clock().clone());
    let world = World::begin_on(store.clone(), clock.clone(), settings()).await;
    assert_eq!(start(&world.engine, user, "a").await.unwrap(), started);
    let stopped = stop(&world.engine, user, "b").await.unwrap();
    world.engine.shutdown(Duration::from_secs(5)).await;
    let world = World::begin_on(store, clock, settings()).await;
    assert_eq!(stop(&world.engine, user, "b").await.unwrap(), stopped);
    assert_eq!(start(&world.engine, user, "a").await.unwrap(), started);
    assert_eq!(world.engine.live_sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_meets_another_end_keeps_its_key_after_it() {
    let world = World::begin().await;
    let (engine, store) = (&world.engine, &world.store);
    let user = store.add_user(2);
    let started = start(engine, user, "a").await.unwrap();
    pass(11_900).await;
    // The end by depletion is with the journal when the stops come.
    store.set_read_only(true);
    pass(200).await;
    let stops = [
        Some(key("b", STOP)),
        Some(key("b", STOP)),
        Some(key("c", STOP)),
        None,
    ];
    let stops = stops.map(|key| begin_stop(&world, user, key));
    pass(100).await;
    let conflict = begin_stop(&world, user, Some(key("c", OTHER)));
    store.set_read_only(false);
    let mut told = Vec::new();
    for stop in stops {
        told.push(stop.await.unwrap().unwrap());
    }
    assert!(told.iter().all(|stopped| *stopped == told[0]));
    let ended_after = told[0].ended_at.since(started.started_at).get();
    assert_eq!(
        (told[0].reason, ended_after, told[0].final_credits.get()),
        (EndReason::Depleted, 12_000, 0)
    );
    assert!(matches!(
        conflict.await.unwrap(),
        Err(StopError::KeyConflict)
    ));
    for text in ["b", "c"] {
        assert_eq!(stop(engine, user, text).await.unwrap(), told[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_was_done_before_stops_nothing_when_the_database_is_away() {
    let check = async |is_stopped_too: bool| {
        let world = World::begin().await;
        let (engine, store) = (&world.engine, &world.store);
        let user = store.add_user(100);
        start(engine, user, "a").await.unwrap();
        let stopped = stop(engine, user, "b").await.unwrap();
        let second = start(engine, user, "c").await.unwrap();
        pass(10_000).await;
        store.set_down(true);
        let again = begin_stop(&world, user, Some(key("b", STOP)));
        pass(1_000).await;
        let another = is_stopped_too.then(|| begin_stop(&world, user, None));
        pass(1_000).await;
        store.set_down(false);
        // Either it learns what it was told before, or it has to ask again.
        match again.await.unwrap() {
            Ok(again) => assert_eq!(again, stopped),
            Err(error) => assert!(matches!(error, StopError::OutcomeUnknown), "{error:?}"),
        }
        assert_eq!(stop(engine, user, "b").await.unwrap(), stopped);
        pass(20_000).await;
        let end = match another {
            Some(another) => another.await.unwrap().unwrap(),
            None => stop(engine, user, "d").await.unwrap(),
        };
        assert_eq!(end.session, second.session);
        let record = store.session(user, end.session).await.unwrap().unwrap();
        let served = record.served_ms.get();
        let length = end.ended_at.since(second.started_at).get();
        assert_eq!(
            (served, end.consumed.get()),
            (length, length / 6_000),
            "as if the repeated stop had never come"
        );
        let expected = if is_stopped_too {
            11_000..11_100
        } else {
            31_000..40_000
        };
        assert!(expected.contains(&length), "{length}");
    };
    check(false).await;
    check(true).await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_for_a_day_and_then_deleted() {
    let world = World::begin().await;
    let (engine, store) = (&world.engine, &world.store);
    let user = store.add_user(100);
    let started = start(engine, user, "a").await.unwrap();
    stop(engine, user, "b").await.unwrap();
    engine.shutdown(Duration::from_secs(5)).await;
    let after = async |millis| {
        let clock = Clock::start_at(ms(BEGIN + KEPT_FOR.get() + millis));
        World::begin_on(Arc::clone(store), clock, settings()).await
    };

    let World { engine, .. } = &after(-1_000).await;
    assert_eq!(start(engine, user, "a").await.unwrap(), started);
    engine.shutdown(Duration::from_secs(5)).await;

    let World { engine, .. } = &after(1_000).await;
    let anew = start(engine, user, "a").await.unwrap();
    assert_ne!(anew.session, started.session);
    assert_eq!(store.keys(), 2);
    pass(601_000).await;
    assert_eq!(
        store.keys(),
        1,
        "the old one that was not used again is gone"
    );
    assert_eq!(start(engine, user, "a").await.unwrap(), anew);
}

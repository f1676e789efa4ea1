//! What becomes of live sessions while their process or their database is away, on tokio's paused
//! clock: outages, suspensions, clocks that jump (laws 8 and 11).

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    reason = "tests say what they expect by unwrapping it"
)]

mod support;

use std::{sync::Arc, time::Duration};

use engine::{
    Clock, EngineSettings,
    engine::{StartError, Started, StopError},
    facts::{NodeName, ResumePolicy},
    store::Store,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use rand::{SeedableRng, rngs::StdRng};
use schema::{
    Millis, SessionId, UserId,
    session::{EndReason, SessionRecord},
};
use support::{
    memory::{BatchFate, Faults, MemoryStore},
    world::{BEGIN, World, ms, pass, settings},
};

/// The process is stopped for this long, and then goes on as if nothing had been.
async fn suspend(millis: u64) {
    tokio::time::advance(Duration::from_millis(millis)).await;
    pass(300).await;
}

async fn record(world: &World, user: UserId, started: &Started) -> SessionRecord {
    let record = world.store.session(user, started.session).await;
    record.unwrap().unwrap()
}

/// A world with a live session of a user with 100 credits.
async fn with_a_session(settings: EngineSettings) -> (World, UserId, Started) {
    let store = Arc::new(MemoryStore::default());
    let world = World::begin_on(store, Clock::start_at(ms(BEGIN)), settings).await;
    let user = world.store.add_user(100);
    world.engine.watch(user);
    let started = world.engine.start_session(user, None).await.unwrap();
    (world, user, started)
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_served_and_charged() {
    let (world, user, started) = with_a_session(settings()).await;
    pass(10_000).await;
    world.store.set_down(true);
    pass(59_000).await;
    world.store.set_down(false);
    pass(31_000).await;
    let stopped = world.stop(user).await.unwrap();
    assert_eq!(stopped.consumed.get(), 16);
    let record = record(&world, user, &started).await;
    assert_eq!(record.served_ms.get(), 100_000);
    assert_eq!(world.store.runs(), [(0, None)]);
}

#[tokio::test(start_paused = true)]
async fn a_longer_outage_pauses_sessions_uncharged() {
    let (world, user, started) = with_a_session(settings()).await;
    pass(10_500).await;
    world.store.set_down(true);
    pass(200_000).await;
    // Since 10.0 s nothing is recorded: 61 s later, at the first beat past the grace, time stands still.
    let paused = world.engine.balance(user).await.unwrap();
    assert_eq!(paused.as_of, ms(BEGIN + 71_000));
    assert_eq!(paused.credits.get(), 100 - 11);
    let session = paused.session.unwrap();
    assert_eq!((session.depletes_at, session.next_charge_at), (None, None));
    assert!(matches!(
        world
            .engine
            .start_session(world.store.add_user(5), None)
            .await,
        Err(StartError::Unavailable)
    ));

    world.store.set_down(false);
    pass(2_000).await;
    let runs = world.store.runs();
    let [(0, Some(71_000)), (resumed, None)] = runs[..] else {
        panic!("{runs:?}");
    };
    assert!((210_500..212_500).contains(&resumed), "{resumed}");
    let going_on = world.engine.balance(user).await.unwrap();
    let depletes_at = going_on.session.unwrap().depletes_at.unwrap();
    assert_eq!(
        depletes_at.get() - BEGIN,
        resumed + (600_000 - 71_000),
        "what was left of 600 s is still left"
    );
    let told = world.told_depletions();
    assert!(
        told.ends_with(&[None, Some(depletes_at)]),
        "dashboards hear of the pause and of its end: {told:?}"
    );

    pass(10_000).await;
    let served = 71_000 + world.engine.clock().now().get() - BEGIN - resumed;
    let stopped = world.stop(user).await.unwrap();
    let record = record(&world, user, &started).await;
    assert_eq!(record.served_ms.get(), served);
    assert_eq!(stopped.consumed.get(), served / 6_000);
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_a_pause_ends_where_the_pause_began() {
    let (world, user, started) = with_a_session(settings()).await;
    pass(10_500).await;
    world.store.set_down(true);
    pass(200_000).await;
    assert!(matches!(
        world.stop(user).await,
        Err(StopError::OutcomeUnknown)
    ));
    world.store.set_down(false);
    pass(2_000).await;
    let record = record(&world, user, &started).await;
    assert_eq!(record.ended_at, Some(ms(BEGIN + 71_000)));
    assert_eq!(record.served_ms.get(), 71_000);
    assert_eq!(record.credits_consumed.get(), 11);
    world.engine.start_session(user, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_suspended_process_recovers_in_place() {
    let (world, user, started) = with_a_session(settings()).await;
    pass(20_500).await;
    // Long enough for the credits to run out, were it served.
    suspend(590_000).await;
    let runs = world.store.runs();
    let [(0, Some(cut)), (resumed, None)] = runs[..] else {
        panic!("{runs:?}");
    };
    assert_eq!(resumed, 610_500);
    assert!((20_000..=20_500).contains(&cut), "{cut}");
    pass(10_000).await;
    let stopped = world.stop(user).await.unwrap();
    let record = record(&world, user, &started).await;
    assert_eq!(record.served_ms.get(), cut + 10_300);
    assert_eq!(stopped.consumed.get(), 5);
    assert!(!world.engine.is_superseded());
}

#[tokio::test(start_paused = true)]
async fn ten_seconds_late_is_not_suspended() {
    let (world, user, started) = with_a_session(settings()).await;
    pass(20_500).await;
    suspend(9_400).await;
    assert_eq!(world.store.runs().len(), 1);
    pass(800).await;
    world.stop(user).await.unwrap();
    assert_eq!(record(&world, user, &started).await.served_ms.get(), 31_000);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_process_that_was_replaced_writes_nothing() {
    let (world, user, started) = with_a_session(settings()).await;
    pass(20_500).await;
    tokio::time::advance(Duration::from_secs(30)).await;
    // The other process begins before any timer of the first one has run.
    let clock = world.engine.clock().clone();
    let second = World::begin_on(Arc::clone(&world.store), clock, settings()).await;
    pass(2_000).await;
    assert!(world.engine.is_superseded());
    assert!(!second.engine.is_superseded());
    let runs = world.store.runs();
    assert_eq!((runs.len(), runs[0].1), (2, Some(20_000)), "{runs:?}");
    pass(8_000).await;
    second.stop(user).await.unwrap();
    assert_eq!(record(&world, user, &started).await.served_ms.get(), 30_000);
}

#[tokio::test(start_paused = true)]
async fn a_run_in_place_whose_reply_is_lost_is_begun_once() {
    for seed in 0..20 {
        let (world, user, started) = with_a_session(settings()).await;
        pass(20_000).await;
        world.store.set_faults(Some(Faults {
            chance: StdRng::seed_from_u64(seed),
            lost_calls: 200,
            lost_replies: 600,
            slow_calls: 0,
        }));
        suspend(60_000).await;
        pass(60_000).await;
        world.store.set_faults(None);
        pass(2_000).await;
        let runs = world.store.runs();
        assert_eq!(runs.len(), 2, "seed {seed}: {runs:?}");
        let served = runs[0].1.unwrap() + world.engine.clock().now().get() - BEGIN - runs[1].0;
        world.stop(user).await.unwrap();
        let record = record(&world, user, &started).await;
        assert_eq!(record.served_ms.get(), served, "seed {seed}");
        world.engine.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_that_is_too_long_sessions_end_at_the_cut() {
    let within = ResumePolicy::Within(Millis::new(30_000).unwrap());
    for (resume, suspended, is_resumed) in [
        (within, 25_000, true),
        (within, 31_000, false),
        (ResumePolicy::Never, 11_000, false),
    ] {
        let (world, user, started) = with_a_session(EngineSettings {
            resume,
            ..settings()
        })
        .await;
        pass(20_500).await;
        suspend(suspended).await;
        let record = record(&world, user, &started).await;
        let expected = (!is_resumed).then_some((ms(BEGIN + 20_000), EndReason::Engine));
        let end = record.ended_at.zip(record.end_reason);
        assert_eq!(end, expected, "{resume:?} {suspended}");
        if !is_resumed {
            assert_eq!(record.credits_consumed.get(), 3);
            world.engine.start_session(user, None).await.unwrap();
        }
    }
}

/// The clock of a machine is set forward or back by an hour, and the program is started again.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_across_a_restart_changes_no_charge() {
    for (step_ms, is_resumed) in [(-3_600_000, true), (0, true), (3_600_000, false)] {
        let (world, user, started) = with_a_session(settings()).await;
        pass(20_500).await;
        let wall = world.engine.clock().now().get() + step_ms;
        let node = NodeName::new("test").unwrap();
        let recorded = world.store.node_time(&node).await.unwrap();
        let clock = Clock::start_from(ms(wall), recorded).unwrap();
        let second = World::begin_on(Arc::clone(&world.store), clock, settings()).await;
        pass(10_000).await;
        if is_resumed {
            second.stop(user).await.unwrap();
        }
        let record = record(&second, user, &started).await;
        let served = if is_resumed { 30_000 } else { 20_000 };
        assert_eq!(record.served_ms.get(), served, "{step_ms}");
        assert_eq!(record.credits_consumed.get(), served / 6_000, "{step_ms}");
    }
}

/// An outcome that was unknown once is unknown until it is read, whatever the database says in between.
#[tokio::test(start_paused = true)]
async fn what_was_unknown_once_is_read_before_it_is_told() {
    use BatchFate::{Refused, Unknown};
    let check = async |fates: &[BatchFate], starts: bool| {
        let world = World::begin().await;
        let user = world.store.add_user(100);
        world.store.set_batch_fates(fates);
        let started = world.engine.start_session(user, None).await;
        let recorded = world.store.session(user, SessionId::new(1).unwrap());
        let is_recorded = recorded.await.unwrap().is_some();
        if starts {
            assert!(started.is_ok() && is_recorded, "{fates:?}: {started:?}");
        } else {
            let is_refused = matches!(started, Err(StartError::Unavailable));
            assert!(is_refused && !is_recorded, "{fates:?}: {started:?}");
        }
        // Whoever was refused may try again at once.
        if !starts {
            world.store.set_batch_fates(&[]);
            world.engine.start_session(user, None).await.unwrap();
        }
    };
    check(&[], true).await;
    check(&[Unknown], true).await;
    check(&[Unknown, Unknown], true).await;
    check(&[Unknown, Refused], true).await;
    check(&[Unknown, Refused, Unknown, Refused, Refused], true).await;
    check(&[Refused], true).await;
    check(&[Refused, Unknown, Refused], true).await;
    check(&[Refused, Refused], false).await;

    // And if it can't be read for as long as a call may take, that is what is told.
    let world = World::begin().await;
    let user = world.store.add_user(100);
    world
        .store
        .set_batch_fates(&[[Unknown].as_slice(), &[Refused; 30]].concat());
    let started = world.engine.start_session(user, None).await;
    assert!(
        matches!(started, Err(StartError::OutcomeUnknown)),
        "{started:?}"
    );
    world.store.set_batch_fates(&[]);
    pass(3_000).await;
    let record = world.store.session(user, SessionId::new(1).unwrap());
    let record = record.await.unwrap().unwrap();
    assert_eq!(record.ended_at, Some(record.started_at));
    assert_eq!(record.credits_consumed.get(), 0);
}

/// What a crash would lose shows, for as long as nothing becomes durable.
#[tokio::test(start_paused = true)]
async fn the_lag_of_what_is_durable_grows_until_something_is() {
    let lag = |world: &World| {
        let mut registry = Registry::default();
        world.engine.metrics().register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix("alive_lag_seconds "));
        value.unwrap().parse::<f64>().unwrap()
    };
    let (world, _, _) = with_a_session(settings()).await;
    pass(10_500).await;
    assert!(lag(&world) < 1.1, "{}", lag(&world));
    world.store.set_down(true);
    // Through the grace, and on when time stands still.
    for seconds in [30.0, 60.0, 300.0] {
        pass(30_000).await;
        if seconds > 60.0 {
            pass(240_000 - 30_000).await;
        }
        assert!(
            (seconds..seconds + 2.0).contains(&lag(&world)),
            "{}",
            lag(&world)
        );
    }
    world.store.set_down(false);
    pass(3_000).await;
    assert!(lag(&world) < 1.1, "{}", lag(&world));

    // A batch that is refused doesn't count as durable, and what is durable after it does.
    world
        .store
        .set_batch_fates(&[BatchFate::Refused, BatchFate::Refused]);
    let other = world.store.add_user(100);
    world.engine.start_session(other, None).await.unwrap_err();
    pass(3_000).await;
    assert!(lag(&world) < 1.1, "{}", lag(&world));
}

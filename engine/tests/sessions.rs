//! The engine's actors on tokio's paused clock: whole sessions in milliseconds, instants exact.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    reason = "tests say what they expect by unwrapping it"
)]

mod support;

use std::{sync::Arc, time::Duration};

use billing::{ChargedAt, Tariff};
use engine::{
    Clock, EngineSettings,
    engine::{StartError, StopError},
    facts::ResumePolicy,
    store::{AdjustError, Store},
};
use schema::{Credits, Millis, SessionId, UserId, session::EndReason, websocket::ServerMessage};
use support::{
    memory::MemoryStore,
    world::{BEGIN, World, ms, pass, settings},
};

#[tokio::test(start_paused = true)]
async fn a_session_ends_by_itself_when_the_credits_run_out() {
    let world = World::begin().await;
    let user = world.store.add_user(100);
    world.engine.watch(user);
    let started = world.engine.start_session(user, None).await.unwrap();
    assert_eq!(world.engine.live_sessions(), 1);
    pass(601_000).await;

    let record = world
        .store
        .session(user, started.session)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        record.ended_at.unwrap().since(started.started_at).get(),
        600_000
    );
    assert_eq!(
        (record.credits_consumed.get(), record.end_reason),
        (100, Some(EndReason::Depleted))
    );
    assert_eq!(record.served_ms.get(), 600_000);
    assert_eq!(world.store.usage(started.session), [100]);
    assert_eq!(world.engine.live_sessions(), 0);

    let start = started.started_at.get() - BEGIN;
    let expected: Vec<(i64, i64)> = (0..=100)
        .map(|tick| (start + 6_000 * tick, 100 - tick))
        .collect();
    // The one before the start and the one right after it differ in the session only.
    let mut told = world.balances();
    told.dedup();
    assert_eq!(
        told[..101],
        expected,
        "one update at each boundary, at its instant"
    );
    assert!(
        told[101..].iter().all(|(_, credits)| *credits == 0),
        "after the end only zero: {:?}",
        &told[101..]
    );

    let events = world.events();
    assert!(
        matches!(events[0], ServerMessage::SessionStarted { session_id, .. } if session_id == started.session)
    );
    assert_eq!(
        events[1],
        ServerMessage::BalanceLow {
            credits: Credits::new(10).unwrap(),
            seconds_left: 60
        }
    );
    assert_eq!(
        events[2],
        ServerMessage::SessionStopped {
            session_id: started.session,
            reason: EndReason::Depleted,
            ended_at: ms(started.started_at.get() + 600_000),
            credits_consumed: Credits::new(100).unwrap(),
            final_credits: Credits::ZERO,
        }
    );
    assert_eq!(events.len(), 3);
    assert!(matches!(
        world.stop(user).await,
        Err(StopError::NoActiveSession)
    ));
    assert!(matches!(
        world.engine.start_session(user, None).await,
        Err(StartError::InsufficientCredits)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stop_charges_whole_intervals() {
    let check = async |millis: u64, consumed: i64| {
        let world = World::begin().await;
        let user = world.store.add_user(100);
        let started = world.engine.start_session(user, None).await.unwrap();
        pass(millis).await;
        let stopped = world.stop(user).await.unwrap();
        assert_eq!(
            (stopped.session, stopped.reason),
            (started.session, EndReason::User)
        );
        assert_eq!(
            (stopped.consumed.get(), stopped.final_credits.get()),
            (consumed, 100 - consumed),
            "{millis} ms"
        );
        assert_eq!(
            world.engine.balance(user).await.unwrap().credits.get(),
            100 - consumed
        );
    };
    check(0, 0).await;
    check(5_999, 0).await;
    check(6_000, 1).await;
    check(30_500, 5).await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_is_refused() {
    let world = World::begin().await;
    let (user, poor, nobody) = (
        world.store.add_user(100),
        world.store.add_user(0),
        UserId::new(99).unwrap(),
    );
    assert!(matches!(
        world.stop(user).await,
        Err(StopError::NoActiveSession)
    ));
    assert!(matches!(
        world.engine.start_session(poor, None).await,
        Err(StartError::InsufficientCredits)
    ));
    assert!(matches!(
        world.engine.start_session(nobody, None).await,
        Err(StartError::UserUnknown)
    ));
    world.engine.start_session(user, None).await.unwrap();
    assert!(matches!(
        world.engine.start_session(user, None).await,
        Err(StartError::SessionActive)
    ));
    world.stop(user).await.unwrap();
    assert!(matches!(
        world.stop(user).await,
        Err(StopError::NoActiveSession)
    ));
    assert_eq!(world.engine.live_sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_starts_at_once_one_wins() {
    let world = World::begin().await;
    let user = world.store.add_user(100);
    let starts = (0..100).map(|_| world.engine.start_session(user, None));
    let results = futures_util::future::join_all(starts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .all(|e| matches!(e, StartError::SessionActive))
    );
}

#[tokio::test(start_paused = true)]
async fn an_unwatched_session_tells_no_balance_until_it_ends() {
    let world = World::begin().await;
    let user = world.store.add_user(3);
    world.engine.start_session(user, None).await.unwrap();
    pass(17_000).await;
    assert_eq!(world.balances(), []);
    let balance = world.engine.balance(user).await.unwrap();
    assert_eq!(balance.credits.get(), 1);
    let session = balance.session.unwrap();
    assert_eq!(session.consumed.get(), 2);
    assert_eq!(
        session.depletes_at.unwrap().since(session.started_at).get(),
        18_000
    );
}

#[tokio::test(start_paused = true)]
async fn a_long_session_is_settled_in_between() {
    let world = World::begin().await;
    let user = world.store.add_user(1_000);
    let started = world.engine.start_session(user, None).await.unwrap();
    pass(2_000_000).await;
    assert_eq!(world.store.usage(started.session), [150, 150]);
    let stopped = world.stop(user).await.unwrap();
    assert_eq!(
        (stopped.consumed.get(), stopped.final_credits.get()),
        (333, 667)
    );
    assert_eq!(world.store.usage(started.session), [150, 150, 33]);
}

#[tokio::test(start_paused = true)]
async fn a_start_right_after_a_top_up_counts_it() {
    let world = World::begin().await;
    let user = world.store.add_user(1);
    world.engine.start_session(user, None).await.unwrap();
    pass(6_000).await;
    // Nothing has told the session's actor, which is still there, of any of this.
    let start = || world.engine.start_session(user, None);
    assert!(matches!(
        start().await,
        Err(StartError::InsufficientCredits)
    ));
    world.grant(user, 2).await;
    let balance = world.engine.balance(user).await.unwrap();
    assert_eq!((balance.credits.get(), balance.session), (2, None));
    start().await.unwrap();
    pass(6_000).await;
    assert_eq!(world.stop(user).await.unwrap().consumed.get(), 1);
    assert_eq!(world.revoke(user, 1).await.unwrap().balance_after.get(), 0);
    assert!(matches!(
        start().await,
        Err(StartError::InsufficientCredits)
    ));
}

#[tokio::test(start_paused = true)]
async fn credits_that_come_in_move_the_end() {
    let world = World::begin().await;
    let user = world.store.add_user(2);
    let started = world.engine.start_session(user, None).await.unwrap();
    pass(7_000).await;
    world.grant(user, 3).await;
    pass(1_000).await;
    let balance = world.engine.balance(user).await.unwrap();
    assert_eq!(balance.credits.get(), 4);
    assert_eq!(
        balance
            .session
            .unwrap()
            .depletes_at
            .unwrap()
            .since(started.started_at)
            .get(),
        30_000
    );
    assert!(world.events().iter().any(
        |event| matches!(event, ServerMessage::CreditsAdded { amount, .. } if amount.get() == 3)
    ));
    pass(30_000).await;
    let record = world
        .store
        .session(user, started.session)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (record.credits_consumed.get(), record.served_ms.get()),
        (5, 30_000)
    );
}

#[tokio::test(start_paused = true)]
async fn a_revoke_moves_the_end_and_is_no_event() {
    let world = World::begin().await;
    let user = world.store.add_user(10);
    let started = world.engine.start_session(user, None).await.unwrap();
    pass(7_000).await;
    world.revoke(user, 8).await.unwrap();
    pass(1_000).await;
    let balance = world.engine.balance(user).await.unwrap();
    let depletes_at = balance.session.unwrap().depletes_at.unwrap();
    assert_eq!(
        (
            balance.credits.get(),
            depletes_at.since(started.started_at).get()
        ),
        (1, 12_000)
    );
    let free = world.revoke(user, 1).await;
    assert!(
        matches!(free, Err(AdjustError::MoreThanFree { free }) if free.is_zero()),
        "the last interval is held"
    );
    assert!(
        !world
            .events()
            .iter()
            .any(|event| matches!(event, ServerMessage::CreditsAdded { .. }))
    );
    pass(10_000).await;
    assert_eq!(world.store.usage(started.session), [2]);
}

/// Another process takes the credits between a start's decision and its record.
#[tokio::test(start_paused = true)]
async fn a_start_that_a_revoke_overtakes_never_was() {
    let check = async |stopped_after_ms: Option<u64>, charged_at| {
        let settings = EngineSettings {
            tariff: Tariff::new(
                Credits::new(1).unwrap(),
                Millis::new(500).unwrap(),
                charged_at,
            )
            .unwrap(),
            ..settings()
        };
        let world = World::begin_on(
            Arc::new(MemoryStore::default()),
            Clock::start_at(ms(BEGIN)),
            settings,
        )
        .await;
        let user = world.store.add_user(10);
        world.store.set_read_only(true);
        let start = async { world.engine.start_session(user, None).await };
        let others = async {
            pass(100).await;
            let stop = async {
                pass(stopped_after_ms.unwrap_or(0)).await;
                match stopped_after_ms {
                    Some(_) => world.stop(user).await,
                    None => Err(StopError::NoActiveSession),
                }
            };
            let revoke = async {
                pass(1_500).await;
                world.revoke(user, 10).await.unwrap();
                world.store.set_read_only(false);
            };
            tokio::join!(stop, revoke).0
        };
        let (started, stopped) = tokio::join!(start, others);
        let what = format!("stopped after {stopped_after_ms:?}, charged at the {charged_at:?}");
        assert!(
            matches!(started, Err(StartError::InsufficientCredits)),
            "{what}: {started:?}"
        );
        assert!(
            matches!(stopped, Err(StopError::NoActiveSession)),
            "{what}: {stopped:?}"
        );
        pass(3_000).await;
        assert_eq!(world.store.all_sessions(), [], "{what}");
        assert_eq!(world.engine.live_sessions(), 0);
        assert_eq!(world.events(), [], "{what}");
        world.grant(user, 1).await;
        world.engine.start_session(user, None).await.unwrap();
    };
    for charged_at in [ChargedAt::End, ChargedAt::Start] {
        check(None, charged_at).await;
        check(Some(700), charged_at).await;
    }
    check(Some(100), ChargedAt::Start).await;
}

/// Starts and stops at once, so that nothing is charged.
async fn a_free_session(world: &World, user: UserId) {
    world.engine.start_session(user, None).await.unwrap();
    let stopped = world.stop(user).await.unwrap();
    assert_eq!(stopped.consumed, Credits::ZERO);
}

/// How long the user's next start has to wait, in ms.
async fn must_wait(world: &World, user: UserId) -> i64 {
    match world.engine.start_session(user, None).await {
        Err(StartError::TooManyUnpaid { retry_after }) => retry_after.get(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn only_so_many_sessions_an_hour_are_free() {
    let three = EngineSettings {
        unpaid_sessions_per_hour_max: 3,
        ..settings()
    };
    let (store, clock) = (Arc::new(MemoryStore::default()), Clock::start_at(ms(BEGIN)));
    let world = World::begin_on(Arc::clone(&store), clock.clone(), three.clone()).await;
    let (user, other) = (store.add_user(1_000), store.add_user(1_000));
    for _ in 0..3 {
        a_free_session(&world, user).await;
        pass(1_000).await;
    }
    assert_eq!(must_wait(&world, user).await, 3_597_000);
    a_free_session(&world, other).await;

    // Another process counts the same.
    world.engine.shutdown(Duration::from_secs(5)).await;
    let world = World::begin_on(Arc::clone(&store), clock, three).await;
    let begun = world.engine.clock().now();
    assert!(must_wait(&world, user).await <= 3_597_000);
    let left = must_wait(&world, user).await;
    pass(u64::try_from(left - 1).unwrap()).await;
    assert_eq!(must_wait(&world, user).await, 1, "since {begun}");
    pass(1).await;

    // The oldest is an hour ago. A paid session does not count, one by one the others go.
    world.engine.start_session(user, None).await.unwrap();
    pass(600).await;
    assert!(matches!(
        world.engine.start_session(user, None).await,
        Err(StartError::SessionActive)
    ));
    world.stop(user).await.unwrap();
    assert_eq!(must_wait(&world, user).await, 400);
    pass(400).await;
    world.engine.start_session(user, None).await.unwrap();
    pass(6_000).await;
    assert_eq!(world.stop(user).await.unwrap().consumed.get(), 1);
    a_free_session(&world, user).await;
    assert_eq!(store.all_sessions().len(), 7);
}

/// A start that waits in one actor for the end before it, again and again: no read in between.
#[tokio::test(start_paused = true)]
async fn free_sessions_are_counted_within_one_actor_too() {
    let world = World::begin_on(
        Arc::new(MemoryStore::default()),
        Clock::start_at(ms(BEGIN)),
        EngineSettings {
            unpaid_sessions_per_hour_max: 5,
            ..settings()
        },
    )
    .await;
    let user = world.store.add_user(1_000);
    world.engine.start_session(user, None).await.unwrap();
    for _ in 0..4 {
        let (stopped, started) =
            tokio::join!(world.stop(user), world.engine.start_session(user, None));
        assert_eq!(stopped.unwrap().consumed, Credits::ZERO);
        started.unwrap();
    }
    let (stopped, started) = tokio::join!(world.stop(user), world.engine.start_session(user, None));
    stopped.unwrap();
    assert!(
        matches!(started, Err(StartError::TooManyUnpaid { .. })),
        "{started:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_any_number_is_free() {
    let unbounded = EngineSettings {
        unpaid_sessions_per_hour_max: 0,
        ..settings()
    };
    let (store, clock) = (Arc::new(MemoryStore::default()), Clock::start_at(ms(BEGIN)));
    let world = World::begin_on(store, clock, unbounded).await;
    let user = world.store.add_user(1_000);
    for _ in 0..100 {
        a_free_session(&world, user).await;
    }
}

/// A session that was live before the process began: what the user did before is read in time.
#[tokio::test(start_paused = true)]
async fn a_recovered_session_is_counted_with_those_before_it() {
    let two = EngineSettings {
        unpaid_sessions_per_hour_max: 2,
        ..settings()
    };
    let (store, clock) = (Arc::new(MemoryStore::default()), Clock::start_at(ms(BEGIN)));
    let world = World::begin_on(Arc::clone(&store), clock.clone(), two.clone()).await;
    let user = store.add_user(1_000);
    a_free_session(&world, user).await;
    world.engine.start_session(user, None).await.unwrap();
    world.engine.shutdown(Duration::from_secs(5)).await;
    let world = World::begin_on(store, clock, two).await;
    let (stopped, started) = tokio::join!(world.stop(user), world.engine.start_session(user, None));
    stopped.unwrap();
    assert!(
        matches!(started, Err(StartError::TooManyUnpaid { .. })),
        "{started:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_outlives_its_process() {
    let world = World::begin().await;
    let user = world.store.add_user(100);
    let started = world.engine.start_session(user, None).await.unwrap();
    pass(10_000).await;
    world.engine.shutdown(Duration::from_secs(5)).await;
    let served_before = world.store.alive_at().since(started.started_at);
    assert_eq!(
        served_before.get(),
        10_000,
        "a shutdown records up to its last instant"
    );
    pass(120_000).await;

    let world = World::begin_on(
        Arc::clone(&world.store),
        world.engine.clock().clone(),
        settings(),
    )
    .await;
    assert_eq!(world.engine.live_sessions(), 1);
    pass(3_000).await;
    let stopped = world.stop(user).await.unwrap();
    let record = world
        .store
        .session(user, started.session)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (record.served_ms.get(), stopped.consumed.get()),
        (13_000, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_second_process_takes_over_and_the_first_learns_of_it() {
    let first = World::begin().await;
    let user = first.store.add_user(100);
    first.engine.start_session(user, None).await.unwrap();
    pass(6_500).await;
    let second = World::begin_on(
        Arc::clone(&first.store),
        first.engine.clock().clone(),
        settings(),
    )
    .await;
    first.engine.superseded().await;
    assert!(matches!(
        first.stop(user).await,
        Err(StopError::Unavailable)
    ));
    let stopped = second.stop(user).await.unwrap();
    assert!(stopped.consumed.get() <= 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_long_absence_sessions_end_where_they_were_cut() {
    let check = async |policy, away_ms: u64, is_resumed: bool| {
        let world = World::begin().await;
        let user = world.store.add_user(100);
        let started = world.engine.start_session(user, None).await.unwrap();
        pass(13_000).await;
        world.engine.shutdown(Duration::from_secs(5)).await;
        pass(away_ms).await;
        let settings = EngineSettings {
            resume: policy,
            ..settings()
        };
        let world = World::begin_on(
            Arc::clone(&world.store),
            world.engine.clock().clone(),
            settings,
        )
        .await;
        pass(100).await;
        let record = world
            .store
            .session(user, started.session)
            .await
            .unwrap()
            .unwrap();
        let end = record.ended_at.map(|at| at.since(started.started_at).get());
        assert_eq!(end, (!is_resumed).then_some(13_000), "{policy:?} {away_ms}");
        assert_eq!(
            record.end_reason,
            (!is_resumed).then_some(EndReason::Engine)
        );
    };
    let within = ResumePolicy::Within(Millis::new(600_000).unwrap());
    check(within, 599_000, true).await;
    check(within, 601_000, false).await;
    check(ResumePolicy::Never, 1_000, false).await;
}

#[tokio::test(start_paused = true)]
async fn without_its_database_a_stop_fixes_its_end_and_a_start_is_refused() {
    let world = World::begin().await;
    let (user, other) = (world.store.add_user(100), world.store.add_user(100));
    let started = world.engine.start_session(user, None).await.unwrap();
    pass(12_500).await;
    world.store.set_down(true);
    assert!(matches!(
        world.stop(user).await,
        Err(StopError::OutcomeUnknown)
    ));
    assert!(!world.engine.is_recording());
    // Its end is fixed, and not durable: so it lives, and costs no more.
    let balance = world.engine.balance(user).await.unwrap();
    let session = balance.session.unwrap();
    assert_eq!((balance.credits.get(), session.consumed.get()), (98, 2));
    assert_eq!((session.next_charge_at, session.depletes_at), (None, None));
    assert!(matches!(
        world.engine.start_session(other, None).await,
        Err(StartError::Unavailable)
    ));
    pass(30_000).await;
    world.store.set_down(false);
    pass(2_000).await;
    assert!(world.engine.is_recording());
    let record = world
        .store
        .session(user, started.session)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        record.ended_at.unwrap().since(started.started_at).get(),
        12_500
    );
    assert_eq!(record.credits_consumed.get(), 2);
    world.engine.start_session(other, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_reply_nobody_took_is_ended_for_nothing() {
    let world = World::begin().await;
    let user = world.store.add_user(100);
    world.store.set_read_only(true);
    assert!(matches!(
        world.engine.start_session(user, None).await,
        Err(StartError::OutcomeUnknown)
    ));
    world.store.set_read_only(false);
    pass(3_000).await;
    let record = world
        .store
        .session(user, SessionId::new(1).unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.ended_at, Some(record.started_at));
    assert_eq!(
        (record.end_reason, record.credits_consumed.get()),
        (Some(EndReason::Engine), 0)
    );
    assert!(
        !world
            .events()
            .iter()
            .any(|event| matches!(event, ServerMessage::SessionStarted { .. }))
    );
    world.engine.start_session(user, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wallet_that_can_not_be_read_starts_nothing() {
    let world = World::begin().await;
    let user = world.store.add_user(100);
    world.store.set_down(true);
    assert!(matches!(
        world.engine.start_session(user, None).await,
        Err(StartError::Unavailable)
    ));
    world.store.set_down(false);
    pass(3_000).await;
    world.engine.start_session(user, None).await.unwrap();
    assert_eq!(world.engine.live_sessions(), 1);
}

/// A start that is not recorded yet may turn out never to have been: it shows in no balance.
#[tokio::test(start_paused = true)]
async fn a_start_on_its_way_shows_in_no_balance() {
    let millis = |millis| Millis::new(millis).unwrap();
    let tariff = Tariff::new(Credits::new(5).unwrap(), millis(6_000), ChargedAt::Start).unwrap();
    let store = Arc::new(MemoryStore::default());
    let settings = EngineSettings {
        tariff,
        ..settings()
    };
    let world = World::begin_on(store, Clock::start_at(ms(BEGIN)), settings).await;
    let user = world.store.add_user(100);
    world.engine.watch(user);
    world.store.set_read_only(true);
    let engine = world.engine.clone();
    let starting = tokio::spawn(async move { engine.start_session(user, None).await });
    pass(2_000).await;
    let balance = world.engine.balance(user).await.unwrap();
    assert_eq!((balance.credits.get(), balance.session), (100, None));
    world.store.set_read_only(false);
    starting.await.unwrap().unwrap();
    let balance = world.engine.balance(user).await.unwrap();
    assert_eq!(balance.credits.get(), 95);
    let told: Vec<i64> = world
        .balances()
        .iter()
        .map(|(_, credits)| *credits)
        .collect();
    assert_eq!(told, [100, 95]);
}

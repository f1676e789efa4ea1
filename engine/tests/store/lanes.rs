//! Several batches of one run that are written at once, and what shuts all of them out.

use std::{sync::Arc, time::Duration};

use engine::{
    facts::{Fact, FactOutcome},
    store::StoreError,
};
use schema::UserId;
use tokio::time::timeout;

use crate::{
    on_both,
    support::{self, Kind, TestDatabase, at, begin_run, opening},
};

on_both! {
    a_run_begins_after_all_that_any_lane_recorded
    whoever_takes_over_shuts_all_lanes_out
    a_lane_that_went_back_is_noticed
    a_lane_that_is_gone_is_noticed
}

/// A user in each of as many lanes as there are on Postgres.
async fn users(database: &TestDatabase) -> Vec<UserId> {
    let lanes = database.settings.writers;
    let mut users = vec![None; lanes.count()];
    while users.iter().any(Option::is_none) {
        let user = database.user(100).await;
        users[lanes.of(user)].get_or_insert(user);
    }
    users.into_iter().flatten().collect()
}

async fn a_run_begins_after_all_that_any_lane_recorded(database: Arc<TestDatabase>) {
    for node in 0..database.settings.writers.count() {
        let name = format!("node{node}");
        let run = database.run(&name).await;
        for user in users(&database).await {
            let ahead = if database.settings.writers.of(user) == node {
                7_000
            } else {
                3_000
            };
            let session = opening(user, 1, user.get(), ahead);
            let outcome = database.record(&run, Fact::Opening(session)).await;
            assert_eq!(outcome, FactOutcome::Recorded);
        }
        assert_eq!(database.proved_by(&name).await, Some(at(7_000)));
        let next = begin_run(&database.another().await, &name, 100).await;
        assert_eq!(next.started_at, at(7_001), "in lane {node}");
        assert_eq!(database.proved_by(&name).await, Some(at(7_001)));
    }
    let of_old_runs = "SELECT count(*) FROM node_lanes WHERE epoch = 1";
    assert_eq!(database.number(of_old_runs).await, 0);
    assert_eq!(database.violations().await, []);
}

async fn whoever_takes_over_shuts_all_lanes_out(database: Arc<TestDatabase>) {
    const STARTS: i64 = 40;
    let first = database.run("a").await;
    let mut starts = Vec::new();
    for n in 1..=STARTS {
        let (store, run) = (Arc::clone(&database.store), first.clone());
        let session = opening(database.user(100).await, 1, n, n * 10);
        starts.push(tokio::spawn(async move {
            let fact = Fact::Opening(session);
            (session, store.record(&run, None, &[fact.into()]).await)
        }));
        if n == STARTS / 2 {
            tokio::task::yield_now().await;
        }
    }
    let next = begin_run(&database.another().await, "a", 5).await;
    for start in starts {
        let (session, recorded) = start.await.unwrap();
        match recorded {
            Ok(outcomes) => {
                assert_eq!(outcomes, [FactOutcome::Recorded]);
                assert!(session.started_at < next.started_at);
            }
            Err(StoreError::Superseded) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let rows = "SELECT count(*) FROM node_lanes WHERE epoch <> 2";
    assert_eq!(database.number(rows).await, 0);
    assert_eq!(database.violations().await, []);
}

async fn a_lane_that_went_back_is_noticed(database: Arc<TestDatabase>) {
    let run = database.run("a").await;
    let users = users(&database).await;
    let mut last_session = 0;
    for user in &users {
        last_session = user.get();
        let session = opening(*user, 1, last_session, 5_000 + last_session);
        database.record(&run, Fact::Opening(session)).await;
    }
    // As an older copy of the database would have it, in one lane.
    let last = i64::try_from(database.store.lanes().count() - 1).unwrap();
    let sql = format!("UPDATE node_lanes SET last_instant = 4000 WHERE lane = {last}");
    database.execute(&sql).await.unwrap();
    let in_lane = *users.last().unwrap();
    let fact = Fact::Settlement(support::settlement(
        in_lane,
        2,
        last_session,
        1,
        0,
        0,
        6_000,
    ));
    let recorded = database.store.record(&run, None, &[fact.into()]).await;
    assert!(
        matches!(recorded, Err(StoreError::WentBack)),
        "{recorded:?}"
    );
}

async fn a_lane_that_is_gone_is_noticed(database: Arc<TestDatabase>) {
    let run = database.run("a").await;
    let user = database.user(100).await;
    // As no program of ours does while the run is current.
    database.execute("DELETE FROM node_lanes").await.unwrap();
    let fact = Fact::Opening(opening(user, 1, 1, 10));
    let recorded = database.store.record(&run, None, &[fact.into()]).await;
    assert!(
        matches!(recorded, Err(StoreError::WentBack)),
        "{recorded:?}"
    );
}

/// Somebody holds a wallet: those who are in the other lane don't wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_do_not_wait_for_each_other() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let run = database.run("a").await;
        let users = users(&database).await;
        let held = {
            let (database, user) = (Arc::clone(&database), users[0]);
            tokio::spawn(async move {
                let sql = format!(
                    "BEGIN; SELECT 1 FROM users WHERE id = {user} FOR UPDATE; SELECT pg_sleep(3); COMMIT"
                );
                database.execute(&sql).await.unwrap();
            })
        };
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        while database.number(waiting).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let record = |place: usize| {
            let (store, run, user) = (Arc::clone(&database.store), run.clone(), users[place]);
            let id = i64::try_from(place).unwrap() + 1;
            tokio::spawn(async move {
                let fact = Fact::Opening(opening(user, 1, id, 10));
                store.record(&run, None, &[fact.into()]).await.unwrap()
            })
        };
        let first = record(0);
        let second = timeout(Duration::from_secs(2), record(1)).await;
        assert_eq!(second.unwrap().unwrap(), [FactOutcome::Recorded]);
        assert!(!first.is_finished(), "its wallet is held");
        assert!(!held.is_finished());
        held.await.unwrap();
        assert_eq!(first.await.unwrap(), [FactOutcome::Recorded]);
    })
    .await;
}

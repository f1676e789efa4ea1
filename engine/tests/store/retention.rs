//! Deleting what is old, and what an audit says afterwards.

use std::sync::Arc;

use engine::{
    facts::{Fact, Recording},
    keys::{Fingerprint, IdempotencyKey, RequestKey},
    retention::{self, RetentionSettings, Swept},
    store::{NewPassword, audit::AuditLimits},
};
use schema::{Millis, UserId, session::EndReason};

use crate::{
    on_both,
    support::{TestDatabase, at, begin_run, ended, opening, session, settlement},
};

on_both! {
    sessions_that_cost_nothing_go_and_every_version_is_accounted_for
    what_is_referred_to_stays
    runs_that_no_session_fell_into_go
    by_default_history_is_kept
    the_newest_notice_stays
}

const DAY: i64 = 24 * 3_600_000;

fn after_days(unpaid_sessions: i64, runs: i64) -> RetentionSettings {
    let days = |days: i64| (days > 0).then(|| Millis::new(days * DAY).unwrap());
    RetentionSettings {
        unpaid_sessions: days(unpaid_sessions),
        runs: days(runs),
    }
}

async fn sweep(database: &TestDatabase, settings: RetentionSettings, now: i64) -> Swept {
    let store = database.store.as_ref();
    retention::sweep(store, settings, at(now)).await.unwrap()
}

/// A session that was served from `start` on for `served`, and cost a credit for every 6 s.
fn lived(user: UserId, version: i64, id: i64, start: i64, served: i64) -> [Fact; 2] {
    let paid = settlement(
        user,
        version + 1,
        id,
        1,
        served / 6_000,
        served,
        start + served,
    );
    [
        Fact::Opening(opening(user, version, id, start)),
        Fact::Settlement(ended(paid, EndReason::User)),
    ]
}

async fn record(database: &TestDatabase, run: &engine::facts::NodeRun, facts: &[Fact]) {
    for fact in facts {
        let alive_at = fact.at().get() - at(0).get();
        database.must_record(run, alive_at, &[*fact]).await;
    }
}

async fn ids(database: &TestDatabase, user: UserId) -> Vec<i64> {
    let sessions = database.store.sessions(user, None, 100).await.unwrap();
    sessions
        .iter()
        .map(|session| session.session_id.get())
        .collect()
}

async fn sessions_that_cost_nothing_go_and_every_version_is_accounted_for(
    database: Arc<TestDatabase>,
) {
    let (ada, bob) = (database.user(100).await, database.user(100).await);
    let run = database.run("main").await;
    for facts in [
        lived(ada, 1, 1, 1_000, 5_000),
        lived(ada, 3, 2, 10_000, 6_000),
        lived(bob, 1, 3, 20_000, 0),
        lived(ada, 5, 4, 30_000, 5_999),
        lived(ada, 7, 5, 2 * DAY, 1_000),
    ] {
        record(&database, &run, &facts).await;
    }
    let live = Fact::Opening(opening(bob, 3, 6, 2 * DAY));
    record(&database, &run, &[live]).await;
    assert_eq!(database.violations().await, []);

    // A day after the end is not more than a day.
    let swept = sweep(&database, after_days(1, 0), DAY + 6_000).await;
    assert_eq!(swept, Swept::default());
    let swept = sweep(&database, after_days(1, 0), DAY + 6_001).await;
    assert_eq!(
        (swept.sessions, ids(&database, ada).await),
        (1, vec![5, 4, 2])
    );
    let swept = sweep(&database, after_days(1, 0), 2 * DAY).await;
    assert_eq!((swept.sessions, ids(&database, ada).await), (2, vec![5, 2]));
    assert_eq!(ids(&database, bob).await, [6]);
    assert_eq!(database.violations().await, []);

    // The wallets go on, and a version that is missing still shows.
    record(&database, &run, &lived(ada, 9, 7, 3 * DAY, 6_000)).await;
    assert_eq!(database.violations().await, []);
    let sql = "UPDATE users SET forgotten_writes = forgotten_writes - 1 WHERE forgotten_writes > 2";
    database.execute(sql).await.unwrap();
    assert_eq!(database.violations().await.len(), 2);
}

async fn what_is_referred_to_stays(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let run = database.run("main").await;
    let [opened, ended] = lived(user, 1, 1, 1_000, 5_000);
    record(&database, &run, &[opened]).await;
    let key = RequestKey {
        key: IdempotencyKey::new(b"key").unwrap(),
        fingerprint: Fingerprint::new([7; 32]),
    };
    let recording = Recording {
        keys: vec![key],
        ..Recording::from(ended)
    };
    database
        .store
        .record(&run, Some(at(6_000)), &[recording])
        .await
        .unwrap();
    let delete = async || {
        let sessions = [session(1)];
        let deleted = database
            .store
            .delete_unpaid_sessions(&sessions, at(5 * DAY));
        deleted.await.unwrap()
    };
    assert_eq!(delete().await, 0);
    assert_eq!(database.store.purge_keys(at(5 * DAY), 10).await.unwrap(), 1);
    assert_eq!(delete().await, 1);
    assert_eq!(database.violations().await, []);
}

async fn runs_that_no_session_fell_into_go(database: Arc<TestDatabase>) {
    let (ada, bob) = (database.user(100).await, database.user(100).await);
    let mut runs = Vec::new();
    for number in 0..6 {
        let run = begin_run(&database.store, "main", number * DAY).await;
        // Ada's session lives in the first two, and bob's in the fourth for nothing.
        if number == 0 {
            record(&database, &run, &[Fact::Opening(opening(ada, 1, 1, 1_000))]).await;
        }
        if number == 1 {
            let paid = settlement(ada, 2, 1, 1, 1, 6_000, DAY + 5_000);
            let end = Fact::Settlement(ended(paid, EndReason::User));
            record(&database, &run, &[end]).await;
        }
        if number == 3 {
            record(&database, &run, &lived(bob, 1, 2, 3 * DAY + 1, 5_000)).await;
        }
        database.must_record(&run, number * DAY + 7_000, &[]).await;
        runs.push(run);
    }
    let other = begin_run(&database.store, "other", 0).await;
    assert_eq!(other.epoch, 1);
    let before = database.violations().await;
    let epochs = async || {
        let mut epochs = Vec::new();
        for epoch in 1..=6 {
            let sql =
                format!("SELECT count(*) FROM node_runs WHERE node = 'main' AND epoch = {epoch}");
            if database.number(&sql).await == 1 {
                epochs.push(epoch);
            }
        }
        epochs
    };
    assert_eq!(sweep(&database, after_days(0, 1), 6 * DAY).await.runs, 2);
    assert_eq!(epochs().await, [1, 2, 4, 6]);
    // With the session its run goes too.
    let swept = sweep(&database, after_days(1, 1), 6 * DAY).await;
    assert_eq!((swept.sessions, swept.runs), (1, 1));
    assert_eq!(epochs().await, [1, 2, 6]);
    assert_eq!(
        database
            .number("SELECT count(*) FROM node_runs WHERE node = 'other'")
            .await,
        1
    );
    assert_eq!(database.violations().await, before);
    let page = database.store.audit(
        None,
        AuditLimits {
            users: 10,
            rows: 100,
            now: at(0),
        },
    );
    assert_eq!(page.await.unwrap().users, 2);
}

async fn by_default_history_is_kept(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let run = database.run("main").await;
    record(&database, &run, &lived(user, 1, 1, 1_000, 5_000)).await;
    begin_run(&database.store, "main", DAY).await;
    let swept = sweep(&database, RetentionSettings::default(), 10_000 * DAY).await;
    assert_eq!(swept, Swept::default());
    assert_eq!(ids(&database, user).await, [1]);
}

async fn the_newest_notice_stays(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = database.user(10).await;
    for number in 0..5 {
        let password = NewPassword {
            user,
            hash: "x".to_owned(),
            decided_in: None,
            kept_token: None,
            at: at(number),
        };
        assert!(store.set_password(password).await.unwrap());
    }
    let newest = store.latest_notice().await.unwrap();
    assert_eq!(store.purge_notices(at(2), 10).await.unwrap(), 2);
    assert_eq!(store.purge_notices(at(9), 1).await.unwrap(), 1);
    assert_eq!(store.purge_notices(at(9), 10).await.unwrap(), 1);
    assert_eq!(store.latest_notice().await.unwrap(), newest);
    assert_eq!(store.notices(None, 10).await.unwrap().len(), 1);
}

//! Filling a database with a past.

use std::sync::Arc;

use billing::WalletVersion;
use engine::store::{
    Database, StoreError,
    fixture::{Filled, InUse, PastEntry, PastRows, PastSession, PastSize, PastUser},
};
use schema::{
    Millis, UserId,
    ledger::EntryKind::{self, Grant, Refund, Revoke, SignupGrant, Usage},
    session::EndReason,
};
use tokio::sync::mpsc;

use crate::{
    on_both,
    support::{Kind, TestDatabase, at, begin_run, credits, node, tariff},
};

on_both! {
    a_past_is_whole
    indexes_and_constraints_stay
    life_goes_on_after_a_past
    a_past_without_an_end_leaves_nothing
    a_past_that_breaks_a_constraint_leaves_nothing
    a_database_in_use_is_refused
}

const SIZE: (u32, u32) = (2, 2);

fn size((users, sessions): (u32, u32)) -> PastSize {
    PastSize {
        node: node("past"),
        tariff: tariff(),
        runs: vec![(at(1_000), at(50_000)), (at(52_000), at(90_000))],
        users,
        sessions,
    }
}

fn user(credits_left: i64, version: i64, last: i64) -> PastUser {
    PastUser {
        credits: credits(credits_left),
        version: WalletVersion::new(version),
        created_at: at(1_000),
        last_instant: at(last),
    }
}

fn session(user: u32, [from, to]: [i64; 2], reason: EndReason, cost: i64) -> PastSession {
    PastSession {
        user,
        started_at: at(from),
        ended_at: at(to),
        reason,
        served: Millis::new(to - from).unwrap(),
        consumed: credits(cost),
        settlements: 1,
        version: WalletVersion::new(3),
    }
}

fn entry(
    user: u32,
    when: i64,
    (kind, session): (EntryKind, Option<u32>),
    [amount, version, balance]: [i64; 3],
) -> PastEntry {
    PastEntry {
        user,
        at: at(when),
        kind,
        amount: credits(amount),
        session,
        version: WalletVersion::new(version),
        balance_after: credits(balance),
    }
}

/// Two users: one of them runs out of credits, is granted some and gets one back; the other one's
/// session is cut off by a restart, and what is left is revoked.
fn past() -> Vec<PastRows> {
    vec![
        PastRows::Users(vec![user(4, 5, 60_000), user(0, 4, 60_000)]),
        PastRows::Sessions(vec![
            session(0, [2_000, 14_000], EndReason::Depleted, 2),
            session(1, [49_000, 50_000], EndReason::Engine, 0),
        ]),
        PastRows::Entries(vec![
            entry(0, 1_000, (SignupGrant, None), [2, 1, 2]),
            entry(1, 1_000, (SignupGrant, None), [2, 1, 2]),
            entry(0, 14_000, (Usage, Some(0)), [2, 3, 0]),
            entry(0, 53_000, (Grant, None), [3, 4, 3]),
            entry(0, 60_000, (Refund, Some(0)), [1, 5, 4]),
            entry(1, 60_000, (Revoke, None), [2, 4, 0]),
        ]),
    ]
}

async fn fill(
    database: &TestDatabase,
    size: PastSize,
    rows: Vec<PastRows>,
) -> Result<Filled, StoreError> {
    let database = Database::open(&database.settings).await.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let sending = tokio::spawn(async move {
        for rows in rows {
            if sender.send(rows).await.is_err() {
                break;
            }
        }
    });
    let filled = database.fill(size, receiver).await;
    sending.await.unwrap();
    filled
}

async fn a_past_is_whole(database: Arc<TestDatabase>) {
    let Ok(Filled::Written(ids)) = fill(&database, size(SIZE), past()).await else {
        panic!("the past is not written");
    };
    assert_eq!(database.violations().await, []);
    assert_eq!(ids.clone().count(), 2);
    let first = UserId::new(*ids.start()).unwrap();
    let sessions = database.store.sessions(first, None, 10).await.unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].started_at, at(2_000));
    assert_eq!(sessions[0].credits_consumed, credits(2));
    let ledger = database.store.ledger(first, None, 10).await.unwrap();
    let kinds: Vec<_> = ledger.iter().rev().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [SignupGrant, Usage, Grant, Refund]);
    let found = database.store.user(first).await.unwrap().unwrap();
    assert_eq!(found.credits, credits(4));
    assert!(found.email.starts_with("fixture-") && found.email.ends_with("@example.invalid"));
}

/// Every index, constraint and trigger, as the database tells it.
async fn definitions(database: &TestDatabase) -> Vec<String> {
    let sql = match database.kind() {
        Kind::Postgres => {
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
             UNION ALL SELECT conrelid::REGCLASS || ' ' || conname || ' ' || pg_get_constraintdef(oid)
                FROM pg_constraint WHERE connamespace = 'public'::REGNAMESPACE
             UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
        }
        Kind::Sqlite => "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_master ORDER BY 1",
    };
    database.texts(sql).await
}

async fn indexes_and_constraints_stay(database: Arc<TestDatabase>) {
    let before = definitions(&database).await;
    fill(&database, size(SIZE), past()).await.unwrap();
    assert_eq!(definitions(&database).await, before);
    assert!(before.iter().any(|text| text.contains("sessions_history")));
}

async fn life_goes_on_after_a_past(database: Arc<TestDatabase>) {
    let Ok(Filled::Written(ids)) = fill(&database, size(SIZE), past()).await else {
        panic!("the past is not written");
    };
    // What is given out next is new.
    let newcomer = database.user(10).await;
    assert!(newcomer.get() > *ids.end());
    let next = database.store.take_session_ids(1).await.unwrap();
    let first = UserId::new(*ids.start()).unwrap();
    let old = database.store.sessions(first, None, 1).await.unwrap();
    assert!(next.start > old[0].session_id.get() + 1);
    let run = begin_run(&database.store, "past", 80_000).await;
    assert_eq!((run.epoch, run.started_at), (3, at(90_001)));
    assert_eq!(database.violations().await, []);
}

async fn a_past_without_an_end_leaves_nothing(database: Arc<TestDatabase>) {
    let before = definitions(&database).await;
    for (promised, sent) in [((2, 3), 3), ((3, 2), 3), (SIZE, 1)] {
        let rows = past().into_iter().take(sent).collect();
        let failed = fill(&database, size(promised), rows).await.unwrap_err();
        assert!(failed.to_string().contains("has ended after"), "{failed}");
    }
    assert_eq!(database.store.count_users().await.unwrap(), 0);
    let recorded = database.store.node_time(&node("past")).await.unwrap();
    assert_eq!(recorded, None);
    assert_eq!(definitions(&database).await, before);
    // And it can be tried again.
    let filled = fill(&database, size(SIZE), past()).await.unwrap();
    assert!(matches!(filled, Filled::Written(_)));
}

async fn a_past_that_breaks_a_constraint_leaves_nothing(database: Arc<TestDatabase>) {
    let bad: [fn(&mut Vec<PastRows>); 3] = [
        // No such session.
        |rows| {
            rows.push(PastRows::Entries(vec![entry(
                0,
                60_000,
                (Usage, Some(9)),
                [1, 6, 3],
            )]));
        },
        // A version twice.
        |rows| {
            rows.push(PastRows::Entries(vec![entry(
                0,
                60_000,
                (Grant, None),
                [1, 5, 5],
            )]));
        },
        // Nothing is moved.
        |rows| {
            rows.push(PastRows::Entries(vec![entry(
                0,
                60_000,
                (Grant, None),
                [0, 6, 4],
            )]));
        },
    ];
    for spoil in bad {
        let mut rows = past();
        spoil(&mut rows);
        assert!(fill(&database, size(SIZE), rows).await.is_err());
        assert_eq!(database.store.count_users().await.unwrap(), 0);
    }
}

async fn a_database_in_use_is_refused(database: Arc<TestDatabase>) {
    let store = &database.store;
    store
        .create_fixture_users(3, credits(1), at(0))
        .await
        .unwrap();
    // Fixtures are nobody.
    assert!(matches!(
        fill(&database, size(SIZE), past()).await,
        Ok(Filled::Written(_))
    ));
    let node = "past".to_owned();
    let refused = Filled::Refused(InUse::Node(node));
    assert_eq!(fill(&database, size(SIZE), past()).await.unwrap(), refused);
    let somebody = database.user(5).await;
    let refused = Filled::Refused(InUse::Users(somebody));
    assert_eq!(fill(&database, size(SIZE), past()).await.unwrap(), refused);
    assert_eq!(store.count_users().await.unwrap(), 6);
}

//! Idempotency keys: kept with the facts that they belong to, and for 24 hours.

use std::{slice, sync::Arc};

use billing::Settlement;
use engine::{
    engine::{Started, Stopped},
    facts::{Fact, FactOutcome, NodeRun, Recording, Refusal},
    keys::{Answer, Fingerprint, IdempotencyKey, KEPT_FOR, KeptAnswer, RequestKey},
};
use schema::{SessionId, UnixMillis, UserId, session::EndReason};

use crate::{
    on_both,
    support::{TestDatabase, at, credits, ended, opening, session, settlement},
};

on_both! {
    a_key_is_kept_with_the_opening
    a_key_is_kept_with_the_end
    keys_that_come_late_tell_what_was_left_at_the_end
    a_key_in_use_refuses_any_other_fact
    an_interim_settlement_keeps_no_key
    a_refused_fact_keeps_no_key
    an_abandoned_start_takes_its_key_with_it
    a_batch_keeps_the_keys_of_many_users
    an_old_key_counts_as_absent
    old_keys_are_deleted_in_portions
    of_a_hundred_starts_under_one_key_one_wins
}

const RECORDED: FactOutcome = FactOutcome::Recorded;
const USED: FactOutcome = FactOutcome::Refused(Refusal::KeyUsed);

const DAY: i64 = KEPT_FOR.get();

fn name(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text.as_bytes()).unwrap()
}

/// The key `text` of a request that asks for the `what`th thing.
fn key(text: &str, what: u8) -> RequestKey {
    RequestKey {
        key: name(text),
        fingerprint: Fingerprint::new([what; 32]),
    }
}

fn under(fact: Fact, keys: &[RequestKey]) -> Recording {
    Recording {
        keys: keys.to_vec(),
        ..fact.into()
    }
}

fn opened(user: UserId, version: i64, id: i64, millis: i64, keys: &[RequestKey]) -> Recording {
    under(Fact::Opening(opening(user, version, id, millis)), keys)
}

/// Session `id` of `user` ends `millis` after the beginning, having cost `total`.
fn last(user: UserId, version: i64, id: i64, total: i64, millis: i64) -> Settlement {
    let settlement = settlement(user, version, id, 1, total, millis, millis);
    ended(settlement, EndReason::User)
}

async fn record(
    database: &TestDatabase,
    run: &NodeRun,
    recordings: &[Recording],
) -> Vec<FactOutcome> {
    database.store.record(run, None, recordings).await.unwrap()
}

async fn kept(
    database: &TestDatabase,
    user: UserId,
    text: &str,
    now: UnixMillis,
) -> Option<KeptAnswer> {
    let key = name(text);
    database.store.kept_answer(user, &key, now).await.unwrap()
}

fn started(id: SessionId, millis: i64, what: u8) -> KeptAnswer {
    KeptAnswer {
        fingerprint: Fingerprint::new([what; 32]),
        answer: Answer::Started(Started {
            session: id,
            started_at: at(millis),
        }),
    }
}

fn stopped(id: SessionId, millis: i64, consumed: i64, final_credits: i64, what: u8) -> KeptAnswer {
    KeptAnswer {
        fingerprint: Fingerprint::new([what; 32]),
        answer: Answer::Stopped(Stopped {
            session: id,
            ended_at: at(millis),
            reason: EndReason::User,
            consumed: credits(consumed),
            final_credits: credits(final_credits),
        }),
    }
}

async fn a_key_is_kept_with_the_opening(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    let other = database.user(100).await;
    let start = opened(user, 1, 1, 10, &[key("k", 1)]);
    assert_eq!(kept(&database, user, "k", at(10)).await, None);
    for _ in 0..2 {
        // The same again has the same outcome.
        assert_eq!(
            record(&database, &run, slice::from_ref(&start)).await,
            [RECORDED]
        );
        assert_eq!(
            kept(&database, user, "k", at(20)).await,
            Some(started(session(1), 10, 1))
        );
    }
    assert_eq!(kept(&database, user, "K", at(20)).await, None);
    assert_eq!(kept(&database, other, "k", at(20)).await, None);
    assert_eq!(database.violations().await, []);
}

async fn a_key_is_kept_with_the_end(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    record(&database, &run, &[opened(user, 1, 1, 0, &[])]).await;
    // Two who stop it at once, one of them twice.
    let keys = [key("a", 1), key("b", 2), key("a", 1)];
    let end = under(Fact::Settlement(last(user, 2, 1, 5, 30_000)), &keys);
    for _ in 0..2 {
        assert_eq!(
            record(&database, &run, slice::from_ref(&end)).await,
            [RECORDED]
        );
        for (text, what) in [("a", 1), ("b", 2)] {
            assert_eq!(
                kept(&database, user, text, at(30_000)).await,
                Some(stopped(session(1), 30_000, 5, 95, what))
            );
        }
    }
}

async fn keys_that_come_late_tell_what_was_left_at_the_end(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    record(&database, &run, &[opened(user, 1, 1, 0, &[])]).await;
    let end = Fact::Settlement(last(user, 2, 1, 5, 30_000));
    record(&database, &run, &[end.into()]).await;
    // Other things happen to the wallet.
    record(&database, &run, &[opened(user, 3, 2, 31_000, &[])]).await;
    let next = settlement(user, 4, 2, 1, 7, 42_000, 73_000);
    record(&database, &run, &[Fact::Settlement(next).into()]).await;

    let late = under(end, &[key("late", 1)]);
    assert_eq!(record(&database, &run, &[late]).await, [RECORDED]);
    assert_eq!(
        kept(&database, user, "late", at(80_000)).await,
        Some(stopped(session(1), 30_000, 5, 95, 1))
    );
    // A session that cost nothing made no entry of its own.
    let free = database.user(0).await;
    record(&database, &run, &[opened(free, 0, 3, 0, &[])]).await;
    let end = under(Fact::Settlement(last(free, 1, 3, 0, 10)), &[key("k", 1)]);
    assert_eq!(record(&database, &run, &[end]).await, [RECORDED]);
    assert_eq!(
        kept(&database, free, "k", at(10)).await,
        Some(stopped(session(3), 10, 0, 0, 1))
    );
}

async fn a_key_in_use_refuses_any_other_fact(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    let start = opened(user, 1, 1, 0, &[key("start", 1)]);
    let end = under(
        Fact::Settlement(last(user, 2, 1, 5, 30_000)),
        &[key("stop", 2)],
    );
    let reused = under(
        Fact::Settlement(last(user, 2, 1, 5, 30_000)),
        &[key("fresh", 3), key("start", 1)],
    );
    record(&database, &run, slice::from_ref(&start)).await;
    assert_eq!(record(&database, &run, &[reused]).await, [USED]);
    assert_eq!(database.wallet(user).await.live.len(), 1, "it lives on");
    assert_eq!(kept(&database, user, "fresh", at(0)).await, None);
    assert_eq!(
        record(&database, &run, slice::from_ref(&end)).await,
        [RECORDED]
    );

    for text in ["start", "stop"] {
        // Also with the fingerprint that it is in use with, and from an older version.
        for (version, what) in [(3, 1), (3, 2), (1, 9)] {
            let again = opened(user, version, 2, 31_000, &[key(text, what)]);
            assert_eq!(record(&database, &run, &[again]).await, [USED], "{text}");
        }
    }
    assert_eq!(
        record(&database, &run, &[start, end]).await,
        [RECORDED, RECORDED],
        "the same again"
    );
    assert_eq!(
        kept(&database, user, "start", at(0)).await,
        Some(started(session(1), 0, 1))
    );
    // Another user's key of the same text is another key.
    let other = database.user(100).await;
    let start = opened(other, 1, 3, 0, &[key("start", 1)]);
    assert_eq!(record(&database, &run, &[start]).await, [RECORDED]);
    assert_eq!(database.violations().await, []);
}

async fn an_interim_settlement_keeps_no_key(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    record(&database, &run, &[opened(user, 1, 1, 0, &[])]).await;
    let interim = Fact::Settlement(settlement(user, 2, 1, 1, 2, 12_000, 12_000));
    let interim = under(interim, &[key("k", 1)]);
    assert_eq!(record(&database, &run, &[interim]).await, [RECORDED]);
    assert_eq!(kept(&database, user, "k", at(12_000)).await, None);
}

async fn a_refused_fact_keeps_no_key(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    record(&database, &run, &[opened(user, 1, 1, 0, &[])]).await;
    let table = [
        (
            opened(user, 2, 2, 10, &[key("k", 1)]),
            FactOutcome::Refused(Refusal::SlotTaken),
        ),
        (opened(user, 1, 2, 10, &[key("k", 1)]), FactOutcome::Stale),
        (
            under(Fact::Settlement(last(user, 2, 9, 5, 10)), &[key("k", 1)]),
            FactOutcome::Refused(Refusal::Contradiction),
        ),
    ];
    for (recording, outcome) in table {
        assert_eq!(record(&database, &run, &[recording]).await, [outcome]);
        assert_eq!(kept(&database, user, "k", at(10)).await, None);
    }
}

async fn an_abandoned_start_takes_its_key_with_it(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    let start = opened(user, 1, 1, 10, &[key("k", 1)]);
    record(&database, &run, &[start]).await;
    let end = settlement(user, 2, 1, 1, 0, 0, 10);
    let undone = Recording {
        forgotten: Some(name("k")),
        ..Fact::Settlement(ended(end, EndReason::Engine)).into()
    };
    assert_eq!(
        record(&database, &run, slice::from_ref(&undone)).await,
        [RECORDED]
    );
    assert_eq!(kept(&database, user, "k", at(10)).await, None);

    let anew = opened(user, 3, 2, 20, &[key("k", 1)]);
    assert_eq!(record(&database, &run, &[anew]).await, [RECORDED]);
    // The same again, after its key has come into use for something else, harms nothing.
    assert_eq!(record(&database, &run, &[undone]).await, [RECORDED]);
    assert_eq!(
        kept(&database, user, "k", at(20)).await,
        Some(started(session(2), 20, 1))
    );
    assert_eq!(database.violations().await, []);
}

async fn a_batch_keeps_the_keys_of_many_users(database: Arc<TestDatabase>) {
    let run = database.run("a").await;
    let mut users = Vec::new();
    for _ in 0..30 {
        users.push(database.user(100).await);
    }
    let recordings = users.iter().zip(1..).map(|(user, id)| {
        let keys = [key(&format!("key-{}", id % 3), 1)];
        opened(*user, 1, id, id, if id % 3 == 0 { &[] } else { &keys })
    });
    let recordings: Vec<Recording> = recordings.collect();
    let outcomes = record(&database, &run, &recordings).await;
    assert_eq!(outcomes, vec![RECORDED; 30]);
    for (user, id) in users.iter().zip(1..) {
        let text = format!("key-{}", id % 3);
        let expected = (id % 3 > 0).then(|| started(session(id), id, 1));
        assert_eq!(kept(&database, *user, &text, at(id)).await, expected);
    }
}

async fn an_old_key_counts_as_absent(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    record(&database, &run, &[opened(user, 1, 1, 0, &[key("k", 1)])]).await;
    let end = last(user, 2, 1, 1, 6_000);
    record(&database, &run, &[Fact::Settlement(end).into()]).await;

    assert_eq!(
        kept(&database, user, "k", at(DAY - 1)).await,
        Some(started(session(1), 0, 1))
    );
    assert_eq!(kept(&database, user, "k", at(DAY)).await, None);
    let again = opened(user, 3, 2, DAY - 1, &[key("k", 2)]);
    assert_eq!(record(&database, &run, &[again]).await, [USED]);
    let again = opened(user, 3, 2, DAY, &[key("k", 2)]);
    assert_eq!(record(&database, &run, &[again]).await, [RECORDED]);
    assert_eq!(
        kept(&database, user, "k", at(2 * DAY - 1)).await,
        Some(started(session(2), DAY, 2))
    );
}

async fn old_keys_are_deleted_in_portions(database: Arc<TestDatabase>) {
    let (store, run) = (&database.store, database.run("a").await);
    let mut users = Vec::new();
    for id in 1..=5 {
        let user = database.user(100).await;
        let start = opened(user, 1, id, id, &[key("k", 1)]);
        record(&database, &run, &[start]).await;
        users.push(user);
    }
    assert_eq!(store.purge_keys(at(0), 10).await.unwrap(), 0);
    assert_eq!(store.purge_keys(at(4), 3).await.unwrap(), 3);
    // The oldest went first.
    for (user, id) in users.iter().zip(1..) {
        let expected = (id > 3).then(|| started(session(id), id, 1));
        assert_eq!(kept(&database, *user, "k", at(5)).await, expected);
    }
    assert_eq!(store.purge_keys(at(4), 3).await.unwrap(), 1);
    assert_eq!(store.purge_keys(at(4), 3).await.unwrap(), 0);
    assert_eq!(
        database
            .number("SELECT count(*) FROM idempotency_keys")
            .await,
        1
    );
}

async fn of_a_hundred_starts_under_one_key_one_wins(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let nodes = [database.run("a").await, database.run("b").await];
    let starts = (1..=100_i64).zip(nodes.iter().cycle()).map(|(id, run)| {
        let (store, run) = (Arc::clone(&database.store), run.clone());
        let start = opened(user, 1, id, 10, &[key("k", 1)]);
        tokio::spawn(async move { store.record(&run, None, &[start]).await.unwrap()[0] })
    });
    let (mut won, mut lost) = (0, 0);
    for start in starts.collect::<Vec<_>>() {
        match start.await.unwrap() {
            RECORDED => won += 1,
            USED => lost += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((won, lost), (1, 99));
    assert_eq!(database.violations().await, []);
}

//! A rich history, written by the store as a server and a command line would.

use std::sync::Arc;

use engine::{
    facts::{Fact, NodeRun, Recording, ResumePolicy},
    keys::{Fingerprint, IdempotencyKey, RequestKey},
    retention::{self, RetentionSettings},
    store::{Adjustment, Erasure, NewPassword, NewUser, RevokedToken, Shortfall},
};
use schema::{CreditsChange, Millis, UserId, ledger::EntryKind, session::EndReason};

use crate::support::{TestDatabase, at, begin_run, credits, ended, opening, session, settlement};

/// Sessions of every end, live ones, pauses, several runs of two nodes, changes by operators, keys, revoked
/// tokens, an erased user, and what retention leaves.
pub async fn make(database: &Arc<TestDatabase>) {
    let store = &database.store;
    store.take_session_ids(20).await.unwrap();
    let first = database.run("a").await;
    let other = database.run("b").await;
    let mut users = Vec::new();
    for number in 0..9_u8 {
        users.push(sign_up(database, number).await);
    }
    let [ada, bob, cleo, dan, eve, fay, gil, hal, ivy] = users[..] else {
        panic!("nine have signed up");
    };

    // Ada stopped hers, under keys, and was refunded some of it.
    let facts = [
        (Fact::Opening(opening(ada, 1, 1, 1_000)), Some("ada-start")),
        (
            Fact::Settlement(settlement(ada, 2, 1, 1, 2, 13_000, 14_000)),
            None,
        ),
        (
            stopped(ada, 3, 1, 2, 3, 20_000, 21_000, EndReason::User),
            Some("ada-stop"),
        ),
    ];
    record(database, &first, facts).await;
    adjust(database, ada, EntryKind::Refund, 2, Some(1)).await;
    let facts = [
        (Fact::Opening(opening(ada, 5, 2, 30_000)), None),
        (
            stopped(ada, 6, 2, 1, 0, 2_000, 32_000, EndReason::User),
            Some("ada-again"),
        ),
    ];
    record(database, &first, facts).await;

    // Bob's credits ran out; then he was given more, and started again on the other node.
    adjust(database, bob, EntryKind::Revoke, 98, None).await;
    let facts = [
        (Fact::Opening(opening(bob, 2, 3, 2_000)), None),
        (
            stopped(bob, 3, 3, 1, 2, 12_000, 14_000, EndReason::Depleted),
            None,
        ),
    ];
    record(database, &first, facts).await;
    adjust(database, bob, EntryKind::Grant, 50, None).await;
    record(
        database,
        &other,
        [(Fact::Opening(opening(bob, 5, 4, 40_000)), Some("bob-start"))],
    )
    .await;

    // Cleo's session lives on through a run that took over, and Dan's ended where a run did not.
    record(
        database,
        &first,
        [(Fact::Opening(opening(cleo, 1, 5, 5_000)), None)],
    )
    .await;
    let facts = [
        (
            Fact::Settlement(settlement(cleo, 2, 5, 1, 4, 25_000, 30_000)),
            None,
        ),
        (Fact::Opening(opening(dan, 1, 6, 31_000)), None),
    ];
    record(database, &first, facts).await;
    database.must_record(&first, 50_000, &[]).await;
    let second = begin_run(store, "a", 60_000).await;
    let more = settlement(cleo, 3, 5, 2, 9, 55_000, 70_000);
    record(database, &second, [(Fact::Settlement(more), None)]).await;
    let lived_on = stopped(dan, 2, 6, 1, 6, 39_000, 80_000, EndReason::Admin);
    record(database, &second, [(lived_on, None)]).await;
    record(
        database,
        &second,
        [(Fact::Opening(opening(dan, 3, 7, 81_000)), None)],
    )
    .await;
    database.must_record(&second, 90_000, &[]).await;
    record(
        database,
        &second,
        [(
            stopped(cleo, 4, 5, 3, 12, 75_000, 90_000, EndReason::User),
            None,
        )],
    )
    .await;
    let third = run_that_ends(database, 200_000).await;
    record(
        database,
        &third,
        [(
            stopped(dan, 4, 7, 1, 1, 9_000, 90_000, EndReason::Engine),
            None,
        )],
    )
    .await;

    // Eve started for nobody; Fay is erased.
    let facts = [
        (
            Fact::Opening(opening(eve, 1, 8, 210_000)),
            Some("eve-nobody"),
        ),
        (
            stopped(eve, 2, 8, 1, 0, 0, 210_000, EndReason::Engine),
            None,
        ),
        (
            Fact::Opening(opening(eve, 3, 9, 211_000)),
            Some("eve-start"),
        ),
    ];
    record(database, &third, facts).await;
    let facts = [
        (Fact::Opening(opening(fay, 1, 10, 212_000)), None),
        (
            stopped(fay, 2, 10, 1, 1, 8_000, 220_000, EndReason::Admin),
            None,
        ),
    ];
    record(database, &third, facts).await;
    store.begin_erasure(fay, at(221_000)).await.unwrap();
    let erasure = Erasure {
        user: fay,
        decided_in: None,
        operator: "tester".to_owned(),
        at: at(222_000),
    };
    store.erase_user(erasure).await.unwrap();

    passwords(database, [gil, hal]).await;
    store.begin_erasure(hal, at(225_000)).await.unwrap();
    retention(database, &third, ivy).await;
    paused(database, &third, gil).await;
    database.must_record(&third, 300_000, &[]).await;
}

async fn sign_up(database: &TestDatabase, number: u8) -> UserId {
    let name = [
        "ada", "bob", "cleo", "dan", "eve", "fay", "gil", "hal", "ivy",
    ][usize::from(number)];
    let user = NewUser {
        email: format!("{name}@example.org"),
        password_hash: (number != 8).then(|| hash(number)),
        grant: credits(100),
        created_at: at(i64::from(number)),
    };
    database.store.create_user(user).await.unwrap().id
}

/// What argon2 makes of a password, in form.
fn hash(number: u8) -> String {
    let salt = format!("{number}AbCdEfGhIjKlMnOpQrStU");
    format!("$argon2id$v=19$m=19456,t=2,p=1${salt}$Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm8")
}

#[allow(
    clippy::too_many_arguments,
    reason = "they are the columns of a session"
)]
fn stopped(
    user: UserId,
    version: i64,
    id: i64,
    seq: i64,
    total: i64,
    served: i64,
    millis: i64,
    reason: EndReason,
) -> Fact {
    Fact::Settlement(ended(
        settlement(user, version, id, seq, total, served, millis),
        reason,
    ))
}

/// Records each of the facts, with its key.
async fn record<const N: usize>(
    database: &TestDatabase,
    run: &NodeRun,
    facts: [(Fact, Option<&str>); N],
) {
    for (fact, key) in facts {
        let key = key.map(|key| RequestKey {
            key: IdempotencyKey::new(key.as_bytes()).unwrap(),
            fingerprint: Fingerprint::new([key.len().try_into().unwrap(); 32]),
        });
        let recording = Recording {
            keys: key.into_iter().collect(),
            ..Recording::from(fact)
        };
        let alive_at = fact.at();
        let outcomes = database
            .store
            .record(run, Some(alive_at), &[recording])
            .await
            .unwrap();
        assert_eq!(outcomes, [engine::facts::FactOutcome::Recorded], "{fact:?}");
    }
}

async fn adjust(
    database: &TestDatabase,
    user: UserId,
    kind: EntryKind,
    amount: i64,
    of: Option<i64>,
) {
    let amount = credits(amount);
    let adjustment = Adjustment {
        user,
        kind,
        amount: if kind == EntryKind::Revoke {
            CreditsChange::outgoing(amount)
        } else {
            CreditsChange::incoming(amount)
        },
        session: of.map(session),
        shortfall: Shortfall::Refuse,
        at: at(24_000),
        reason: "support case".to_owned(),
        operator: "tester".to_owned(),
        idempotency_key: format!("{}-{user}", kind.as_str()),
    };
    database.store.adjust(adjustment).await.unwrap();
}

/// A run that ends what it finds live.
async fn run_that_ends(database: &TestDatabase, millis: i64) -> NodeRun {
    let (node, process) = (
        crate::support::node("a"),
        engine::facts::ProcessId::random(),
    );
    let begun = database
        .store
        .begin_run(&node, &process, at(millis).into(), ResumePolicy::Never);
    begun.await.unwrap()
}

/// One changes the password and keeps a token, another logs out.
async fn passwords(database: &TestDatabase, [changing, leaving]: [UserId; 2]) {
    let store = &database.store;
    let password = NewPassword {
        user: changing,
        hash: hash(9),
        decided_in: None,
        kept_token: Some("0123456789abcdef0123456789abcdef".to_owned()),
        at: at(223_000),
    };
    assert!(store.set_password(password).await.unwrap());
    for (user, id) in [(leaving, "a"), (leaving, "b"), (changing, "c")] {
        let token = RevokedToken {
            token_id: id.repeat(32),
            expires_at: at(86_400_000),
        };
        store.revoke_token(user, token, at(224_000)).await.unwrap();
    }
}

/// Sessions that cost nothing are deleted after a day; one is left that did cost something.
async fn retention(database: &TestDatabase, run: &NodeRun, user: UserId) {
    let facts = [
        (Fact::Opening(opening(user, 1, 11, 230_000)), None),
        (
            stopped(user, 2, 11, 1, 0, 3_000, 233_000, EndReason::User),
            None,
        ),
        (Fact::Opening(opening(user, 3, 12, 240_000)), None),
        (
            stopped(user, 4, 12, 1, 1, 7_000, 247_000, EndReason::User),
            None,
        ),
    ];
    record(database, run, facts).await;
    let settings = RetentionSettings {
        unpaid_sessions: Some(Millis::new(1).unwrap()),
        runs: None,
    };
    let (store, now) = (database.store.as_ref(), at(240_000));
    let swept = retention::sweep(store, settings, now).await.unwrap();
    assert!(swept.sessions >= 1, "{swept:?}");
}

/// A session that was paused from its second to its fourth second, as an earlier release wrote it.
async fn paused(database: &TestDatabase, run: &NodeRun, user: UserId) {
    let facts = [(Fact::Opening(opening(user, 1, 13, 250_000)), None)];
    record(database, run, facts).await;
    let sql = format!(
        "INSERT INTO session_pauses VALUES (13, {}, {}, 'outage'), (13, {}, {}, 'outage')",
        at(252_000).get(),
        at(254_000).get(),
        at(255_000).get(),
        at(256_000).get(),
    );
    database.execute(&sql).await.unwrap();
    let end = stopped(user, 2, 13, 1, 2, 17_000, 270_000, EndReason::User);
    record(database, run, [(end, None)]).await;
}

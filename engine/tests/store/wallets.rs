//! Changes of balances from outside the engine, the notices that they leave, and the ledger.

use std::{collections::HashSet, sync::Arc};

use billing::BalanceChange;
use engine::{
    facts::{Fact, FactOutcome},
    store::{AdjustError, Adjusted, Adjustment},
};
use schema::{Credits, CreditsChange, UserId, ledger::EntryKind, session::EndReason};
use sqlx::postgres::PgListener;

use crate::{
    on_both,
    support::{Kind, TestDatabase, at, begin_run, credits, ended, opening, settlement, version},
};

on_both! {
    a_grant_is_made_once
    an_adjustment_that_makes_no_sense_is_refused
    an_adjustment_counts_from_the_latest_instant_known
    what_sessions_used_or_hold_cannot_be_revoked
    downtime_is_not_used
    notices_are_told_in_order
    old_notices_are_forgotten
    adjustments_and_settlements_at_once_lose_nothing
    history_comes_newest_first_in_pages
    the_ledger_refuses_changes
}

fn grant(user: UserId, amount: i64, key: &str) -> Adjustment {
    Adjustment {
        user,
        kind: EntryKind::Grant,
        amount: CreditsChange::incoming(credits(amount)),
        at: at(10),
        reason: "a good reason".to_owned(),
        operator: "ops".to_owned(),
        idempotency_key: key.to_owned(),
    }
}

fn revoke(user: UserId, amount: i64, millis: i64) -> Adjustment {
    Adjustment {
        kind: EntryKind::Revoke,
        amount: CreditsChange::outgoing(credits(amount)),
        at: at(millis),
        idempotency_key: format!("revoke {amount} at {millis}"),
        ..grant(user, 1, "")
    }
}

async fn a_grant_is_made_once(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (user, other) = (database.user(100).await, database.user(100).await);
    let first = store.adjust(grant(user, 50, "k")).await.unwrap();
    assert!(!first.is_repeat);
    assert_eq!((first.at, first.balance_after), (at(10), credits(150)));

    let again = store
        .adjust(Adjustment {
            at: at(999),
            ..grant(user, 50, "k")
        })
        .await
        .unwrap();
    assert_eq!(
        again,
        Adjusted {
            is_repeat: true,
            ..first
        }
    );
    for conflict in [
        grant(user, 51, "k"),
        Adjustment {
            kind: EntryKind::Refund,
            ..grant(user, 50, "k")
        },
        grant(user, 50, "signup"),
    ] {
        assert!(matches!(
            store.adjust(conflict).await,
            Err(AdjustError::KeyConflict)
        ));
    }
    // Keys are each wallet's own.
    assert!(!store.adjust(grant(other, 7, "k")).await.unwrap().is_repeat);

    let wallet = store.wallet(user, version(1)).await.unwrap().unwrap();
    assert_eq!((wallet.version, wallet.credits), (version(2), credits(150)));
    let change = BalanceChange {
        at: at(10),
        amount: CreditsChange::incoming(credits(50)),
    };
    assert_eq!(wallet.changes, [change]);
    assert!(
        store
            .wallet(user, version(2))
            .await
            .unwrap()
            .unwrap()
            .changes
            .is_empty()
    );

    let entries = store.ledger(user, None, 10).await.unwrap();
    assert_eq!(entries[0].entry_id, first.entry);
    assert_eq!(
        (entries[0].kind, entries[0].reason.as_deref()),
        (EntryKind::Grant, Some("a good reason"))
    );
    assert_eq!(
        database
            .number("SELECT count(*) FROM ledger WHERE operator = 'ops'")
            .await,
        2
    );
    assert_eq!(database.violations().await, []);
}

async fn an_adjustment_that_makes_no_sense_is_refused(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let nobody = UserId::new(user.get() + 1_000).unwrap();
    let outgoing = CreditsChange::outgoing(credits(5));
    let table = [
        ("nobody's", grant(nobody, 5, "a"), "there is no such user"),
        (
            "of nothing",
            Adjustment {
                amount: CreditsChange::default(),
                ..grant(user, 5, "a")
            },
            "the wallet can't",
        ),
        (
            "a grant that takes",
            Adjustment {
                amount: outgoing,
                ..grant(user, 5, "a")
            },
            "the wallet can't",
        ),
        (
            "a revoke that gives",
            Adjustment {
                kind: EntryKind::Revoke,
                ..grant(user, 5, "a")
            },
            "the wallet can't",
        ),
        (
            "usage",
            Adjustment {
                kind: EntryKind::Usage,
                amount: outgoing,
                ..grant(user, 5, "a")
            },
            "the wallet can't",
        ),
        (
            "more than a wallet holds",
            grant(user, Credits::MAX.get(), "a"),
            "the wallet can't",
        ),
        (
            "more than there is",
            revoke(user, 101, 10),
            "the wallet can't",
        ),
    ];
    for (what, adjustment, reason) in table {
        let error = database
            .store
            .adjust(adjustment)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(reason), "{what}: {error}");
    }
    let wallet = database.wallet(user).await;
    assert_eq!((wallet.version, wallet.credits), (version(1), credits(100)));
    assert_eq!(database.store.latest_notice().await.unwrap(), 0);

    let last = database.store.adjust(revoke(user, 100, 10)).await.unwrap();
    assert_eq!(last.balance_after, credits(0));
    assert_eq!(database.violations().await, []);
}

async fn an_adjustment_counts_from_the_latest_instant_known(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    let other = database.run("b").await;
    let adjust = async |key| database.store.adjust(grant(user, 1, key)).await.unwrap().at;
    database.must_record(&run, 5_000, &[]).await;
    assert_eq!(
        adjust("the writer's clock: no node serves the wallet").await,
        at(10)
    );

    database
        .must_record(&run, 5_000, &[Fact::Opening(opening(user, 2, 1, 4_000))])
        .await;
    database.must_record(&other, 90_000, &[]).await;
    assert_eq!(adjust("the node's alive_at").await, at(5_000));

    let interim = settlement(user, 4, 1, 1, 1, 6_500, 10_500);
    database
        .must_record(&run, 5_000, &[Fact::Settlement(interim)])
        .await;
    assert_eq!(adjust("the wallet's last instant").await, at(10_500));
    assert_eq!(database.wallet(user).await.last_instant, at(10_500));
    assert_eq!(database.violations().await, []);
}

async fn what_sessions_used_or_hold_cannot_be_revoked(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    database
        .must_record(&run, 0, &[Fact::Opening(opening(user, 1, 1, 0))])
        .await;
    database.must_record(&run, 12_500, &[]).await;
    let store = &database.store;
    let refused = async |amount, millis| {
        let result = store.adjust(revoke(user, amount, millis)).await;
        assert!(
            matches!(result, Err(AdjustError::OutOfRange)),
            "{amount} at {millis}: {result:?}"
        );
    };
    // Two intervals are charged and one is held by the node's alive_at, or more by the writer's clock.
    refused(98, 0).await;
    refused(90, 60_000).await;
    let taken = store.adjust(revoke(user, 89, 60_000)).await.unwrap();
    assert_eq!((taken.at, taken.balance_after), (at(60_000), credits(11)));
    // By then the credits have run out: all that is left is used.
    refused(1, 66_000).await;
    refused(1, 1_000_000_000).await;

    let last = ended(
        settlement(user, 3, 1, 1, 11, 66_000, 66_000),
        EndReason::Depleted,
    );
    database
        .must_record(&run, 66_000, &[Fact::Settlement(last)])
        .await;
    assert_eq!(database.wallet(user).await.credits, credits(0));
    assert_eq!(database.violations().await, []);
}

async fn downtime_is_not_used(database: Arc<TestDatabase>) {
    let (first, user) = (database.run("a").await, database.user(100).await);
    database
        .must_record(&first, 5_000, &[Fact::Opening(opening(user, 1, 1, 0))])
        .await;
    let second = begin_run(&database.store, "a", 8_900).await;
    database.must_record(&second, 9_900, &[]).await;
    // 5.0 s and 1.0 s: one interval is charged, and the next one held.
    assert!(matches!(
        database.store.adjust(revoke(user, 99, 0)).await,
        Err(AdjustError::OutOfRange)
    ));
    assert_eq!(
        database
            .store
            .adjust(revoke(user, 98, 0))
            .await
            .unwrap()
            .balance_after,
        credits(2)
    );
}

async fn notices_are_told_in_order(database: Arc<TestDatabase>) {
    let store = &database.store;
    let mut listener = None;
    if let engine::store::StoreLocation::Postgres(address) = &database.settings.location {
        let mut listening = PgListener::connect(address).await.unwrap();
        listening.listen("wallet_notices").await.unwrap();
        listener = Some(listening);
    }
    assert_eq!(store.notices(None, 10).await.unwrap(), []);
    let users = [
        database.user(1).await,
        database.user(1).await,
        database.user(1).await,
    ];
    for user in users {
        store.adjust(grant(user, 1, "k")).await.unwrap();
    }
    let notices = store.notices(None, 10).await.unwrap();
    assert_eq!(
        notices.iter().map(|notice| notice.user).collect::<Vec<_>>(),
        users
    );
    assert_eq!(store.notices(None, 2).await.unwrap(), notices[..2]);
    assert_eq!(
        store.notices(Some(notices[1].id), 2).await.unwrap(),
        notices[2..]
    );
    assert_eq!(store.notices(Some(notices[2].id), 2).await.unwrap(), []);
    assert_eq!(store.latest_notice().await.unwrap(), notices[2].id);
    // A repeat writes nothing, so it tells nothing.
    store.adjust(grant(users[0], 1, "k")).await.unwrap();
    assert_eq!(store.latest_notice().await.unwrap(), notices[2].id);
    if let Some(mut listener) = listener {
        for user in users {
            assert_eq!(listener.recv().await.unwrap().payload(), user.to_string());
        }
    }
}

async fn old_notices_are_forgotten(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = database.user(1).await;
    for (key, millis) in [("a", 0), ("b", 10), ("c", 3_600_005)] {
        store
            .adjust(Adjustment {
                at: at(millis),
                ..grant(user, 1, key)
            })
            .await
            .unwrap();
    }
    let ids: Vec<_> = store
        .notices(None, 10)
        .await
        .unwrap()
        .iter()
        .map(|notice| notice.id)
        .collect();
    assert_eq!(ids, [2, 3]);
}

async fn adjustments_and_settlements_at_once_lose_nothing(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(1_000).await);
    database
        .must_record(&run, 0, &[Fact::Opening(opening(user, 1, 1, 0))])
        .await;
    let other = database.another().await;
    let grants = (0..20).map(|n| {
        let store = if n % 2 == 0 {
            Arc::clone(&database.store)
        } else {
            Arc::clone(&other)
        };
        tokio::spawn(async move {
            store
                .adjust(grant(user, 10, &format!("key {}", n / 2)))
                .await
                .unwrap()
        })
    });
    let grants: Vec<_> = grants.collect();
    // Each settlement is decided anew until it is recorded, as a session would.
    for seq in 1..=20 {
        loop {
            let decided_from = database.wallet(user).await.version.get();
            let fact = settlement(user, decided_from, 1, seq, seq, seq * 6_000, seq * 6_000);
            match database.record(&run, Fact::Settlement(fact)).await {
                FactOutcome::Recorded => break,
                FactOutcome::Stale => {}
                FactOutcome::Refused(refusal) => panic!("{refusal}"),
            }
        }
    }
    let mut entries = HashSet::new();
    for grant in grants {
        entries.insert(grant.await.unwrap().entry);
    }
    assert_eq!(entries.len(), 10);
    let wallet = database.wallet(user).await;
    assert_eq!(
        (wallet.credits, wallet.version),
        (credits(1_000 + 100 - 20), version(2 + 10 + 20))
    );
    assert_eq!(database.violations().await, []);
    other.close().await;
}

async fn history_comes_newest_first_in_pages(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (run, user, other) = (
        database.run("a").await,
        database.user(100).await,
        database.user(100).await,
    );
    // Ids come from blocks, so they don't follow the order of time; two start at the same instant.
    let (ids, starts) = ([7, 3, 9, 1, 5], [0, 100, 100, 200, 300]);
    let mut number = 1;
    for (id, start) in ids.into_iter().zip(starts) {
        let last = ended(
            settlement(user, number + 1, id, 1, 0, 0, start),
            EndReason::User,
        );
        for fact in [
            Fact::Opening(opening(user, number, id, start)),
            Fact::Settlement(last),
        ] {
            database.must_record(&run, start, &[fact]).await;
            number += 1;
        }
    }
    database
        .must_record(&run, 0, &[Fact::Opening(opening(other, 1, 20, 150))])
        .await;

    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = store.sessions(user, before, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(engine::store::SessionCursor {
            started_at: last.started_at,
            session: last.session_id,
        });
        seen.push(
            page.iter()
                .map(|session| session.session_id.get())
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen, [vec![5, 1], vec![9, 3], vec![7]]);
    let theirs = crate::support::session(20);
    assert!(
        store.session(user, theirs).await.unwrap().is_none(),
        "another user's session"
    );
    let live = store.session(other, theirs).await.unwrap().unwrap();
    assert_eq!((live.ended_at, live.end_reason), (None, None));

    for n in 0..4 {
        store
            .adjust(grant(user, n + 1, &format!("k{n}")))
            .await
            .unwrap();
    }
    let first = store.ledger(user, None, 3).await.unwrap();
    let second = store
        .ledger(user, Some(first[2].entry_id), 3)
        .await
        .unwrap();
    let amounts = |page: &[schema::ledger::LedgerEntry]| {
        page.iter()
            .map(|entry| entry.amount.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (amounts(&first), amounts(&second)),
        (vec![4, 3, 2], vec![1, 100])
    );
    assert_eq!(
        store
            .ledger(user, Some(second[1].entry_id), 3)
            .await
            .unwrap(),
        []
    );
}

async fn the_ledger_refuses_changes(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let mut changes = vec![
        "UPDATE ledger SET amount = 5",
        "DELETE FROM ledger",
        "DELETE FROM ledger WHERE id = 1",
    ];
    if database.kind() == Kind::Postgres {
        changes.push("TRUNCATE ledger");
    }
    for sql in changes {
        let error = database.execute(sql).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{sql}: {error}");
    }
    // Nor does the database take what no wallet can be.
    for sql in [
        "UPDATE users SET credits = -1",
        "UPDATE users SET credits = 9007199254740992",
        "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, wallet_version, balance_after,
            created_at) SELECT id, 1, 'grant', id, -1, 5, 2, 5, 1 FROM users",
        "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, wallet_version, balance_after,
            created_at) SELECT id, 1, 'gift', -1, id, 5, 2, 5, 1 FROM users",
        "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, wallet_version, balance_after,
            created_at) SELECT id, 1, 'grant', -1, id, 0, 2, 5, 1 FROM users",
        "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, wallet_version, balance_after,
            created_at) SELECT id, 1, 'grant', -1, id, 5, 1, 5, 1 FROM users",
    ] {
        assert!(database.execute(sql).await.is_err(), "{sql}");
    }
    assert_eq!(database.wallet(user).await.credits, credits(100));
    assert_eq!(database.violations().await, []);
}

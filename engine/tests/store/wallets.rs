//! Changes of balances from outside the engine, the notices that they leave, and the ledger.

use std::{collections::HashSet, sync::Arc};

use billing::{BalanceChange, Opening, SlotNumber, Wallet};
use engine::{
    facts::{Fact, FactOutcome, WalletAsked, WalletRecord},
    store::{AdjustError, Adjusted, Adjustment, Erasure, NewUser, Shortfall, Store},
};
use schema::{Credits, CreditsChange, UnixMillis, UserId, ledger::EntryKind, session::EndReason};
use sqlx::postgres::PgListener;

use crate::{
    on_both,
    support::{
        Kind, TestDatabase, at, begin_run, credits, ended, opening, session, settlement, version,
    },
};

on_both! {
    a_grant_is_made_once
    an_adjustment_that_makes_no_sense_is_refused
    no_clock_but_its_nodes_dates_what_a_wallet_records
    what_came_before_is_told_by_versions
    what_ended_first_is_recorded_first
    signups_and_erasures_are_dated_by_runs
    what_sessions_used_or_hold_cannot_be_revoked
    a_revoke_takes_what_is_free_if_told_to
    a_refund_never_exceeds_what_the_session_cost
    a_hundred_grants_at_once_with_one_key_are_one
    a_hundred_refunds_at_once_stay_below_the_cost
    downtime_is_not_used
    notices_are_told_in_order
    old_notices_are_forgotten
    adjustments_and_settlements_at_once_lose_nothing
    history_comes_newest_first_in_pages
    unpaid_sessions_are_found_by_their_ends
    many_wallets_are_read_at_once
    the_ledger_refuses_changes
}

fn grant(user: UserId, amount: i64, key: &str) -> Adjustment {
    Adjustment {
        user,
        kind: EntryKind::Grant,
        amount: CreditsChange::incoming(credits(amount)),
        session: None,
        shortfall: Shortfall::Refuse,
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

fn refund(user: UserId, of: i64, amount: i64, key: &str) -> Adjustment {
    Adjustment {
        kind: EntryKind::Refund,
        session: Some(session(of)),
        ..grant(user, amount, key)
    }
}

/// A session of the user's that has ended and cost `total`. The wallet is at version 1 before.
async fn a_session_that_cost(database: &TestDatabase, user: UserId, id: i64, total: i64) {
    let run = database.run(&format!("node-{id}")).await;
    let served = total * 6_000;
    let last = ended(
        settlement(user, 2, id, 1, total, served, served),
        EndReason::User,
    );
    for fact in [
        Fact::Opening(opening(user, 1, id, 0)),
        Fact::Settlement(last),
    ] {
        database.must_record(&run, served, &[fact]).await;
    }
}

async fn a_grant_is_made_once(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (user, other) = (database.user(100).await, database.user(100).await);
    let first = store.adjust(grant(user, 50, "k")).await.unwrap();
    assert!(!first.is_repeat);
    assert_eq!(
        (first.at, first.balance_after),
        (UnixMillis::EPOCH, credits(150))
    );

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
            session: Some(session(1)),
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
        at: UnixMillis::EPOCH,
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
            "no operator can",
        ),
        (
            "a grant that takes",
            Adjustment {
                amount: outgoing,
                ..grant(user, 5, "a")
            },
            "no operator can",
        ),
        (
            "a revoke that gives",
            Adjustment {
                kind: EntryKind::Revoke,
                ..grant(user, 5, "a")
            },
            "no operator can",
        ),
        (
            "usage",
            Adjustment {
                kind: EntryKind::Usage,
                amount: outgoing,
                ..grant(user, 5, "a")
            },
            "no operator can",
        ),
        (
            "a grant for a session",
            Adjustment {
                session: Some(session(1)),
                ..grant(user, 5, "a")
            },
            "no operator can",
        ),
        (
            "a refund for no session",
            Adjustment {
                kind: EntryKind::Refund,
                ..grant(user, 5, "a")
            },
            "no operator can",
        ),
        (
            "a refund for a session that never was",
            refund(user, 1, 5, "a"),
            "the user has no such session",
        ),
        (
            "more than a wallet holds",
            grant(user, Credits::MAX.get(), "a"),
            "the wallet holds 100 and",
        ),
        (
            "more than there is",
            revoke(user, 101, 10),
            "only 100 credits are free",
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

/// A year, in ms.
const YEAR: i64 = 365 * 24 * 3_600_000;

/// How far the clock of a writer is off, in ms.
const OFF_BY: [i64; 7] = [-YEAR, -7_200_000, -1, 0, 90_000, 7_200_000, YEAR];

async fn no_clock_but_its_nodes_dates_what_a_wallet_records(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let adjust = async |off: i64, what: &str| {
        let adjustment = Adjustment {
            at: at(off),
            ..grant(user, 1, &format!("{what} {off}"))
        };
        database.store.adjust(adjustment).await.unwrap().at
    };
    for off in OFF_BY {
        let found = adjust(off, "before the first run").await;
        assert_eq!(found, UnixMillis::EPOCH, "no run has proved anything");
    }
    let (run, other) = (database.run("a").await, database.run("b").await);
    database.must_record(&run, 5_000, &[]).await;
    database.must_record(&other, 90_000, &[]).await;
    for off in OFF_BY {
        let found = adjust(off, "no session").await;
        assert_eq!(
            found,
            at(off.min(90_000)),
            "no later than any node has proved"
        );
    }

    let version = database.wallet(user).await.version.get();
    database
        .must_record(
            &run,
            5_000,
            &[Fact::Opening(opening(user, version, 1, 4_000))],
        )
        .await;
    for off in OFF_BY {
        assert_eq!(adjust(off, "the node's alive_at").await, at(5_000));
    }
    let version = database.wallet(user).await.version.get();
    let interim = settlement(user, version, 1, 1, 1, 6_500, 10_500);
    database
        .must_record(&run, 5_000, &[Fact::Settlement(interim)])
        .await;
    for off in OFF_BY {
        assert_eq!(adjust(off, "what it recorded last").await, at(10_500));
    }
    // What the writers' clocks said stands beside it, and nobody computes with it.
    let sql = format!(
        "SELECT count(*) FROM ledger WHERE recorded_at = {}",
        at(YEAR).get()
    );
    assert_eq!(database.number(&sql).await, 4);
    let sql = "SELECT max(at) FROM ledger";
    assert_eq!(database.number(sql).await, at(90_000).get());
    assert_eq!(database.violations().await, []);
}

/// Another writer's entries may be dated after the start that they came before, and before the start that
/// they came after.
async fn what_came_before_is_told_by_versions(database: Arc<TestDatabase>) {
    let (run, ahead) = (database.run("a").await, database.run("ahead").await);
    let user = database.user(10).await;
    database.must_record(&ahead, 7_200_000, &[]).await;
    let store = &database.store;
    let early = Adjustment {
        at: at(7_200_000),
        ..grant(user, 5, "before the start")
    };
    assert_eq!(store.adjust(early).await.unwrap().at, at(7_200_000));
    assert_eq!(database.wallet(user).await.since_checkpoints, []);

    let start = Fact::Opening(opening(user, 2, 1, 1_000));
    database.must_record(&run, 2_000, &[start]).await;
    assert_eq!(database.wallet(user).await.since_checkpoints, []);

    let change = |millis, amount| BalanceChange {
        at: at(millis),
        amount: CreditsChange::incoming(credits(amount)),
    };
    store
        .adjust(grant(user, 7, "after the start"))
        .await
        .unwrap();
    let changes = [change(2_000, 7)];
    assert_eq!(database.wallet(user).await.since_checkpoints, changes);
    let standing = store.standing(user, at(YEAR)).await.unwrap().unwrap();
    assert_eq!((standing.at, standing.free), (at(2_000), credits(21)));

    let interim = settlement(user, 4, 1, 1, 1, 6_000, 7_000);
    let interim = Fact::Settlement(interim);
    database.must_record(&run, 7_000, &[interim]).await;
    assert_eq!(database.wallet(user).await.since_checkpoints, []);
    store
        .adjust(grant(user, 3, "after the settlement"))
        .await
        .unwrap();
    let changes = [change(7_000, 3)];
    assert_eq!(database.wallet(user).await.since_checkpoints, changes);
    assert_eq!(
        database.number("SELECT wallet_version FROM sessions").await,
        5
    );
}

/// Two sessions on one wallet. The one that ended last has the lower id; were its end recorded first, a
/// top-up in between would count for the other one as if it had always been there.
async fn what_ended_first_is_recorded_first(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(1_000).await);
    for (version, id, slot) in [(1, 2, 1), (2, 1, 0)] {
        let start = Opening {
            slot: SlotNumber::new(slot),
            ..opening(user, version, id, 0)
        };
        database.must_record(&run, 0, &[Fact::Opening(start)]).await;
    }
    let rebuilt = |record: &WalletRecord, now| {
        let live: Vec<_> = record
            .live
            .iter()
            .map(|live| live.session.clone())
            .collect();
        let (user, version, credits) = (record.user, record.version, record.credits);
        let changes = &record.since_checkpoints;
        Wallet::recovered(
            user,
            version,
            credits,
            &live,
            changes,
            &[run.lasting()],
            now,
        )
    };
    let mut wallet = rebuilt(&database.wallet(user).await, at(0));
    wallet
        .stop(at(899_000), session(2), EndReason::User)
        .unwrap();
    wallet
        .stop(at(900_000), session(1), EndReason::User)
        .unwrap();
    let first = wallet.settlement_due().unwrap();
    assert_eq!((first.session, first.at), (session(2), at(899_000)));
    database
        .must_record(&run, 899_500, &[Fact::Settlement(first)])
        .await;

    // The process dies. The other session lives on in the database, and what others write comes after
    // all that is recorded.
    let adjusted = database
        .store
        .adjust(grant(user, 5, "top-up"))
        .await
        .unwrap();
    assert_eq!(adjusted.at, at(899_500));
    let record = database.wallet(user).await;
    let change = BalanceChange {
        at: at(899_500),
        amount: CreditsChange::incoming(credits(5)),
    };
    assert_eq!(record.since_checkpoints, [change]);
    let mut wallet = rebuilt(&record, at(899_500));
    assert_eq!(wallet.sessions().len(), 1);
    wallet
        .stop(at(900_000), session(1), EndReason::User)
        .unwrap();
    let second = wallet.settlement_due().unwrap();
    assert_eq!((second.session, second.total), (session(1), credits(150)));
    database
        .must_record(&run, 900_000, &[Fact::Settlement(second)])
        .await;
    assert_eq!(
        database.wallet(user).await.credits,
        credits(1_005 - 149 - 150)
    );
    assert_eq!(database.violations().await, []);
}

async fn signups_and_erasures_are_dated_by_runs(database: Arc<TestDatabase>) {
    let run = database.run("a").await;
    database.must_record(&run, 5_000, &[]).await;
    let store = &database.store;
    for (off, expected) in [(-YEAR, -YEAR), (4_000, 4_000), (YEAR, 5_000)] {
        let new = NewUser {
            email: format!("by-a-clock-{off}@example.org"),
            password_hash: None,
            grant: credits(5),
            created_at: at(off),
        };
        let user = store.create_user(new).await.unwrap();
        assert_eq!(user.created_at, at(expected));
        let fixture = store.create_fixture_users(1, credits(5), at(off)).await;
        assert!(store.begin_erasure(user.id, at(off)).await.unwrap());
        let erasure = Erasure {
            user: user.id,
            decided_in: None,
            operator: "ops".to_owned(),
            at: at(off),
        };
        store.erase_user(erasure).await.unwrap();
        store
            .void_tokens(fixture.unwrap()[0], at(off))
            .await
            .unwrap();
    }
    for (table, column) in [
        ("users", "created_at"),
        ("users", "updated_at"),
        ("users", "last_instant"),
        ("users", "closing_at"),
        ("users", "erased_at"),
        ("ledger", "at"),
        ("ledger", "created_at"),
        ("wallet_notices", "created_at"),
    ] {
        let sql = format!("SELECT max({column}) FROM {table}");
        let latest = database.number(&sql).await;
        assert_eq!(latest, at(5_000).get(), "{table}.{column}");
    }
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
            matches!(result, Err(AdjustError::MoreThanFree { free }) if free < credits(amount)),
            "{amount} at {millis}: {result:?}"
        );
    };
    // Two intervals are charged and one is held by the node's alive_at, whatever the writer's clock says.
    for millis in OFF_BY {
        refused(98, millis).await;
    }
    database.must_record(&run, 60_000, &[]).await;
    refused(90, 0).await;
    let taken = store.adjust(revoke(user, 89, YEAR)).await.unwrap();
    assert_eq!((taken.at, taken.balance_after), (at(60_000), credits(11)));
    // By then the credits have run out: all that is left is used.
    database.must_record(&run, 66_000, &[]).await;
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
        Err(AdjustError::MoreThanFree { free }) if free == credits(98)
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

async fn a_revoke_takes_what_is_free_if_told_to(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    database
        .must_record(&run, 12_500, &[Fact::Opening(opening(user, 1, 1, 0))])
        .await;
    let all = Adjustment {
        shortfall: Shortfall::TakeWhatIsFree,
        ..revoke(user, 1_000, 0)
    };
    // Two intervals are charged, and one is held.
    let store = &database.store;
    let taken = store.adjust(all.clone()).await.unwrap();
    assert_eq!((taken.amount.get(), taken.balance_after), (-97, credits(3)));
    let again = store.adjust(all.clone()).await.unwrap();
    assert_eq!(
        again,
        Adjusted {
            is_repeat: true,
            ..taken
        }
    );
    for (amount, shortfall) in [(96, Shortfall::TakeWhatIsFree), (1_000, Shortfall::Refuse)] {
        let other = Adjustment {
            amount: CreditsChange::outgoing(credits(amount)),
            shortfall,
            ..all.clone()
        };
        let result = store.adjust(other).await;
        assert!(matches!(result, Err(AdjustError::KeyConflict)), "{amount}");
    }
    let more = Adjustment {
        idempotency_key: "another".to_owned(),
        ..all
    };
    let result = store.adjust(more).await;
    assert!(
        matches!(result, Err(AdjustError::MoreThanFree { free }) if free.is_zero()),
        "{result:?}"
    );
    let standing = store.standing(user, at(0)).await.unwrap().unwrap();
    assert_eq!(
        (standing.at, standing.balance, standing.free),
        (at(12_500), credits(1), credits(0))
    );
    assert_eq!(standing.consumed, [(session(1), credits(2))]);
    assert_eq!(database.violations().await, []);
}

async fn a_refund_never_exceeds_what_the_session_cost(database: Arc<TestDatabase>) {
    let (user, other) = (database.user(100).await, database.user(100).await);
    a_session_that_cost(&database, user, 1, 5).await;
    a_session_that_cost(&database, other, 2, 5).await;
    let store = &database.store;
    let first = store.adjust(refund(user, 1, 3, "k")).await.unwrap();
    assert_eq!(first.balance_after, credits(98));
    let again = store.adjust(refund(user, 1, 3, "k")).await.unwrap();
    assert_eq!((again.entry, again.is_repeat), (first.entry, true));
    for conflict in [
        refund(user, 1, 2, "k"),
        refund(user, 2, 3, "k"),
        grant(user, 3, "k"),
    ] {
        let result = store.adjust(conflict).await;
        assert!(
            matches!(result, Err(AdjustError::KeyConflict)),
            "{result:?}"
        );
    }
    let result = store.adjust(refund(user, 1, 3, "more")).await;
    assert!(
        matches!(result, Err(AdjustError::MoreThanSpent { spent, refunded })
            if (spent, refunded) == (credits(5), credits(3))),
        "{result:?}"
    );
    let result = store.adjust(refund(user, 2, 1, "another's")).await;
    assert!(matches!(result, Err(AdjustError::SessionUnknown)));
    store.adjust(refund(user, 1, 2, "the rest")).await.unwrap();

    let entries = store.ledger(user, None, 2).await.unwrap();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.kind, entry.amount.get(), entry.session_id))
        .collect();
    let of_session = |amount| (EntryKind::Refund, amount, Some(session(1)));
    assert_eq!(told, [of_session(2), of_session(3)]);
    assert_eq!(database.violations().await, []);
}

async fn a_hundred_grants_at_once_with_one_key_are_one(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let other = database.another().await;
    let results = at_once(&[&database.store, &other], |_| grant(user, 7, "k")).await;
    let mut entries = HashSet::new();
    for result in results {
        let adjusted = result.unwrap();
        assert_eq!(adjusted.balance_after, credits(107));
        entries.insert(adjusted.entry);
    }
    assert_eq!(entries.len(), 1);
    assert_eq!(database.wallet(user).await.credits, credits(107));
    assert_eq!(database.violations().await, []);
    other.close().await;
}

async fn a_hundred_refunds_at_once_stay_below_the_cost(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    a_session_that_cost(&database, user, 1, 17).await;
    let other = database.another().await;
    let results = at_once(&[&database.store, &other], |n| {
        refund(user, 1, 2, &format!("key {n}"))
    })
    .await;
    let made = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(made, 8);
    for result in results.into_iter().filter_map(Result::err) {
        assert!(
            matches!(result, AdjustError::MoreThanSpent { .. }),
            "{result:?}"
        );
    }
    let wallet = database.wallet(user).await;
    assert_eq!(wallet.credits, credits(100 - 17 + 16));
    assert_eq!(database.violations().await, []);
    other.close().await;
}

/// Makes a hundred adjustments at the same time, by these stores in turn.
async fn at_once(
    stores: &[&Arc<dyn Store>],
    adjustment: impl Fn(usize) -> Adjustment,
) -> Vec<Result<Adjusted, AdjustError>> {
    let adjustments = stores.iter().cycle().take(100).enumerate();
    let tasks: Vec<_> = adjustments
        .map(|(n, store)| {
            let (store, adjustment) = (Arc::clone(store), adjustment(n));
            tokio::spawn(async move { store.adjust(adjustment).await })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
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

/// They are as old as the nodes that read them say: a writer whose clock is ahead forgets none of them.
async fn old_notices_are_forgotten(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(1).await);
    let ids = async || {
        let notices = database.store.notices(None, 10).await.unwrap();
        notices.iter().map(|notice| notice.id).collect::<Vec<_>>()
    };
    for (key, alive_at) in [("a", 0), ("b", 10), ("c", 3_600_005)] {
        database.must_record(&run, alive_at, &[]).await;
        let adjustment = Adjustment {
            at: at(YEAR),
            ..grant(user, 1, key)
        };
        database.store.adjust(adjustment).await.unwrap();
    }
    assert_eq!(ids().await, [2, 3]);
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

async fn unpaid_sessions_are_found_by_their_ends(database: Arc<TestDatabase>) {
    let (run, user, other) = (
        database.run("a").await,
        database.user(100).await,
        database.user(100).await,
    );
    // Its start and end, what it cost, and why it ended.
    let table = [
        (0, 900, 0, EndReason::User),
        (1_000, 2_500, 0, EndReason::User),
        (3_000, 9_000, 1, EndReason::User),
        (10_000, 10_000, 0, EndReason::Engine),
        (11_000, 12_000, 0, EndReason::Admin),
        (13_000, 14_000, 0, EndReason::User),
        (15_000, 16_000, 0, EndReason::User),
    ];
    let mut number = 1;
    for (index, (start, end, cost, reason)) in table.into_iter().enumerate() {
        let id = i64::try_from(index).unwrap() + 1;
        let served = if reason == EndReason::Engine {
            0
        } else {
            end - start
        };
        let last = ended(
            settlement(user, number + 1, id, 1, cost, served, end),
            reason,
        );
        for fact in [
            Fact::Opening(opening(user, number, id, start)),
            Fact::Settlement(last),
        ] {
            database.must_record(&run, end, &[fact]).await;
            number += 1;
        }
    }
    database
        .must_record(&run, 0, &[Fact::Opening(opening(other, 1, 20, 150))])
        .await;
    let asked = [user, other].map(|user| WalletAsked {
        user,
        since: version(i64::MAX),
    });
    let check = async |since, expected: &[i64]| {
        let read = database.store.wallets(&asked, Some(at(since))).await;
        let ends = read
            .unwrap()
            .into_iter()
            .map(|read| read.unwrap().unpaid_ends);
        let expected: Vec<_> = expected.iter().map(|end| at(*end)).collect();
        assert_eq!(ends.collect::<Vec<_>>(), [expected, Vec::new()], "{since}");
    };
    check(-10, &[16_000, 14_000, 2_500, 900]).await;
    check(899, &[16_000, 14_000, 2_500, 900]).await;
    check(900, &[16_000, 14_000, 2_500]).await;
    check(2_000, &[16_000, 14_000, 2_500]).await;
    check(2_500, &[16_000, 14_000]).await;
    check(16_000, &[]).await;
}

async fn many_wallets_are_read_at_once(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (user, other) = (database.user(100).await, database.user(20).await);
    let nobody = UserId::new(other.get() + 1_000).unwrap();
    for (user, amount, key) in [(user, 5, "a"), (other, 7, "b"), (user, 6, "c")] {
        store.adjust(grant(user, amount, key)).await.unwrap();
    }
    let asked = [(user, 2), (nobody, 1), (other, 1), (user, 1), (other, 2)];
    let asked = asked.map(|(user, since)| WalletAsked {
        user,
        since: version(since),
    });
    let read = store.wallets(&asked, None).await.unwrap();
    let told = read.into_iter().map(|read| {
        let record = read?.record;
        let changes = record.changes.iter().map(|change| change.amount.get());
        Some((
            record.user,
            record.credits.get(),
            changes.collect::<Vec<_>>(),
        ))
    });
    let expected = [
        Some((user, 111, vec![6])),
        None,
        Some((other, 27, vec![7])),
        Some((user, 111, vec![5, 6])),
        Some((other, 27, vec![])),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(store.wallets(&[], None).await.unwrap(), []);
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

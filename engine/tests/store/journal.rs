//! Runs of nodes and the journal's batches: what becomes of every fact.

use std::{collections::HashSet, sync::Arc};

use billing::{ChargedAt, Run, Settled, SlotNumber, Span, Takeover, Tariff};
use engine::{
    facts::{Fact, FactOutcome, NodeRun, Refusal},
    store::StoreError,
};
use schema::{Millis, UserId, session::EndReason};

use crate::{
    on_both,
    support::{
        TestDatabase, at, begin_run, credits, ended, node, opening, session, settlement, version,
        within_a_minute, without_keys,
    },
};

on_both! {
    a_session_is_recorded_from_start_to_end
    an_opening_has_one_outcome
    a_settlement_has_one_outcome
    one_refused_fact_spoils_nothing
    a_superseded_run_writes_nothing
    runs_of_a_node_follow_each_other
    a_run_in_place_may_be_begun_again_but_not_after_another_process
    a_run_begins_after_all_that_was_recorded
    runs_that_begin_at_once_leave_one_that_writes
    of_a_hundred_starts_at_once_one_wins
    session_ids_are_never_given_out_twice
    live_wallets_come_in_pages
}

const RECORDED: FactOutcome = FactOutcome::Recorded;
const STALE: FactOutcome = FactOutcome::Stale;
const UNKNOWN: FactOutcome = FactOutcome::Refused(Refusal::UserUnknown);
const TAKEN: FactOutcome = FactOutcome::Refused(Refusal::SlotTaken);
const ENDED: FactOutcome = FactOutcome::Refused(Refusal::SessionEnded);
const CONTRADICTION: FactOutcome = FactOutcome::Refused(Refusal::Contradiction);

async fn a_session_is_recorded_from_start_to_end(database: Arc<TestDatabase>) {
    let (store, run, user) = (
        &database.store,
        database.run("a").await,
        database.user(100).await,
    );
    database
        .must_record(&run, 10, &[Fact::Opening(opening(user, 1, 5, 10))])
        .await;
    let wallet = database.wallet(user).await;
    assert_eq!(
        (wallet.version, wallet.credits, wallet.last_instant),
        (version(2), credits(100), at(10))
    );
    assert_eq!(wallet.live.len(), 1);
    assert_eq!(
        (wallet.live[0].session.id, wallet.live[0].session.started_at),
        (session(5), at(10))
    );
    assert_eq!(
        (
            wallet.live[0].session.settled,
            wallet.live[0].session.checkpoint.at
        ),
        (Settled::default(), at(10))
    );

    let interim = settlement(user, 2, 5, 1, 3, 20_000, 20_010);
    database
        .must_record(&run, 20_010, &[Fact::Settlement(interim)])
        .await;
    let wallet = database.wallet(user).await;
    assert_eq!(
        (wallet.version, wallet.credits, wallet.last_instant),
        (version(3), credits(97), at(20_010))
    );
    assert_eq!(
        wallet.live[0].session.settled,
        Settled {
            seq: 1,
            total: credits(3)
        }
    );
    assert_eq!(
        (
            wallet.live[0].session.checkpoint.at,
            wallet.live[0].session.checkpoint.served.get()
        ),
        (at(20_010), 20_000)
    );

    let last = ended(
        settlement(user, 3, 5, 2, 3, 21_000, 21_010),
        EndReason::User,
    );
    database
        .must_record(&run, 21_010, &[Fact::Settlement(last)])
        .await;
    let wallet = database.wallet(user).await;
    assert_eq!(
        (wallet.version, wallet.credits, wallet.live.len()),
        (version(4), credits(97), 0)
    );
    let record = store.session(user, session(5)).await.unwrap().unwrap();
    assert_eq!(
        (record.started_at, record.ended_at),
        (at(10), Some(at(21_010)))
    );
    assert_eq!(
        (record.credits_consumed, record.served_ms.get()),
        (credits(3), 21_000)
    );
    assert_eq!(record.end_reason, Some(EndReason::User));

    // The last settlement moved nothing: it has no entry.
    let entries = store.ledger(user, None, 10).await.unwrap();
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| (entry.kind.as_str(), entry.amount.get()))
        .collect();
    assert_eq!(entries, [("usage", -3), ("signup_grant", 100)]);
    assert_eq!(database.proved_by("a").await, Some(at(21_010)));
    assert_eq!(database.violations().await, []);
}

async fn an_opening_has_one_outcome(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    let nobody = UserId::new(user.get() + 1_000).unwrap();
    let first = opening(user, 1, 1, 10);
    let dear = Tariff::new(credits(2), Millis::new(6_000).unwrap(), ChargedAt::End).unwrap();
    let table = [
        ("of nobody", opening(nobody, 0, 9, 10), UNKNOWN),
        ("from an older version", opening(user, 0, 1, 10), STALE),
        (
            "from a version that is not yet",
            opening(user, 2, 1, 10),
            STALE,
        ),
        ("the first", first, RECORDED),
        ("the same again", first, RECORDED),
        (
            "another start of the same session, stale",
            opening(user, 1, 1, 11),
            STALE,
        ),
        (
            "another start of the same session",
            opening(user, 2, 1, 11),
            CONTRADICTION,
        ),
        (
            "another tariff of it",
            billing::Opening {
                tariff: dear,
                ..opening(user, 2, 1, 10)
            },
            CONTRADICTION,
        ),
        (
            "a second session in the slot, stale",
            opening(user, 1, 2, 20),
            STALE,
        ),
        (
            "a second session in the slot",
            opening(user, 2, 2, 20),
            TAKEN,
        ),
        (
            "a second slot",
            billing::Opening {
                slot: SlotNumber::new(1),
                ..opening(user, 2, 2, 20)
            },
            RECORDED,
        ),
        ("the first once more", first, RECORDED),
    ];
    for (what, opening, outcome) in table {
        assert_eq!(
            database.record(&run, Fact::Opening(opening)).await,
            outcome,
            "{what}"
        );
    }
    let wallet = database.wallet(user).await;
    assert_eq!((wallet.version, wallet.live.len()), (version(3), 2));
    assert_eq!(database.violations().await, []);
}

async fn a_settlement_has_one_outcome(database: Arc<TestDatabase>) {
    let (run, other) = (database.run("a").await, database.run("b").await);
    let (user, rich) = (database.user(10).await, database.user(1_000).await);
    let nobody = UserId::new(rich.get() + 1_000).unwrap();
    let openings = [
        Fact::Opening(opening(user, 1, 1, 0)),
        Fact::Opening(opening(rich, 1, 2, 0)),
    ];
    database.must_record(&run, 0, &openings).await;

    let first = settlement(user, 2, 1, 1, 2, 12_500, 12_500);
    let last = ended(
        settlement(user, 3, 1, 2, 10, 60_000, 60_000),
        EndReason::Depleted,
    );
    let table = [
        (
            "of nobody",
            &run,
            settlement(nobody, 2, 1, 1, 2, 12_500, 12_500),
            UNKNOWN,
        ),
        (
            "from an older version",
            &run,
            settlement(user, 1, 1, 1, 2, 12_500, 12_500),
            STALE,
        ),
        (
            "of no session",
            &run,
            settlement(user, 2, 77, 1, 2, 12_500, 12_500),
            CONTRADICTION,
        ),
        (
            "of another user's session",
            &run,
            settlement(user, 2, 2, 1, 2, 12_500, 12_500),
            CONTRADICTION,
        ),
        ("by another node", &other, first, CONTRADICTION),
        (
            "before its turn",
            &run,
            settlement(user, 2, 1, 2, 2, 12_500, 12_500),
            CONTRADICTION,
        ),
        (
            "more than the wallet holds",
            &run,
            settlement(user, 2, 1, 1, 11, 66_000, 66_000),
            CONTRADICTION,
        ),
        (
            "served for longer than it lived",
            &run,
            settlement(user, 2, 1, 1, 2, 12_501, 12_500),
            CONTRADICTION,
        ),
        ("the first", &run, first, RECORDED),
        ("the same again", &run, first, RECORDED),
        (
            "the same number with another total, stale",
            &run,
            settlement(user, 2, 1, 1, 3, 18_000, 18_000),
            STALE,
        ),
        (
            "the same number with another total",
            &run,
            settlement(user, 3, 1, 1, 3, 18_000, 18_000),
            CONTRADICTION,
        ),
        (
            "the same number with an end",
            &run,
            ended(
                settlement(user, 3, 1, 1, 2, 12_500, 12_500),
                EndReason::User,
            ),
            CONTRADICTION,
        ),
        (
            "less than before",
            &run,
            settlement(user, 3, 1, 2, 1, 12_600, 12_600),
            CONTRADICTION,
        ),
        (
            "served for less than before",
            &run,
            settlement(user, 3, 1, 2, 2, 12_400, 12_600),
            CONTRADICTION,
        ),
        (
            "earlier than before",
            &run,
            settlement(user, 3, 1, 2, 2, 12_500, 12_499),
            CONTRADICTION,
        ),
        ("the last", &run, last, RECORDED),
        ("the last again", &run, last, RECORDED),
        (
            "the last with another reason, stale",
            &run,
            ended(last, EndReason::User),
            STALE,
        ),
        (
            "after the end, stale",
            &run,
            settlement(user, 3, 1, 3, 10, 60_000, 60_000),
            STALE,
        ),
        (
            "after the end",
            &run,
            settlement(user, 4, 1, 3, 10, 60_000, 60_000),
            ENDED,
        ),
        ("the first once more", &run, first, STALE),
    ];
    for (what, run, settlement, outcome) in table {
        assert_eq!(
            database.record(run, Fact::Settlement(settlement)).await,
            outcome,
            "{what}"
        );
    }
    let wallet = database.wallet(user).await;
    assert_eq!(
        (wallet.version, wallet.credits, wallet.live.len()),
        (version(4), credits(0), 0)
    );
    assert_eq!(database.violations().await, []);
}

async fn one_refused_fact_spoils_nothing(database: Arc<TestDatabase>) {
    let run = database.run("a").await;
    let mut users = Vec::new();
    for _ in 0..6 {
        users.push(database.user(100).await);
    }
    let nobody = UserId::new(users[5].get() + 1_000).unwrap();
    database
        .must_record(
            &run,
            0,
            &[
                Fact::Opening(opening(users[0], 1, 1, 0)),
                Fact::Opening(opening(users[1], 1, 2, 0)),
                Fact::Opening(opening(users[2], 1, 3, 0)),
            ],
        )
        .await;
    // Not in the order of the users' ids.
    let batch = [
        Fact::Opening(opening(users[5], 1, 6, 7_000)),
        Fact::Settlement(settlement(users[0], 2, 1, 1, 1, 7_000, 7_000)),
        Fact::Opening(opening(nobody, 1, 7, 7_000)),
        Fact::Settlement(settlement(users[1], 2, 2, 1, 500, 7_000, 7_000)),
        Fact::Settlement(ended(
            settlement(users[2], 2, 3, 1, 1, 7_000, 7_000),
            EndReason::User,
        )),
        Fact::Opening(opening(users[3], 0, 8, 7_000)),
        Fact::Opening(opening(users[4], 1, 3, 7_000)),
        // A second fact of a user in the batch was decided without knowing of the first.
        Fact::Settlement(settlement(users[0], 2, 1, 1, 1, 7_100, 7_100)),
    ];
    let outcomes = database
        .store
        .record(&run, Some(at(7_000)), &without_keys(&batch))
        .await
        .unwrap();
    assert_eq!(
        outcomes,
        [
            RECORDED,
            RECORDED,
            UNKNOWN,
            CONTRADICTION,
            RECORDED,
            STALE,
            CONTRADICTION,
            STALE
        ]
    );
    let versions = [3, 2, 3, 1, 1, 2];
    let balances = [99, 100, 99, 100, 100, 100];
    for (user, (number, balance)) in users.iter().zip(versions.into_iter().zip(balances)) {
        let wallet = database.wallet(*user).await;
        assert_eq!(
            (wallet.version, wallet.credits),
            (version(number), credits(balance))
        );
    }
    assert_eq!(database.violations().await, []);
}

async fn a_superseded_run_writes_nothing(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (first, user) = (database.run("a").await, database.user(100).await);
    database.must_record(&first, 500, &[]).await;
    let second = begin_run(&database.another().await, "a", 100).await;
    assert_eq!((first.epoch, second.epoch), (1, 2));
    assert_eq!(
        second.started_at,
        at(501),
        "a run starts after the last instant of the one before"
    );

    let fact = Fact::Opening(opening(user, 1, 1, 600));
    for (alive_at, facts) in [
        (None, vec![fact]),
        (Some(at(9_000)), vec![fact]),
        (Some(at(9_000)), vec![]),
    ] {
        assert!(matches!(
            store.record(&first, alive_at, &without_keys(&facts)).await,
            Err(StoreError::Superseded)
        ));
    }
    assert_eq!(database.proved_by("a").await, Some(at(501)));
    assert_eq!(database.wallet(user).await.version, version(1));
    assert_eq!(
        store
            .record(&second, Some(at(700)), &[fact.into()])
            .await
            .unwrap(),
        [RECORDED]
    );

    let stranger = NodeRun {
        node: node("b"),
        epoch: 1,
        ..first
    };
    assert!(
        matches!(
            store.record(&stranger, None, &[]).await,
            Err(StoreError::WentBack)
        ),
        "a run that the database doesn't have is one that it lost"
    );
}

async fn runs_of_a_node_follow_each_other(database: Arc<TestDatabase>) {
    let store = &database.store;
    assert_eq!(database.proved_by("a").await, None);
    let first = database.run("a").await;
    database.must_record(&first, 4_000, &[]).await;
    database.must_record(&first, 3_000, &[]).await;
    let second = begin_run(store, "a", 10_000).await;
    database.must_record(&second, 12_000, &[]).await;
    let third = begin_run(store, "a", 20_000).await;
    database.run("b").await;

    let span = |from, to| Run {
        from: at(from),
        to: at(to),
        takeover: Takeover::Resume,
    };
    let all = [span(0, 4_000), span(10_000, 12_000)];
    assert_eq!(store.earlier_runs(&third, at(0)).await.unwrap(), all);
    assert_eq!(store.earlier_runs(&third, at(4_000)).await.unwrap(), all);
    assert_eq!(
        store.earlier_runs(&third, at(4_001)).await.unwrap(),
        all[1..]
    );
    assert_eq!(store.earlier_runs(&second, at(0)).await.unwrap(), all[..1]);
    assert_eq!(database.proved_by("a").await, Some(at(20_000)));
}

/// The time that a run is to begin at was read before the run before it had written its last fact.
async fn a_run_begins_after_all_that_was_recorded(database: Arc<TestDatabase>) {
    let (first, user) = (database.run("a").await, database.user(100).await);
    let start = Fact::Opening(opening(user, 1, 1, 0));
    database.must_record(&first, 300, &[start]).await;
    let interim = Fact::Settlement(settlement(user, 2, 1, 1, 1, 6_200, 6_200));
    let recorded = database.store.record(&first, None, &[interim.into()]).await;
    assert_eq!(recorded.unwrap(), [RECORDED]);
    assert_eq!(database.proved_by("a").await, Some(at(6_200)));
    let second = begin_run(&database.store, "a", 6_100).await;
    assert_eq!(second.started_at, at(6_201));
    assert_eq!(database.violations().await, []);
}

async fn a_run_in_place_may_be_begun_again_but_not_after_another_process(
    database: Arc<TestDatabase>,
) {
    let store = &database.store;
    let first = database.run("a").await;
    database.must_record(&first, 4_000, &[]).await;
    let policy = within_a_minute();
    let second = store
        .next_run(&first, at(4_500), at(64_500).into(), policy)
        .await
        .unwrap();
    assert_eq!(
        (second.epoch, second.started_at, second.takeover),
        (2, at(64_500), Takeover::Resume)
    );
    assert_eq!(second.process, first.process);
    let cut = Run {
        from: at(0),
        to: at(4_500),
        takeover: Takeover::Resume,
    };
    assert_eq!(store.earlier_runs(&second, at(0)).await.unwrap(), [cut]);
    assert!(matches!(
        store.record(&first, Some(at(9_000)), &[]).await,
        Err(StoreError::Superseded)
    ));
    // The reply got lost; the call is repeated, later and by another clock.
    let repeated = store
        .next_run(&first, at(4_500), at(70_000).into(), policy)
        .await;
    assert_eq!(repeated.unwrap(), second);
    database.must_record(&second, 65_000, &[]).await;

    let third = store.next_run(&second, at(66_000), at(126_001).into(), policy);
    assert_eq!(
        third.await.unwrap().takeover,
        Takeover::End,
        "it was away for too long"
    );
    let other = begin_run(&database.another().await, "a", 130_000).await;
    for run in [&first, &second] {
        assert!(matches!(
            store
                .next_run(run, at(140_000), at(141_000).into(), policy)
                .await,
            Err(StoreError::Superseded)
        ));
    }
    let alive = database.proved_by("a").await;
    assert_eq!(alive, Some(other.started_at), "nothing was written");
    assert_eq!(database.violations().await, []);
}

async fn runs_that_begin_at_once_leave_one_that_writes(database: Arc<TestDatabase>) {
    let first = database.run("a").await;
    let begin = (0..10).map(|_| {
        let store = Arc::clone(&database.store);
        tokio::spawn(async move { begin_run(&store, "a", 5).await })
    });
    let begin: Vec<_> = begin.collect();
    let write = (0..50).map(|_| {
        let (store, run) = (Arc::clone(&database.store), first.clone());
        tokio::spawn(async move { store.record(&run, Some(at(3)), &[]).await })
    });
    for write in write.collect::<Vec<_>>() {
        assert!(matches!(
            write.await.unwrap(),
            Ok(_) | Err(StoreError::Superseded)
        ));
    }
    let mut runs = Vec::new();
    for begun in begin {
        runs.push(begun.await.unwrap());
    }
    runs.sort_by_key(|run| run.epoch);
    assert_eq!(
        runs.iter().map(|run| run.epoch).collect::<Vec<_>>(),
        (2..=11).collect::<Vec<_>>()
    );
    for run in &runs[..9] {
        assert!(matches!(
            database.store.record(run, None, &[]).await,
            Err(StoreError::Superseded)
        ));
    }
    assert!(database.store.record(&runs[9], None, &[]).await.is_ok());
    assert_eq!(
        database
            .number("SELECT count(*) FROM node_runs WHERE is_current")
            .await,
        1
    );
}

async fn of_a_hundred_starts_at_once_one_wins(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let nodes = [database.run("a").await, database.run("b").await];
    let starts = (0..100).map(|n| {
        let (store, run) = (Arc::clone(&database.store), nodes[n % 2].clone());
        let id = i64::try_from(n).unwrap() + 1;
        tokio::spawn(async move {
            let fact = Fact::Opening(opening(user, 1, id, 10));
            store.record(&run, None, &[fact.into()]).await.unwrap()[0]
        })
    });
    let mut outcomes = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        outcomes.push(start.await.unwrap());
    }
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == RECORDED)
            .count(),
        1
    );
    assert_eq!(
        outcomes.iter().filter(|outcome| **outcome == STALE).count(),
        99
    );
    assert_eq!(database.number("SELECT count(*) FROM sessions").await, 1);
    assert_eq!(database.violations().await, []);
}

async fn session_ids_are_never_given_out_twice(database: Arc<TestDatabase>) {
    let other = database.another().await;
    assert_eq!(database.store.take_session_ids(3).await.unwrap(), 1..4);
    let takes = (0..20).map(|n| {
        let store = if n % 2 == 0 {
            Arc::clone(&database.store)
        } else {
            Arc::clone(&other)
        };
        tokio::spawn(async move { store.take_session_ids(50).await.unwrap() })
    });
    let mut ids = HashSet::new();
    for take in takes.collect::<Vec<_>>() {
        for id in take.await.unwrap() {
            assert!(ids.insert(id), "{id} was given out twice");
        }
    }
    assert_eq!(
        (ids.len(), ids.iter().min(), ids.iter().max()),
        (1_000, Some(&4), Some(&1_003))
    );
    other.close().await;
}

async fn live_wallets_come_in_pages(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (run, other) = (database.run("a").await, database.run("b").await);
    let mut users = Vec::new();
    for id in 1..=7 {
        let user = database.user(100).await;
        let run = if id == 3 { &other } else { &run };
        database
            .must_record(run, id, &[Fact::Opening(opening(user, 1, id, id))])
            .await;
        users.push(user);
    }
    // A user with a session of each node is whole on both; one whose session ended is on none.
    let second = billing::Opening {
        slot: SlotNumber::new(1),
        ..opening(users[3], 2, 8, 9)
    };
    database
        .must_record(&other, 9, &[Fact::Opening(second)])
        .await;
    let last = ended(settlement(users[4], 2, 5, 1, 0, 4, 9), EndReason::User);
    database
        .must_record(&run, 9, &[Fact::Settlement(last)])
        .await;
    database
        .execute(&format!(
            "INSERT INTO session_pauses VALUES (1, {}, {}, 'outage')",
            at(2).get(),
            at(3).get()
        ))
        .await
        .unwrap();
    database
        .execute(&format!(
            "INSERT INTO session_pauses VALUES (1, {}, NULL, 'outage')",
            at(5).get()
        ))
        .await
        .unwrap();

    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = store.live_wallets(&node("a"), after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.user);
        pages.push(page);
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    let found: Vec<_> = pages.concat();
    let expected = [users[0], users[1], users[3], users[5], users[6]];
    assert_eq!(
        found.iter().map(|wallet| wallet.user).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(
        found[2]
            .live
            .iter()
            .map(|live| live.node.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(
        found
            .iter()
            .all(|wallet| wallet.changes.is_empty() && wallet.version >= version(2))
    );
    let pauses = [
        Span {
            from: at(2),
            to: at(3),
        },
        Span {
            from: at(5),
            to: schema::UnixMillis::MAX,
        },
    ];
    assert_eq!(found[0].live[0].session.pauses, pauses);

    let theirs = store.live_wallets(&node("b"), None, 10).await.unwrap();
    assert_eq!(
        theirs.iter().map(|wallet| wallet.user).collect::<Vec<_>>(),
        [users[2], users[3]]
    );
}

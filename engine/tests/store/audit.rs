//! The audit: silent after any honest activity, and loud at each kind of tampering.

use std::sync::Arc;

use billing::{ChargedAt, Rebase, RecordedSession, Run, SlotNumber, Tariff, Wallet, WalletVersion};
use engine::{
    facts::{Fact, FactOutcome, NodeRun, WalletRecord},
    store::{
        AdjustError, Adjustment, Shortfall,
        audit::{AuditLimits, Rebuilt, RepairMode, Repaired},
    },
};
use schema::{CreditsChange, Millis, SessionId, UserId, ledger::EntryKind, session::EndReason};

use crate::{
    on_both,
    support::{START, TestDatabase, at, begin_run, credits, ended, opening, session, settlement},
};

on_both! {
    honest_activity_breaks_no_law
    every_page_is_audited_once
    every_tampering_is_found
    caches_are_rebuilt_and_nothing_else
    downtime_that_was_charged_is_found
}

/// A small engine that does random things, the same ones every time.
struct Activity {
    database: Arc<TestDatabase>,
    run: NodeRun,
    wallets: Vec<Wallet>,
    now: i64,
    next_session: i64,
    next_key: i64,
    random: u64,
}

async fn honest_activity_breaks_no_law(database: Arc<TestDatabase>) {
    let mut activity = Activity::new(Arc::clone(&database)).await;
    for _ in 0..300 {
        activity.step().await;
    }
    assert_eq!(database.violations().await, []);
    let sql = "SELECT count(DISTINCT end_reason) FROM sessions WHERE end_reason IS NOT NULL";
    assert_eq!(
        database.number(sql).await,
        3,
        "users, depletions and the engine ended sessions"
    );
    assert!(
        database
            .number("SELECT count(*) FROM sessions WHERE settled_seq > 1")
            .await
            > 0
    );
    assert!(
        database
            .number("SELECT count(DISTINCT kind) FROM ledger")
            .await
            == 4
    );
}

impl Activity {
    async fn new(database: Arc<TestDatabase>) -> Self {
        let run = database.run("a").await;
        let mut activity = Self {
            database,
            run,
            wallets: Vec::new(),
            now: 0,
            next_session: 1,
            next_key: 0,
            random: 7,
        };
        for grant in [100, 40, 25, 1_000] {
            let user = activity.database.user(grant).await;
            let wallet = activity.database.wallet(user).await;
            activity.wallets.push(rebuilt(&wallet, &[]));
        }
        activity
    }

    /// A number below `bound`.
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    async fn step(&mut self) {
        self.now += i64::try_from(self.draw(15_000)).unwrap();
        let which = usize::try_from(self.draw(4)).unwrap();
        match self.draw(12) {
            0..=3 => self.start(which).await,
            4 => self.stop(which),
            5 | 6 => self.settle(which).await,
            7 => self.adjust(which, EntryKind::Grant).await,
            8 => self.adjust(which, EntryKind::Revoke).await,
            9 | 10 => self.database.must_record(&self.run, self.now, &[]).await,
            _ => self.crash().await,
        }
        for which in 0..self.wallets.len() {
            self.settle_ends(which).await;
        }
    }

    async fn start(&mut self, which: usize) {
        let charged_at = if self.draw(2) == 0 {
            ChargedAt::End
        } else {
            ChargedAt::Start
        };
        let price = i64::try_from(self.draw(3)).unwrap() + 1;
        let tariff = Tariff::new(credits(price), Millis::new(4_000).unwrap(), charged_at).unwrap();
        let (id, now) = (session(self.next_session), at(self.now));
        self.next_session += 1;
        self.settle_ends(which).await;
        let wallet = &mut self.wallets[which];
        // A second slot, so that sessions share a wallet.
        let slot = SlotNumber::new(i32::from(id.get() % 3 == 0));
        if wallet.start(now, id, slot, tariff).is_ok() {
            let opening = wallet.unrecorded_start().unwrap();
            self.record(Fact::Opening(opening)).await;
            self.wallets[which].start_recorded(id, opening.version.next());
        }
    }

    fn stop(&mut self, which: usize) {
        let now = at(self.now);
        if let Some(id) = self.a_session(which) {
            self.wallets[which].stop(now, id, EndReason::User).unwrap();
        }
    }

    async fn settle(&mut self, which: usize) {
        let now = at(self.now);
        self.wallets[which].advance(now);
        self.settle_ends(which).await;
        let Some(id) = self.a_session(which) else {
            return;
        };
        if let Some(interim) = self.wallets[which].interim_settlement(id) {
            self.record(Fact::Settlement(interim)).await;
            self.wallets[which].settled(&interim, interim.version.next());
        }
    }

    async fn settle_ends(&mut self, which: usize) {
        let now = at(self.now);
        self.wallets[which].advance(now);
        while let Some(last) = self.wallets[which].settlement_due() {
            self.record(Fact::Settlement(last)).await;
            self.wallets[which].settled(&last, last.version.next());
        }
    }

    async fn adjust(&mut self, which: usize, kind: EntryKind) {
        let amount = credits(i64::try_from(self.draw(20)).unwrap() + 1);
        let user = self.wallets[which].user();
        self.next_key += 1;
        let adjustment = Adjustment {
            user,
            kind,
            amount: if kind == EntryKind::Grant {
                CreditsChange::incoming(amount)
            } else {
                CreditsChange::outgoing(amount)
            },
            session: None,
            shortfall: Shortfall::Refuse,
            at: at(self.now),
            reason: "chance".to_owned(),
            operator: "test".to_owned(),
            idempotency_key: self.next_key.to_string(),
        };
        let since = self.wallets[which].version();
        match self.database.store.adjust(adjustment).await {
            Ok(_) | Err(AdjustError::MoreThanFree { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let record = self
            .database
            .store
            .wallet(user, since)
            .await
            .unwrap()
            .unwrap();
        let live = record
            .live
            .iter()
            .map(|live| (live.session.id, live.session.settled))
            .collect();
        let facts = Rebase {
            version: record.version,
            ledger_balance: record.credits,
            changes: record.changes,
            live,
        };
        let ended_elsewhere = self.wallets[which].rebase(at(self.now), &facts);
        assert_eq!(ended_elsewhere, []);
    }

    /// The process dies and comes back after a while; what it did since its last `alive_at` is free.
    async fn crash(&mut self) {
        self.now += i64::try_from(self.draw(80_000)).unwrap();
        let store = &self.database.store;
        self.run = begin_run(store, "a", self.now).await;
        self.now = self.run.started_at.get() - START;
        let runs = store.earlier_runs(&self.run, at(0)).await.unwrap();
        let runs: Vec<Run> = runs.into_iter().chain([self.run.lasting()]).collect();
        for which in 0..self.wallets.len() {
            let record = self.database.wallet(self.wallets[which].user()).await;
            self.wallets[which] = rebuilt(&record, &runs);
        }
    }

    async fn record(&self, fact: Fact) {
        let outcome = self.database.record(&self.run, fact).await;
        assert_eq!(outcome, FactOutcome::Recorded, "{fact:?}");
    }

    fn a_session(&self, which: usize) -> Option<SessionId> {
        self.wallets[which]
            .sessions()
            .iter()
            .find(|session| session.is_live())
            .map(|session| session.id)
    }
}

fn rebuilt(record: &WalletRecord, runs: &[Run]) -> Wallet {
    let live: Vec<RecordedSession> = record
        .live
        .iter()
        .map(|live| live.session.clone())
        .collect();
    let changes = &record.since_checkpoints;
    Wallet::recovered(
        record.user,
        record.version,
        record.credits,
        &live,
        changes,
        runs,
        schema::UnixMillis::MAX,
    )
}

async fn every_page_is_audited_once(database: Arc<TestDatabase>) {
    let limits = AuditLimits {
        users: 2,
        rows: 1_000,
        now: at(0),
    };
    assert_eq!(database.store.audit(None, limits).await.unwrap().last, None);
    let run = database.run("a").await;
    let users = database
        .store
        .create_fixture_users(5, credits(10), at(0))
        .await
        .unwrap();
    database
        .must_record(&run, 0, &[Fact::Opening(opening(users[4], 1, 1, 0))])
        .await;
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = database.store.audit(after, limits).await.unwrap();
        after = page.last;
        pages.push((page.users, page.sessions, page.entries));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, [(2, 0, 2), (2, 0, 2), (1, 1, 1), (0, 0, 0)]);
}

/// One user for each kind of tampering, with a session of 21.0 s that was settled twice, at a node of
/// the session's own.
async fn every_tampering_is_found(database: Arc<TestDatabase>) {
    // What is done, to the user {u} with the session {s} at the node n{s}, and the laws that it breaks.
    let table: [(&str, &str, &[u8]); 22] = [
        ("nothing", "SELECT 1", &[]),
        ("credits from nowhere", "UPDATE users SET credits = credits + 1 WHERE id = {u}", &[5]),
        (
            "less usage in the ledger",
            "UPDATE ledger SET amount = 2 WHERE user_id = {u} AND kind = 'usage'",
            &[2, 4, 5],
        ),
        (
            "another balance in the ledger",
            "UPDATE ledger SET balance_after = 99 WHERE user_id = {u} AND kind = 'usage'",
            &[5],
        ),
        (
            "a grant that takes",
            "UPDATE ledger SET from_account = {u}, to_account = -1 WHERE user_id = {u} AND kind = 'signup_grant'",
            &[5],
        ),
        (
            "an entry of no kind",
            "UPDATE ledger SET kind = 'gift' WHERE user_id = {u} AND kind = 'signup_grant'",
            &[5],
        ),
        ("usage left out", "DELETE FROM ledger WHERE user_id = {u} AND kind = 'usage'", &[4, 5, 7]),
        (
            "usage of another's session",
            "UPDATE ledger SET session_id = 1 WHERE user_id = {u} AND kind = 'usage'",
            &[4, 7],
        ),
        (
            "an entry of a version to come",
            "UPDATE ledger SET wallet_version = 50 WHERE user_id = {u} AND kind = 'usage'",
            &[7],
        ),
        (
            "a refund beyond the cost",
            "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                balance_after, idempotency_key, created_at)
             SELECT user_id, at, 'refund', -2, user_id, 4, {s}, 5, 101, 'r', at FROM ledger
             WHERE user_id = {u} AND kind = 'usage';
             UPDATE users SET credits = 101, version = 5 WHERE id = {u}",
            &[5],
        ),
        (
            "a refund of another's session",
            "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                balance_after, idempotency_key, created_at)
             SELECT user_id, at, 'refund', -2, user_id, 1, 1, 5, 98, 'r', at FROM ledger
             WHERE user_id = {u} AND kind = 'usage';
             UPDATE users SET credits = 98, version = 5 WHERE id = {u}",
            &[4, 5],
        ),
        (
            "a refund from the wrong account",
            "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                balance_after, idempotency_key, created_at)
             SELECT user_id, at, 'refund', -1, user_id, 1, {s}, 5, 98, 'r', at FROM ledger
             WHERE user_id = {u} AND kind = 'usage';
             UPDATE users SET credits = 98, version = 5 WHERE id = {u}",
            &[5],
        ),
        ("a write that left no trace", "UPDATE users SET version = version + 1 WHERE id = {u}", &[7]),
        ("an instant forgotten", "UPDATE users SET last_instant = 0 WHERE id = {u}", &[7]),
        ("a session that cost more", "UPDATE sessions SET credits_consumed = 4 WHERE id = {s}", &[2, 4]),
        ("a settlement forgotten", "UPDATE sessions SET settled_seq = 0 WHERE id = {s}", &[4, 7]),
        ("served for longer than it lived", "UPDATE sessions SET served_ms = 21001 WHERE id = {s}", &[4, 8]),
        (
            "served while its node was down",
            "UPDATE node_runs SET started_at = started_at + 5000 WHERE node = 'n{s}'",
            &[2, 8],
        ),
        (
            "served while it was paused",
            "INSERT INTO session_pauses SELECT id, start_time + 1, start_time + 2, 'outage' FROM sessions WHERE id = {s}",
            &[8],
        ),
        (
            "credits that did not run out",
            "UPDATE sessions SET end_reason = 'depleted' WHERE id = {s}",
            &[2],
        ),
        (
            "an end before its settlement",
            "UPDATE sessions SET end_time = end_time - 1 WHERE id = {s}",
            &[4],
        ),
        (
            "two live sessions in a slot",
            "INSERT INTO sessions SELECT id + 1000, user_id, slot, node, start_time, NULL, NULL, 0, 0, start_time, 0,
                tariff_credits, tariff_interval_ms, tariff_charged_at, created_at, 5 FROM sessions WHERE id = {s};
             INSERT INTO sessions SELECT id + 2000, user_id, slot, node, start_time, NULL, NULL, 0, 0, start_time, 0,
                tariff_credits, tariff_interval_ms, tariff_charged_at, created_at, 6 FROM sessions WHERE id = {s};
             UPDATE users SET version = version + 2 WHERE id = {u}",
            &[7],
        ),
    ];
    let mut users = Vec::new();
    for id in 1..=i64::try_from(table.len()).unwrap() {
        users.push(a_finished_session(&database, id).await);
    }
    assert_eq!(database.violations().await, []);

    loosen(&database).await;
    for (index, (what, sql, _)) in table.iter().enumerate() {
        let sql = sql
            .replace("{u}", &users[index].to_string())
            .replace("{s}", &(index + 1).to_string());
        // Without this the foreign keys and the ledger's triggers stand in the way.
        let sql = match database.kind() {
            crate::support::Kind::Postgres => {
                format!("SET session_replication_role = replica; {sql}")
            }
            crate::support::Kind::Sqlite => format!("PRAGMA ignore_check_constraints = ON; {sql}"),
        };
        database
            .execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let violations = database.violations().await;
    let mut wrong = Vec::new();
    for (index, (what, _, laws)) in table.iter().enumerate() {
        let found: Vec<_> = violations
            .iter()
            .filter(|violation| violation.place.user == Some(users[index]))
            .collect();
        let mut broken: Vec<u8> = found.iter().map(|violation| violation.law).collect();
        broken.sort_unstable();
        broken.dedup();
        if broken != *laws {
            wrong.push((what, broken, laws, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // The runs of a node belong to nobody.
    let nobodys: Vec<_> = violations
        .iter()
        .filter(|violation| violation.place.user.is_none() && violation.what.starts_with("run "))
        .map(|violation| violation.what.split(" at ").next().unwrap())
        .collect();
    assert_eq!(nobodys, ["run 1 of node n18 began"]);
    for sql in [
        "DROP INDEX node_runs_current",
        "UPDATE node_runs SET is_current = (1 = 0) WHERE node = 'n1'",
        "INSERT INTO node_runs (node, epoch, started_at, alive_at, is_current)
         SELECT node, 3, alive_at + 1, alive_at + 1, (1 = 1) FROM node_runs WHERE node = 'n2'",
        "INSERT INTO node_runs (node, epoch, started_at, alive_at, is_current)
         SELECT node, 2, alive_at, alive_at + 1, (1 = 0) FROM node_runs WHERE node = 'n3'",
    ] {
        database.execute(sql).await.unwrap();
    }
    database
        .execute_either(
            "SET session_replication_role = replica;
             UPDATE ledger SET user_id = 999, wallet_version = 9 WHERE user_id = 1 AND kind = 'signup_grant'",
            "PRAGMA ignore_check_constraints = ON;
             UPDATE ledger SET user_id = 999, wallet_version = 9 WHERE user_id = 1 AND kind = 'signup_grant'",
        )
        .await;
    let violations = database.violations().await;
    for words in [
        "run 1 of node n1 is the last one and not current",
        "run 3 of node n2 began",
        "run 1 of node n2 is still current",
        "run 2 of node n3 began",
        "user_id is 999, and users has no such row",
    ] {
        let is_told = violations
            .iter()
            .any(|violation| violation.what.contains(words));
        assert!(is_told, "{words}: {violations:#?}");
    }
}

/// One user for each case, with a session of 21.0 s that cost 3.
async fn caches_are_rebuilt_and_nothing_else(database: Arc<TestDatabase>) {
    let session_id = session;
    let rebuilt = |session: Option<i64>, from, to| {
        Repaired::Caches(vec![Rebuilt {
            session: session.map(session_id),
            from,
            to: credits(to),
        }])
    };
    let left_alone = |words: &str| Repaired::LeftAlone(words.to_owned());
    // What is done to the user {u} with the session {s}, and what becomes of it.
    let table: [(&str, Repaired); 8] = [
        ("SELECT 1", Repaired::NothingToDo),
        ("UPDATE users SET credits = 5 WHERE id = {u}", rebuilt(None, 5, 97)),
        (
            "UPDATE sessions SET credits_consumed = 4 WHERE id = {s}",
            rebuilt(Some(3), 4, 3),
        ),
        (
            "UPDATE users SET credits = 5 WHERE id = {u}; UPDATE users SET version = 9 WHERE id = {u}",
            rebuilt(None, 5, 97),
        ),
        (
            "DELETE FROM ledger WHERE user_id = {u} AND kind = 'usage'",
            left_alone("its rows contradict each other: session 5 has 0 entries by 2 settlements"),
        ),
        (
            "UPDATE ledger SET balance_after = 98 WHERE user_id = {u} AND kind = 'usage';
             UPDATE users SET credits = 98 WHERE id = {u}",
            left_alone("its rows contradict each other: entry 12 leaves a balance of 98, not 97"),
        ),
        (
            "UPDATE ledger SET amount = 2, balance_after = 2 WHERE user_id = {u} AND kind = 'signup_grant';
             UPDATE ledger SET balance_after = -1 WHERE user_id = {u} AND kind = 'usage'",
            left_alone("by the ledger it should be -1"),
        ),
        (
            "UPDATE users SET credits = 5 WHERE id = {u};
             UPDATE sessions SET end_time = NULL, end_reason = NULL WHERE id = {s}",
            left_alone("session 8 is live: repair it once it has ended"),
        ),
    ];
    let mut users = Vec::new();
    for id in 1..=i64::try_from(table.len()).unwrap() {
        users.push(a_finished_session(&database, id).await);
    }
    loosen(&database).await;
    for (index, (sql, _)) in table.iter().enumerate() {
        let sql = sql
            .replace("{u}", &users[index].to_string())
            .replace("{s}", &(index + 1).to_string());
        database
            .execute_either(
                &format!("SET session_replication_role = replica; {sql}"),
                &format!("PRAGMA ignore_check_constraints = ON; {sql}"),
            )
            .await;
    }
    let before = money(&database).await;
    let wrong = database.violations().await.len();
    let store = &database.store;
    for mode in [RepairMode::List, RepairMode::Apply] {
        assert_eq!(database.violations().await.len(), wrong, "{mode:?}");
        for (user, (sql, expected)) in users.iter().zip(&table) {
            let repaired = store.repair(*user, mode, at(50_000)).await.unwrap();
            assert_eq!(repaired, *expected, "{mode:?} {sql}");
        }
    }
    assert_eq!(money(&database).await, before, "the ledger is as it was");
    let broken: Vec<_> = database.violations().await;
    let is_clean = |user: &UserId| {
        broken
            .iter()
            .all(|violation| violation.place.user != Some(*user))
    };
    let clean: Vec<_> = users.iter().map(is_clean).collect();
    // The fourth has a version that no repair explains.
    assert_eq!(clean, [true, true, true, false, false, false, false, false]);
    let sql = format!("SELECT credits FROM users WHERE id = {}", users[1]);
    assert_eq!(database.number(&sql).await, 97);
    // The owners of what was written are told, and no others.
    let told: Vec<_> = store.notices(None, 10).await.unwrap();
    let told: Vec<_> = told.iter().map(|notice| notice.user).collect();
    assert_eq!(told, users[1..4]);
    for user in &users[..4] {
        let again = store.repair(*user, RepairMode::Apply, at(50_000)).await;
        assert_eq!(again.unwrap(), Repaired::NothingToDo);
    }
}

/// All that the ledger says, in one number for each column.
async fn money(database: &TestDatabase) -> Vec<i64> {
    let mut sums = Vec::new();
    for column in [
        "id",
        "user_id",
        "amount * id",
        "balance_after * id",
        "wallet_version * id",
        "at % 1000000 * id",
    ] {
        let sql = format!("SELECT CAST(SUM({column}) AS BIGINT) FROM ledger");
        sums.push(database.number(&sql).await);
    }
    sums.push(database.number("SELECT count(*) FROM ledger").await);
    sums
}

/// The node was alive at 5.0 s, settled at 6.2 s, died, and served again from 8.9 s to 9.9 s: its
/// settlement proves what its `alive_at` does not, and no more.
async fn downtime_that_was_charged_is_found(database: Arc<TestDatabase>) {
    let (first, user) = (database.run("a").await, database.user(100).await);
    let interim = settlement(user, 2, 1, 1, 1, 6_200, 6_200);
    database
        .must_record(&first, 5_000, &[Fact::Opening(opening(user, 1, 1, 0))])
        .await;
    database
        .must_record(&first, 5_000, &[Fact::Settlement(interim)])
        .await;
    let second = begin_run(&database.store, "a", 8_900).await;
    let last = ended(settlement(user, 3, 1, 2, 1, 7_200, 9_900), EndReason::User);
    database
        .must_record(&second, 9_900, &[Fact::Settlement(last)])
        .await;
    assert_eq!(database.violations().await, []);

    database
        .execute("UPDATE node_runs SET resumes = (1 = 0)")
        .await
        .unwrap();
    assert_eq!(
        broken_laws(&database).await,
        [8],
        "the second run had ended what it found"
    );

    database
        .execute("UPDATE node_runs SET resumes = (1 = 1)")
        .await
        .unwrap();
    database
        .execute("UPDATE sessions SET served_ms = 7201")
        .await
        .unwrap();
    assert_eq!(broken_laws(&database).await, [8]);
}

async fn broken_laws(database: &TestDatabase) -> Vec<u8> {
    let violations = database.violations().await;
    violations.iter().map(|violation| violation.law).collect()
}

async fn a_finished_session(database: &TestDatabase, id: i64) -> UserId {
    let (run, user) = (
        database.run(&format!("n{id}")).await,
        database.user(100).await,
    );
    let interim = settlement(user, 2, id, 1, 3, 20_000, 20_010);
    let last = ended(
        settlement(user, 3, id, 2, 3, 21_000, 21_010),
        EndReason::User,
    );
    for fact in [
        Fact::Opening(opening(user, 1, id, 10)),
        Fact::Settlement(interim),
        Fact::Settlement(last),
    ] {
        database.must_record(&run, 0, &[fact]).await;
    }
    assert_eq!(database.wallet(user).await.version, WalletVersion::new(4));
    user
}

/// Takes away what keeps honest programs from such rows.
async fn loosen(database: &TestDatabase) {
    database
        .execute_either(
            "DROP INDEX sessions_live;
             DO $$ DECLARE one RECORD; BEGIN
                FOR one IN SELECT conrelid::regclass AS relation, conname FROM pg_constraint
                    WHERE contype = 'c' AND connamespace = current_schema()::regnamespace
                LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.relation, one.conname); END LOOP;
             END $$",
            "DROP INDEX sessions_live; DROP TRIGGER ledger_refuses_update; DROP TRIGGER ledger_refuses_delete",
        )
        .await;
}

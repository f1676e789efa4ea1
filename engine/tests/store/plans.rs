//! Plans: whatever a table holds, and whatever the server knows of it, a call reads about as many rows as
//! it asks for.
//!
//! The server itself says what each statement did while the store was used: how it found its rows, and how
//! many it looked at. The tables are brand-new, have grown since the plans were made, or are big and
//! analysed. A plan that walks through what it need not see is found by that, however fast it is on a
//! test's few rows.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use billing::WalletVersion;
use engine::{
    facts::{FIRST_READING, Fact, FactOutcome, NodeRun, Recording, WalletAsked},
    keys::{Fingerprint, IdempotencyKey, RequestKey},
    store::{
        self, Adjustment, Erasure, NewPassword, NewUser, RevokedToken, Shortfall, Store,
        StoreLocation,
    },
};
use schema::{CreditsChange, UserId, ledger::EntryKind, session::EndReason};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions,
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};

use crate::{
    cluster::{self, Cluster},
    support::{self, Kind, at, begin_run, credits, ended, node, opening, session, settlement},
};

/// How many users there are.
const USERS: u32 = 3_000;
/// How many sessions of each have ended, a day apart.
const PAST: i64 = 40;
/// One user in so many has a live session.
const LIVE_EVERY: i64 = 3;
/// How many things a call asks for.
const ASKED: u32 = 30;
/// How many rows of a table a statement may look at for each thing that is asked for. A user's past is
/// longer.
const ROWS_PER_ASKED: f64 = 20.0;

/// The version of the wallets at the last two entries of their past.
const LATELY: i64 = 1_000 + PAST * 2 - 2;

const DAY: i64 = 24 * 3_600_000;
/// When the past is over.
const NOW: i64 = (PAST + 1) * DAY;

/// Hears what is told about statements.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<String>>>);

impl Listener {
    /// Listens on this thread as long as the guard lives.
    fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// The texts of an event that may be a statement or a plan.
#[derive(Default)]
struct Texts {
    message: String,
    summary: String,
    statement: String,
}

impl Visit for Texts {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        let place = match field.name() {
            "message" => &mut self.message,
            "summary" => &mut self.summary,
            "db.statement" => &mut self.statement,
            _ => return,
        };
        value.clone_into(place);
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("sqlx::")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut texts = Texts::default();
        event.record(&mut texts);
        let told = [texts.message, texts.statement, texts.summary];
        let told = told.into_iter().find(|text| !text.trim().is_empty());
        self.0.lock().unwrap().extend(told);
    }
}

/// Makes every call of the store that is made while servers run, for [`ASKED`] users or rows at a time.
/// `round` tells the rounds on one database apart.
async fn use_it_all(store: &Arc<dyn Store>, run: &NodeRun, users: &[UserId], round: i64) {
    let now = NOW + round * DAY;
    // Those without a live session.
    let skipped = usize::try_from(round * 100).unwrap();
    let idle = users.iter().filter(|user| user.get() % LIVE_EVERY != 0);
    let idle: Vec<UserId> = idle.skip(skipped).take(ASKED as usize).copied().collect();
    let mut any: Vec<UserId> = users.iter().take(ASKED as usize).copied().collect();
    any.push(UserId::new(999_999).unwrap());

    read_all(store, &any, now).await;
    live_and_stop(store, run, &idle, round).await;
    administer(store, &idle, round).await;
    tidy_up(store, run, now).await;
}

async fn read_all(store: &Arc<dyn Store>, users: &[UserId], now: i64) {
    let readings = async |since: WalletVersion| {
        let asked = users.iter().map(|user| WalletAsked { user: *user, since });
        let asked: Vec<_> = asked.collect();
        store
            .wallets(&asked, Some(at(now - 3_600_000)))
            .await
            .unwrap()
    };
    readings(FIRST_READING).await;
    readings(WalletVersion::new(LATELY)).await;
    store.balances(users).await.unwrap();
    store.token_standings(users, at(now)).await.unwrap();
    let key = IdempotencyKey::new(b"nothing").unwrap();
    for user in &users[..2] {
        store.kept_answer(*user, &key, at(now)).await.unwrap();
        store.user(*user).await.unwrap();
        store.standing(*user, at(now)).await.unwrap();
        store.session(*user, session(1)).await.unwrap();
        let page = store.sessions(*user, None, ASKED).await.unwrap();
        if let Some(last) = page.last() {
            let before = store::SessionCursor {
                started_at: last.started_at,
                session: last.session_id,
            };
            store.sessions(*user, Some(before), ASKED).await.unwrap();
        }
        let page = store.ledger(*user, None, ASKED).await.unwrap();
        let before = page.last().map(|entry| entry.entry_id);
        store.ledger(*user, before, ASKED).await.unwrap();
    }
    store.user_by_email("nobody@example.com").await.unwrap();
    store.find_users("fixture-12-", None, ASKED).await.unwrap();
    store.users(Some(users[1]), ASKED).await.unwrap();
    store.live_sessions(None, ASKED).await.unwrap();
    store
        .live_wallets(&node("a"), Some(users[1]), ASKED)
        .await
        .unwrap();
    store
        .sessions_by_id(Some(session(10)), ASKED)
        .await
        .unwrap();
    let latest = store.latest_notice().await.unwrap();
    store.notices(Some(latest), ASKED).await.unwrap();
    store.is_token_revoked("nothing").await.unwrap();
    store.ping().await.unwrap();
}

/// The users start a session each, pay some of it and stop; every fact is recorded twice.
async fn live_and_stop(store: &Arc<dyn Store>, run: &NodeRun, users: &[UserId], round: i64) {
    let start = NOW + round * DAY;
    let ids = store.take_session_ids(ASKED).await.unwrap();
    let asked: Vec<WalletAsked> = users
        .iter()
        .map(|user| WalletAsked {
            user: *user,
            since: FIRST_READING,
        })
        .collect();
    let wallets = store.wallets(&asked, None).await.unwrap();
    let versions = wallets
        .iter()
        .map(|wallet| wallet.as_ref().unwrap().record.version.get());
    let lives: Vec<_> = users.iter().copied().zip(versions).zip(ids).collect();
    let record = async |what: &str, millis: i64, fact_of: &dyn Fn(UserId, i64, i64) -> Fact| {
        let facts = lives.iter().map(|((user, version), id)| Recording {
            keys: vec![RequestKey {
                key: IdempotencyKey::new(format!("{what}-{round}").as_bytes()).unwrap(),
                fingerprint: Fingerprint::new([1; 32]),
            }],
            ..fact_of(*user, *version, *id).into()
        });
        let facts: Vec<Recording> = facts.collect();
        for _ in 0..2 {
            let outcomes = store
                .record(run, Some(at(start + millis)), &facts)
                .await
                .unwrap();
            assert_eq!(outcomes, vec![FactOutcome::Recorded; users.len()], "{what}");
        }
    };
    record("start", 0, &|user, version, id| {
        Fact::Opening(opening(user, version, id, start))
    })
    .await;
    record("settle", 6_000, &|user, version, id| {
        Fact::Settlement(settlement(
            user,
            version + 1,
            id,
            1,
            1,
            6_000,
            start + 6_000,
        ))
    })
    .await;
    record("stop", 12_000, &|user, version, id| {
        let last = settlement(user, version + 2, id, 2, 2, 12_000, start + 12_000);
        Fact::Settlement(ended(last, EndReason::User))
    })
    .await;
    store.node_time(&run.node).await.unwrap();
    store.earlier_runs(run, at(start)).await.unwrap();
}

/// What operators and users do to accounts.
async fn administer(store: &Arc<dyn Store>, users: &[UserId], round: i64) {
    let (now, user) = (at(NOW + round * DAY + 20_000), users[0]);
    let adjustment = |kind, amount| Adjustment {
        user,
        kind,
        amount,
        session: None,
        shortfall: Shortfall::Refuse,
        at: now,
        reason: "a reason".to_owned(),
        operator: "ops".to_owned(),
        idempotency_key: format!("{kind:?}-{round}"),
    };
    let of_session = store.sessions(user, None, 1).await.unwrap()[0].session_id;
    for adjustment in [
        adjustment(EntryKind::Grant, CreditsChange::incoming(credits(5))),
        adjustment(EntryKind::Revoke, CreditsChange::outgoing(credits(5))),
        Adjustment {
            session: Some(of_session),
            ..adjustment(EntryKind::Refund, CreditsChange::incoming(credits(1)))
        },
    ] {
        store.adjust(adjustment.clone()).await.unwrap();
        store.adjust(adjustment).await.unwrap();
    }
    let new = NewUser {
        email: format!("new{round}@example.com"),
        password_hash: None,
        grant: credits(10),
        created_at: now,
    };
    let new = store.create_user(new).await.unwrap().id;
    let password = NewPassword {
        user: new,
        hash: "a hash".to_owned(),
        kept_token: None,
        decided_in: None,
        at: now,
    };
    store.set_password(password).await.unwrap();
    store.void_tokens(new, now).await.unwrap();
    let token = RevokedToken {
        token_id: format!("token-{round}"),
        expires_at: now,
    };
    store.revoke_token(new, token, now).await.unwrap();
    store.begin_erasure(new, now).await.unwrap();
    store.cancel_erasure(new, now).await.unwrap();
    let erasure = Erasure {
        user: new,
        decided_in: None,
        operator: "ops".to_owned(),
        at: now,
    };
    store.erase_user(erasure).await.unwrap();
}

async fn tidy_up(store: &Arc<dyn Store>, run: &NodeRun, now: i64) {
    let long_ago = at(-DAY);
    store.purge_keys(long_ago, ASKED).await.unwrap();
    store.purge_notices(long_ago, ASKED).await.unwrap();
    store.purge_revoked_tokens(long_ago, ASKED).await.unwrap();
    let old = store.sessions_by_id(None, ASKED).await.unwrap();
    let old: Vec<_> = old.iter().map(|old| old.id).collect();
    store.delete_unpaid_sessions(&old, at(now)).await.unwrap();
    let runs = store.ended_runs().await.unwrap();
    store.delete_runs(&runs).await.unwrap();
    store
        .record(run, Some(at(now + 30_000)), &[])
        .await
        .unwrap();
}

/// Gives the users a past, and some of them a live session, without the store: nothing is told to a
/// server's planner that it could learn from an index that is built.
const GROW: &str = "
    INSERT INTO sessions (id, user_id, node, start_time, end_time, end_reason, credits_consumed, settled_seq,
        settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at, created_at, wallet_version)
    WITH RECURSIVE day (day) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT day + 1 FROM day WHERE day < {PAST})
    SELECT 1000000 + id * 100 + day, id, 'a', {START} + day * {DAY}, {START} + day * {DAY} + 6000, 'user', 1, 1,
        {START} + day * {DAY} + 6000, 6000, 1, 6000, 'end', {START} + day * {DAY}, day * 2 + 1
    FROM users CROSS JOIN day WHERE erased_at IS NULL;
    INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
        balance_after, created_at)
    SELECT user_id, end_time, 'usage', user_id, -2, 1, id, 1000 + wallet_version, 1000, end_time
    FROM sessions WHERE id > 1000000;
    INSERT INTO sessions (id, user_id, node, start_time, credits_consumed, settled_seq, settled_at, served_ms,
        tariff_credits, tariff_interval_ms, tariff_charged_at, created_at, wallet_version)
    SELECT 2000000 + id, id, 'a', {START} + {NOW}, 0, 0, {START} + {NOW}, 0, 1, 6000, 'end', {START} + {NOW}, {LATELY}
    FROM users WHERE id % {LIVE_EVERY} = 0 AND erased_at IS NULL;
    INSERT INTO revoked_tokens (token_id, user_id, expires_at)
    SELECT 'old ' || id, user_id, {START} + {NOW} * 2 FROM sessions WHERE id > 1000000 AND id % 100 <= 5;
    UPDATE users SET version = version + 2000;";

fn grow() -> String {
    [
        ("{PAST}", PAST),
        ("{START}", support::START),
        ("{DAY}", DAY),
        ("{NOW}", NOW),
        ("{LATELY}", LATELY),
        ("{LIVE_EVERY}", LIVE_EVERY),
    ]
    .into_iter()
    .fold(GROW.to_owned(), |sql, (name, value)| {
        sql.replace(name, &value.to_string())
    })
}

// --- Postgres ---

/// The indexes that serve the questions: none that another one serves better.
const INDEXES: [&str; 24] = [
    "idempotency_keys_age",
    "idempotency_keys_pkey",
    "idempotency_keys_session",
    "id_blocks_pkey",
    "ledger_history",
    "ledger_idempotency_key",
    "ledger_pkey",
    "ledger_session",
    "ledger_user_id_wallet_version_key",
    "node_lanes_pkey",
    "node_runs_current",
    "node_runs_pkey",
    "revoked_tokens_expiry",
    "revoked_tokens_pkey",
    "revoked_tokens_user",
    "session_pauses_open",
    "session_pauses_pkey",
    "sessions_history",
    "sessions_live",
    "sessions_pkey",
    "users_email",
    "users_pkey",
    "wallet_notices_age",
    "wallet_notices_pkey",
];

/// What is wrong with the plans that the server told, each with its statement.
fn faults(told: &[String], leading: &[(String, String)]) -> BTreeSet<String> {
    let mut faults = BTreeSet::new();
    for text in told {
        let Some((_, plan)) = text.split_once("plan:\n") else {
            continue;
        };
        let explained: Value = serde_json::from_str(plan).unwrap();
        let statement = explained["Query Text"].as_str().unwrap();
        let mut found = Vec::new();
        look(&explained["Plan"], leading, &mut found);
        let statement: Vec<&str> = statement.split_whitespace().collect();
        let statement = statement.join(" ");
        faults.extend(
            found
                .into_iter()
                .map(|fault| format!("{fault}: {statement}")),
        );
    }
    faults
}

/// Looks at a part of a plan and the parts below it.
fn look(part: &Value, leading: &[(String, String)], found: &mut Vec<String>) {
    let number = |name: &str| part[name].as_f64().unwrap_or(0.0);
    let kind = part["Node Type"].as_str().unwrap();
    let index = part["Index Name"].as_str();
    if let Some(table) = part["Relation Name"].as_str() {
        let rows = number("Actual Rows")
            + number("Rows Removed by Filter")
            + number("Rows Removed by Index Recheck");
        let rows = rows * number("Actual Loops");
        if rows > ROWS_PER_ASKED * f64::from(ASKED) {
            found.push(format!("{rows} rows of {table} by {kind} {index:?}"));
        }
    }
    // An index that is not entered by its first column is walked through from end to end.
    if let Some(index) = index
        && !index.starts_with("pg_")
        && !INDEXES.contains(&index)
    {
        found.push(format!("{index}, which serves no question"));
    }
    if let (Some(index), Some(condition)) = (index, part["Index Cond"].as_str()) {
        let first = leading.iter().find(|(name, _)| name == index);
        let (_, column) = first.unwrap_or_else(|| panic!("an index called {index}"));
        if !condition.contains(column.as_str()) {
            found.push(format!("{index} by {condition}"));
        }
    }
    for below in part["Plans"].as_array().into_iter().flatten() {
        look(below, leading, found);
    }
}

/// A cluster whose server tells the plan of every statement that it ran.
struct Told {
    cluster: Cluster,
    listener: Listener,
}

impl Told {
    async fn new() -> Self {
        let cluster = Cluster::new("UTF8").await;
        for setting in [
            "session_preload_libraries = 'auto_explain'",
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_analyze = on",
            "auto_explain.log_format = json",
            "auto_explain.log_level = notice",
        ] {
            let sql = format!("ALTER DATABASE mc SET {setting}");
            cluster.execute("postgres", &sql).await;
        }
        // What the server knows of a table is for the test to say.
        cluster
            .execute("postgres", "ALTER SYSTEM SET autovacuum = off")
            .await;
        cluster.execute("postgres", "SELECT pg_reload_conf()").await;
        Self {
            cluster,
            listener: Listener::default(),
        }
    }

    async fn open(&self) -> Arc<dyn Store> {
        let address = format!("postgres://mc@{}/mc?sslmode=disable", self.cluster.socket());
        let settings = support::settings(StoreLocation::Postgres(address));
        store::open(&settings).await.unwrap()
    }

    /// Does what is not looked at.
    async fn execute(&self, sql: &str) {
        self.cluster.execute("mc", sql).await;
        self.listener.take();
    }

    /// What is wrong with the plans of the statements since the last time.
    async fn faults(&self) -> BTreeSet<String> {
        let sql = "SELECT string_agg(index.relname || ' ' || COALESCE(attname, pg_get_indexdef(indexrelid, 1, true)), ';')
            FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
            LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] AND attnum > 0";
        let told = self.listener.take();
        assert!(told.iter().filter(|text| text.contains("plan:\n")).count() > 60);
        let leading = self.cluster.text("mc", sql).await;
        self.listener.take();
        let leading: Vec<(String, String)> = leading
            .split(';')
            .filter_map(|index| index.split_once(' '))
            // Of an expression, the function.
            .map(|(index, column)| {
                (
                    index.to_owned(),
                    column.split('(').next().unwrap_or(column).to_owned(),
                )
            })
            .collect();
        faults(&told, &leading)
    }
}

const NONE: BTreeSet<String> = BTreeSet::new();

#[tokio::test]
async fn postgres_reads_what_is_asked_for_whatever_it_knows_of_its_tables() {
    if !cluster::is_possible() {
        return;
    }
    let told = Told::new().await;
    let listening = told.listener.listen();
    let store = told.open().await;
    let run = begin_run(&store, "a", 0).await;
    let users = store.create_fixture_users(USERS, credits(1_000), at(0));
    let users = users.await.unwrap();
    told.listener.take();

    use_it_all(&store, &run, &users, 0).await;
    assert_eq!(told.faults().await, NONE, "brand-new");
    told.execute(&grow()).await;
    use_it_all(&store, &run, &users, 1).await;
    assert_eq!(told.faults().await, NONE, "grown since the plans were made");
    let later = told.open().await;
    use_it_all(&later, &run, &users, 2).await;
    assert_eq!(told.faults().await, NONE, "of which nothing is known");
    told.execute("VACUUM ANALYZE").await;
    let newest = told.open().await;
    for (round, store) in (3..).zip([&store, &later, &newest]) {
        use_it_all(store, &run, &users, round).await;
        assert_eq!(told.faults().await, NONE, "analysed");
    }

    // The index that the planner once went over to is found out.
    let sql = "CREATE INDEX sessions_recovery ON sessions (node, user_id) WHERE end_time IS NULL; ANALYZE";
    told.execute(sql).await;
    let misled = told.open().await;
    use_it_all(&misled, &run, &users, 6).await;
    let faults = told.faults().await;
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("sessions_recovery")),
        "{faults:?}"
    );
    drop(listening);
}

// --- SQLite ---

/// Set in the process that only runs the test of SQLite's plans.
const ALONE: &str = "MINUTE_CREDIT_PLANS_ALONE";

#[tokio::test]
async fn sqlite_looks_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let location = support::new_location(Kind::Sqlite, &folder).await.unwrap();
    let listener = Listener::default();
    // Its statements run in threads of their own, so all of a process has to be listened to: one in which
    // nothing else happens.
    if std::env::var_os(ALONE).is_none() {
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "plans::sqlite_looks_by_an_index", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let told = [alone.stdout, alone.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(
            alone.status.success() && told.contains("1 passed"),
            "{told}"
        );
        return;
    }
    tracing::subscriber::set_global_default(listener.clone()).unwrap();
    let store = store::open(&support::settings(location.clone()))
        .await
        .unwrap();
    let run = begin_run(&store, "a", 0).await;
    let users = store.create_fixture_users(USERS, credits(1_000), at(0));
    let users = users.await.unwrap();
    listener.take();
    use_it_all(&store, &run, &users, 0).await;
    let statements: BTreeSet<String> = listener.take().into_iter().collect();
    assert!(statements.len() > 60, "{}", statements.len());
    store.close().await;

    let options = SqliteConnectOptions::new().filename(support::path_of(&location));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    for is_analysed in [false, true] {
        let mut walks = BTreeSet::new();
        for statement in &statements {
            let words: Vec<&str> = statement.split_whitespace().collect();
            if !["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].contains(&words[0]) {
                continue;
            }
            let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let steps = sqlx::raw_sql(sql).fetch_all(&mut connection).await.unwrap();
            for step in steps {
                let step: String = step.get("detail");
                let table = step
                    .strip_prefix("SCAN ")
                    .and_then(|rest| rest.split(' ').next());
                let is_table = table.is_some_and(|table| {
                    [
                        "users",
                        "sessions",
                        "ledger",
                        "idempotency_keys",
                        "live",
                        "kept",
                        "old",
                    ]
                    .contains(&table)
                });
                // What comes in the order of an index is read as far as the page goes.
                if is_table && !words.contains(&"LIMIT") {
                    walks.insert(format!("{step}: {}", words.join(" ")));
                }
            }
        }
        assert_eq!(walks, NONE, "analysed: {is_analysed}");
        let sql = format!("{}; ANALYZE", grow());
        if !is_analysed {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .unwrap();
        }
    }
}

//! A database of its own for each test, on SQLite and on Postgres, and short words for facts.

use std::{
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use billing::{ChargedAt, Opening, Settlement, SlotNumber, Tariff, WalletVersion};
use engine::{
    EngineSettings,
    facts::{
        Fact, FactOutcome, NodeName, NodeRun, ProcessId, Recording, ResumePolicy, WalletRecord,
    },
    lanes::Lanes,
    retention::RetentionSettings,
    store::{
        self, NewUser, Store, StoreLocation, StoreSettings,
        audit::{AuditLimits, Violation},
    },
};
use schema::{Credits, Millis, SessionId, UnixMillis, UserId, session::EndReason};
use sqlx::{
    AssertSqlSafe, Connection as _,
    postgres::{PgConnectOptions, PgConnection},
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use tempfile::TempDir;

/// Where all tests begin.
pub const START: i64 = 1_700_000_000_000;

/// The auditor's clock, long after all that the tests record.
const NOW: i64 = 400 * 24 * 3_600_000;

/// An empty database with our schema.
pub struct TestDatabase {
    pub store: Arc<dyn Store>,
    pub settings: StoreSettings,
}

/// How long a node of the tests may be away, so that its sessions go on: a minute.
pub fn within_a_minute() -> ResumePolicy {
    ResumePolicy::Within(Millis::new(60_000).unwrap())
}

/// A run of another process of the node `name`, from `now` on.
pub async fn begin_run(store: &Arc<dyn Store>, name: &str, now: i64) -> NodeRun {
    let (node, process) = (node(name), ProcessId::random());
    let begun = store.begin_run(&node, &process, at(now).into(), within_a_minute());
    begun.await.unwrap()
}

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// Where a new database of this kind is; nothing where no server was given. Nothing is in it yet.
pub async fn new_location(kind: Kind, folder: &TempDir) -> Option<StoreLocation> {
    match kind {
        Kind::Sqlite => Some(StoreLocation::Sqlite(folder.path().join("test.sqlite"))),
        Kind::Postgres => {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let server = server()?;
            let name = format!(
                "store_test_{}_{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            );
            let mut connection = PgConnection::connect_with(&server).await.unwrap();
            let sql = format!("CREATE DATABASE {name}");
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .unwrap();
            connection.close().await.unwrap();
            let mut address = std::env::var("TEST_DATABASE_URL").unwrap();
            let path = address.rfind('/').unwrap();
            address.replace_range(path + 1.., &name);
            Some(StoreLocation::Postgres(address))
        }
    }
}

/// The server that was given for tests.
fn server() -> Option<PgConnectOptions> {
    std::env::var("TEST_DATABASE_URL")
        .ok()
        .map(|address| PgConnectOptions::from_str(&address).unwrap())
}

pub fn settings(location: StoreLocation) -> StoreSettings {
    StoreSettings {
        location,
        connections_max: 5,
        writers: Lanes::new(2).unwrap(),
        connect_timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(30),
    }
}

/// Runs `test` with a database of this kind, and drops the database after it, come what may.
pub async fn with_database<F>(kind: Kind, test: fn(Arc<TestDatabase>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let folder = tempfile::tempdir().unwrap();
    let Some(location) = new_location(kind, &folder).await else {
        return;
    };
    let settings = settings(location.clone());
    let store = store::open(&settings).await.unwrap();
    let database = Arc::new(TestDatabase { store, settings });
    let result = tokio::spawn(test(Arc::clone(&database))).await;
    database.store.close().await;
    drop_database(&location).await;
    if let Err(error) = result {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Drops a database that [`new_location`] made. An SQLite file goes with its folder.
pub async fn drop_database(location: &StoreLocation) {
    if let StoreLocation::Postgres(address) = location {
        let name = address.rsplit('/').next().unwrap();
        let mut connection = PgConnection::connect_with(&server().unwrap())
            .await
            .unwrap();
        let sql = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

/// Declares each test twice: once on SQLite, and once on Postgres where a server is given.
#[macro_export]
macro_rules! on_both {
    ($($test:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                $crate::support::with_database($crate::support::Kind::Sqlite, super::$test).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                $crate::support::with_database($crate::support::Kind::Postgres, super::$test).await;
            })*
        }
    };
}

impl TestDatabase {
    pub fn kind(&self) -> Kind {
        match self.settings.location {
            StoreLocation::Postgres(_) => Kind::Postgres,
            StoreLocation::Sqlite(_) => Kind::Sqlite,
        }
    }

    /// Runs SQL behind the store's back.
    pub async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        execute(&self.settings.location, sql).await
    }

    /// Runs SQL behind the store's back, in one of two forms.
    pub async fn execute_either(&self, postgres: &str, sqlite: &str) {
        let sql = if self.kind() == Kind::Postgres {
            postgres
        } else {
            sqlite
        };
        self.execute(sql).await.unwrap();
    }

    /// The one number that the statement gives.
    pub async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.settings.location {
            StoreLocation::Postgres(address) => {
                let mut connection = PgConnection::connect(address).await.unwrap();
                sqlx::query_scalar(sql)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap()
            }
            StoreLocation::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
                sqlx::query_scalar(sql)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap()
            }
        }
    }

    /// The texts that the statement gives.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        let texts = match &self.settings.location {
            StoreLocation::Postgres(address) => {
                let mut connection = PgConnection::connect(address).await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut connection).await
            }
            StoreLocation::Sqlite(path) => {
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut connection).await
            }
        };
        texts.unwrap()
    }

    /// A second store on the same database, as another process would have.
    pub async fn another(&self) -> Arc<dyn Store> {
        store::open(&self.settings).await.unwrap()
    }

    /// A run of the node `name`, from the start on.
    pub async fn run(&self, name: &str) -> NodeRun {
        begin_run(&self.store, name, 0).await
    }

    /// A new user with `grant` credits.
    pub async fn user(&self, grant: i64) -> UserId {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let email = format!("user{}@example.org", NEXT.fetch_add(1, Ordering::Relaxed));
        let user = NewUser {
            email,
            password_hash: None,
            grant: credits(grant),
            created_at: at(0),
        };
        self.store.create_user(user).await.unwrap().id
    }

    /// The greatest instant that the node's runs have proved.
    pub async fn proved_by(&self, name: &str) -> Option<UnixMillis> {
        let time = self.store.node_time(&node(name)).await.unwrap();
        time.map(|time| time.latest)
    }

    pub async fn wallet(&self, user: UserId) -> WalletRecord {
        self.store
            .wallet(user, WalletVersion::new(0))
            .await
            .unwrap()
            .unwrap()
    }

    /// Records one fact, and tells what became of it.
    pub async fn record(&self, run: &NodeRun, fact: Fact) -> FactOutcome {
        let outcomes = self.store.record(run, None, &[fact.into()]).await.unwrap();
        assert_eq!(outcomes.len(), 1);
        outcomes[0]
    }

    /// Records facts that must all be recorded.
    pub async fn must_record(&self, run: &NodeRun, alive_at: i64, facts: &[Fact]) {
        let outcomes = self
            .store
            .record(run, Some(at(alive_at)), &without_keys(facts))
            .await
            .unwrap();
        assert_eq!(outcomes, vec![FactOutcome::Recorded; facts.len()]);
    }

    /// Every violation in the database. However it is read, the audit must find the same.
    pub async fn violations(&self) -> Vec<Violation> {
        // The tests name sessions by ids that nobody took, and know no passwords.
        const OF_TESTS: [&str; 3] = ["block of session ids", "no argon2 hash", "same salted hash"];
        let mut in_whole = self.audit(3, 1_000).await;
        let mut in_pieces = self.audit(3, 2).await;
        let by_user = |one: &Violation, other: &Violation| {
            (&one.place, &one.what).cmp(&(&other.place, &other.what))
        };
        let is_of_tests = |one: &Violation| OF_TESTS.iter().any(|words| one.rule.contains(words));
        in_whole.retain(|one| !is_of_tests(one));
        in_pieces.retain(|one| !is_of_tests(one));
        in_whole.sort_by(by_user);
        in_pieces.sort_by(by_user);
        assert_eq!(in_whole, in_pieces);
        in_whole
    }

    async fn audit(&self, users: u32, rows: u32) -> Vec<Violation> {
        let (mut after, mut violations) = (None, Vec::new());
        loop {
            let now = at(NOW);
            let limits = AuditLimits { users, rows, now };
            let page = self.store.audit(after, limits).await.unwrap();
            violations.extend(page.violations);
            after = page.last;
            if after.is_none() {
                return violations;
            }
        }
    }
}

/// Runs SQL on the database at `location`.
pub async fn execute(location: &StoreLocation, sql: &str) -> Result<(), sqlx::Error> {
    let sql = AssertSqlSafe(sql.to_owned());
    match location {
        StoreLocation::Postgres(address) => {
            let mut connection = PgConnection::connect(address).await?;
            sqlx::raw_sql(sql).execute(&mut connection).await?;
            connection.close().await
        }
        StoreLocation::Sqlite(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).unwrap();
            }
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .foreign_keys(false);
            let mut connection = SqliteConnection::connect_with(&options).await?;
            sqlx::raw_sql(sql).execute(&mut connection).await?;
            connection.close().await
        }
    }
}

pub fn path_of(location: &StoreLocation) -> PathBuf {
    match location {
        StoreLocation::Sqlite(path) => path.clone(),
        StoreLocation::Postgres(_) => panic!("not a file"),
    }
}

/// The instant `millis` after the tests' beginning.
pub fn at(millis: i64) -> UnixMillis {
    UnixMillis::new(START + millis).unwrap()
}

pub fn credits(amount: i64) -> Credits {
    Credits::new(amount).unwrap()
}

pub fn session(id: i64) -> SessionId {
    SessionId::new(id).unwrap()
}

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn version(number: i64) -> WalletVersion {
    WalletVersion::new(number)
}

/// One credit for 6 s, charged at the interval's end.
pub fn tariff() -> Tariff {
    Tariff::new(credits(1), Millis::new(6_000).unwrap(), ChargedAt::End).unwrap()
}

/// Session `id` starts `started_at` after the beginning.
pub fn opening(user: UserId, version: i64, id: i64, started_at: i64) -> Opening {
    Opening {
        user,
        version: WalletVersion::new(version),
        session: session(id),
        slot: SlotNumber::new(0),
        tariff: tariff(),
        started_at: at(started_at),
    }
}

/// Session `id` has cost `total` for `served`, `millis` after the beginning.
pub fn settlement(
    user: UserId,
    version: i64,
    id: i64,
    seq: i64,
    total: i64,
    served: i64,
    millis: i64,
) -> Settlement {
    Settlement {
        user,
        version: WalletVersion::new(version),
        session: session(id),
        seq,
        total: credits(total),
        served: Millis::new(served).unwrap(),
        at: at(millis),
        end: None,
    }
}

/// `facts` without keys.
pub fn without_keys(facts: &[Fact]) -> Vec<Recording> {
    facts.iter().map(|fact| (*fact).into()).collect()
}

/// `settlement` as the session's last one.
pub fn ended(settlement: Settlement, reason: EndReason) -> Settlement {
    Settlement {
        end: Some(reason),
        ..settlement
    }
}

/// Every violation that an audit of `store` finds.
pub async fn violations_of(store: &Arc<dyn Store>) -> Vec<Violation> {
    let limits = AuditLimits {
        users: 1_000,
        rows: 10_000,
        now: at(NOW),
    };
    let (mut after, mut violations) = (None, Vec::new());
    loop {
        let page = store.audit(after, limits).await.unwrap();
        violations.extend(page.violations);
        after = page.last;
        if after.is_none() {
            return violations;
        }
    }
}

/// An engine of the node "a", with all as it is by default.
pub fn engine_settings() -> EngineSettings {
    let millis = |millis| Millis::new(millis).unwrap();
    EngineSettings {
        node: node("a"),
        tariff: tariff(),
        settle_every: millis(900_000),
        low_balance: millis(60_000),
        resume: ResumePolicy::Within(millis(600_000)),
        outage_grace: Duration::from_mins(1),
        call_timeout: Duration::from_secs(5),
        calls_max: 1_000,
        unpaid_sessions_per_hour_max: 60,
        retention: RetentionSettings::default(),
        redis_url: None,
    }
}

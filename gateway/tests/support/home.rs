//! Where a test server keeps its data.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

/// A folder, and perhaps a Postgres database. Both go with it.
pub struct Home {
    dir: TempDir,
    database: Option<Database>,
}

impl Home {
    pub async fn new() -> Self {
        let database = match std::env::var("TEST_DATABASE_URL") {
            Ok(server) => Some(Database::create(server).await),
            Err(_) => None,
        };
        Self {
            dir: TempDir::new().unwrap(),
            database,
        }
    }

    /// Whether the database is Postgres.
    pub const fn is_postgres(&self) -> bool {
        self.database.is_some()
    }

    /// Holds the database against everybody else.
    pub async fn hold(&self, held: Held) -> Hold {
        let Some(database) = &self.database else {
            assert_eq!(held, Held::Writes, "SQLite lets readers read");
            let file = self.dir.path().join("minute-credit.db");
            let url = format!("sqlite://{}", file.display());
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            sqlx::raw_sql("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE")
                .execute(&mut connection)
                .await
                .unwrap();
            return Hold::Sqlite(connection);
        };
        let mode = match held {
            Held::Writes => "SHARE",
            Held::Everything => "ACCESS EXCLUSIVE",
        };
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let tables = "users, sessions, ledger, node_runs, node_lanes, revoked_tokens";
        let sql = format!("BEGIN; LOCK TABLE {tables} IN {mode} MODE");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
        Hold::Postgres(connection)
    }

    /// The variables that lead a server here.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let dir = self.dir.path().display().to_string();
        let database = self.database.as_ref().map(|database| database.url.clone());
        [("DATA_DIR", Some(dir)), ("DATABASE_URL", database)]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

/// What nobody else can do for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Write to the database.
    Writes,
    /// Write to it or read it. SQLite lets readers read whatever happens.
    Everything,
}

/// Holds a database until it is let go.
pub enum Hold {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Hold {
    /// Lets the database go.
    pub async fn release(self) {
        match self {
            Self::Sqlite(mut connection) => {
                sqlx::raw_sql("ROLLBACK")
                    .execute(&mut connection)
                    .await
                    .unwrap();
                connection.close().await.unwrap();
            }
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

/// A database of its own on the server for tests.
struct Database {
    server: String,
    name: String,
    url: String,
}

impl Database {
    async fn create(server: String) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gateway_test_{}_{number}", std::process::id());
        execute(&server, format!("CREATE DATABASE {name}")).await;
        let (place, _) = server.rsplit_once('/').unwrap();
        let url = format!("{place}/{name}");
        Self { server, name, url }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, sql) = (
            self.server.clone(),
            format!("DROP DATABASE {} WITH (FORCE)", self.name),
        );
        // Nobody waits for it: the test's server is still about, and may be in the midst of connecting,
        // which would hold the database up. It ends with the test's runtime, after this.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(execute(&server, sql));
        });
    }
}

async fn execute(server: &str, sql: String) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

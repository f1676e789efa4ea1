//! SQLite, embedded: how to open its file, and how to tell what its errors mean.
//!
//! One connection writes, so that writers queue here and not in the file's lock; a few others read.
//! Another process, such as the command line, may write to the file too.

use std::{fs::OpenOptions, io, path::Path};

use sqlx::{
    Connection as _, SqlitePool,
    migrate::Migration,
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous,
    },
};

use super::{StoreError, StoreSettings, migrations};

/// How many rows a connection's thread may be ahead of who takes them. With sqlx's 50 the two wait for
/// each other all the time: a recovery of 200,000 sessions took 4.4 s instead of 3.3 s.
const ROWS_AHEAD: usize = 2_048;

/// The migrations, oldest first. One that was released is never changed.
pub(super) fn own_migrations() -> Vec<Migration> {
    vec![
        migrations::simple(
            1,
            "wallets, sessions, ledger",
            include_str!("../../../schema/migrations/sqlite/0001_wallets_sessions_ledger.sql"),
        ),
        migrations::simple(
            2,
            "runs in place",
            include_str!("../../../schema/migrations/sqlite/0002_runs_in_place.sql"),
        ),
        migrations::simple(
            3,
            "idempotency keys",
            include_str!("../../../schema/migrations/sqlite/0003_idempotency_keys.sql"),
        ),
        migrations::simple(
            4,
            "tokens erasure retention",
            include_str!("../../../schema/migrations/sqlite/0004_tokens_erasure_retention.sql"),
        ),
        migrations::simple(
            5,
            "retention",
            include_str!("../../../schema/migrations/sqlite/0005_retention.sql"),
        ),
    ]
}

/// The pools of an SQLite file.
#[derive(Clone, Debug)]
pub(super) struct SqlitePools {
    /// Its only connection writes.
    pub(super) writer: SqlitePool,
    /// Its connections only read.
    pub(super) readers: SqlitePool,
}

/// Makes the file at need, brings its schema up to date, and opens the pools.
pub(super) async fn open(path: &Path, settings: &StoreSettings) -> Result<SqlitePools, StoreError> {
    prepare_file(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(settings.connect_timeout)
        .foreign_keys(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    migrate(&mut connection).await?;
    connection.close().await?;

    let pool = SqlitePoolOptions::new()
        .acquire_timeout(settings.connect_timeout)
        .idle_timeout(None)
        .max_lifetime(None);
    Ok(SqlitePools {
        writer: pool
            .clone()
            .max_connections(1)
            .connect_lazy_with(options.clone()),
        readers: pool
            .max_connections(settings.connections_max.max(1))
            .connect_lazy_with(
                options
                    .pragma("query_only", "ON")
                    .row_buffer_size(ROWS_AHEAD),
            ),
    })
}

/// Makes the file at need, and says in words what stands in the way. Its folder must be there: one that
/// is not may be a slip of the pen. The file holds password hashes: a new one is readable by its owner only.
fn prepare_file(path: &Path) -> Result<(), StoreError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        |source| StoreError::File { path, source }
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
    {
        let absent = io::Error::new(io::ErrorKind::NotFound, "there is no such folder");
        return Err(file_error(folder)(absent));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(file_error(path))?;
    Ok(())
}

/// Whether the file is there and has tables of ours.
pub(super) async fn exists(path: &Path) -> Result<bool, StoreError> {
    if !path.exists() {
        return Ok(false);
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations')";
    let exists = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(exists)
}

/// One transaction around the check and the migrations, so that two processes don't both migrate.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let migrator = migrations::migrator(own_migrations());
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let (has_migrations, has_tables): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'),
                EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name IN ('users', 'sessions', 'ledger'))",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !has_migrations && has_tables {
        return Err(migrations::not_ours());
    }
    migrator
        .run_direct(None, &mut *transaction, false)
        .await
        .map_err(|error| migrations::explain(error, &migrator))?;
    Ok(transaction.commit().await?)
}

/// The result code for a file that is no SQLite database.
const NOT_A_DATABASE: i32 = 26;

/// Whether `code` says that the file is no SQLite database.
pub(super) fn is_no_database(code: &str) -> bool {
    primary_code(code) == Some(NOT_A_DATABASE)
}

/// Whether an error of this result code can pass by itself: busy, locked, out of memory, read-only,
/// interrupted, failing or full disk, a file that can't be opened.
/// See <https://www.sqlite.org/rescode.html>.
pub(super) fn is_passing(code: &str) -> bool {
    primary_code(code).is_some_and(|code| matches!(code, 5..=10 | 13 | 14))
}

/// The result code without its extension.
fn primary_code(code: &str) -> Option<i32> {
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

//! SQLite, embedded: how to open its file, and how to tell what its errors mean.
//!
//! One connection writes, so that writers queue here and not in the file's lock; a few others read.
//! Another process, such as the command line, may write to the file too.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use sqlx::{
    Connection as _, SqlitePool,
    migrate::Migration,
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions,
        SqliteSynchronous,
    },
};

use super::{StoreError, StoreSettings, errors::Blame, migrations};

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
        migrations::simple(
            6,
            "clocks",
            include_str!("../../../schema/migrations/sqlite/0006_clocks.sql"),
        ),
        migrations::simple(
            7,
            "setbacks",
            include_str!("../../../schema/migrations/sqlite/0007_setbacks.sql"),
        ),
        migrations::simple(
            8,
            "plans",
            include_str!("../../../schema/migrations/sqlite/0008_plans.sql"),
        ),
        migrations::simple(
            9,
            "lanes",
            include_str!("../../../schema/migrations/sqlite/0009_lanes.sql"),
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
    /// What they have open.
    pub(super) file: OpenFile,
}

/// The file of a database as it was when it was opened. A connection goes on with it wherever it is,
/// even if it was deleted: only the path tells that the next process won't find it there.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// The write-ahead log beside it, where there is one as long as a connection is open.
    log: Option<PathBuf>,
}

impl OpenFile {
    /// The file at `path`, to which a connection is open.
    fn new(path: &Path) -> Result<Self, StoreError> {
        let file_error = |source| StoreError::File {
            path: path.to_owned(),
            source,
        };
        // The log is beside the file itself, not beside a link to it.
        let mut log = path.canonicalize().map_err(file_error)?.into_os_string();
        log.push("-wal");
        let log = PathBuf::from(log);
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path).map_err(file_error)?,
            log: log.exists().then_some(log),
        })
    }

    /// Fails if the file is not at its path any more, or another one is.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            return Ok(());
        }
        Err(self.gone())
    }

    /// The same of a file to which a connection is open: then its log must be there too.
    pub(super) fn check_written(&self) -> Result<(), StoreError> {
        self.check()?;
        if self.log.as_ref().is_none_or(|log| log.exists()) {
            return Ok(());
        }
        Err(self.gone())
    }

    fn gone(&self) -> StoreError {
        StoreError::FileGone {
            path: self.path.clone(),
        }
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Elsewhere a file that is open can't be moved or deleted.
#[cfg(not(unix))]
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|_| (0, 0))
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
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .map_err(explain)?;
    migrate(&mut connection).await?;
    let file = OpenFile::new(path)?;
    connection.close().await?;

    let pool = SqlitePoolOptions::new()
        .acquire_timeout(settings.connect_timeout)
        .idle_timeout(None)
        .max_lifetime(None);
    Ok(SqlitePools {
        file,
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

/// The same error, in words if it says that the file is no SQLite database.
fn explain(error: sqlx::Error) -> StoreError {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    if code.and_then(|code| primary_code(&code)) == Some(NOT_A_DATABASE) {
        return StoreError::Incompatible("the file is not an SQLite database".to_owned());
    }
    error.into()
}

/// The extended result code for a transaction that read before another one wrote, and can't write any
/// more.
const BUSY_SNAPSHOT: i32 = 517;

/// What an error of this result code is about. See <https://www.sqlite.org/rescode.html>.
pub(super) fn blame(code: &str) -> Blame {
    if code.parse() == Ok(BUSY_SNAPSHOT) {
        return Blame::Conflict;
    }
    match primary_code(code) {
        // A value that is too big, a broken constraint, a value of the wrong type, a wrong position.
        Some(18 | 19 | 20 | 25) => Blame::Call,
        _ => Blame::Database,
    }
}

/// The result code without its extension.
fn primary_code(code: &str) -> Option<i32> {
    code.parse::<i32>()
        .ok()
        .filter(|code| *code >= 0)
        .map(|code| code & 0xff)
}

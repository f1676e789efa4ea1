//! How a call is made: with a connection from its pool, as one unit, in a bounded time, and again at
//! once if another transaction was in the way.
//!
//! The connection goes back to its pool only from a known state: after a time-out, a panic, or an
//! error that may be the connection's, it is cut off instead.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;

use super::{
    AdjustError, CreateUserError, EraseError, StoreError,
    connection::{Connection, Unit},
    errors::Blame,
    postgres::PostgresPool,
    sqlite::SqlitePools,
};

/// How often a call is made again at once because another transaction was in the way. Then it counts
/// as one that the database can't do now.
const CONFLICTS_MAX: u32 = 20;

/// Why a call failed: because of the database, or because of what was asked for.
pub(super) trait CallError: From<StoreError> {
    /// What the database did, if it was that.
    fn of_store(&self) -> Option<&StoreError>;
}

impl CallError for StoreError {
    fn of_store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

impl CallError for AdjustError {
    fn of_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl CallError for EraseError {
    fn of_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl CallError for CreateUserError {
    fn of_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::EmailTaken => None,
        }
    }
}

/// What a call does with its connection. Its clone does the same again.
pub(super) trait Work<T, E>:
    for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Clone + Send + 'static
{
}

impl<T, E, F> Work<T, E> for F where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Clone + Send + 'static
{
}

/// The connections to a database.
#[derive(Clone, Debug)]
pub(super) enum Pools {
    /// To Postgres.
    Postgres(PostgresPool),
    /// To SQLite.
    Sqlite(SqlitePools),
}

impl Pools {
    async fn acquire(&self, unit: Unit) -> Result<Connection, StoreError> {
        let pools = match self {
            Self::Postgres(pool) => return Ok(Connection::Postgres(pool.acquire().await?)),
            Self::Sqlite(pools) => pools,
        };
        pools.file.check()?;
        let pool = match unit {
            Unit::Write => &pools.writer,
            Unit::OneRead | Unit::Snapshot => &pools.readers,
        };
        Ok(Connection::Sqlite(pool.acquire().await?))
    }

    /// Fails if what was just written is lost: an embedded database whose file is another one by now.
    fn check_written(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite(pools) => pools.file.check_written(),
        }
    }

    /// Gives up what `error` says is not good any more.
    fn learn(&self, error: &StoreError) {
        if let Self::Postgres(pool) = self {
            pool.learn(error);
        }
    }

    /// Closes all connections, once those on loan are back.
    pub(super) async fn close(&self) {
        match self {
            Self::Postgres(pool) => pool.close().await,
            Self::Sqlite(pools) => {
                pools.readers.close().await;
                pools.writer.close().await;
            }
        }
    }
}

/// Does `work` as one `unit`, in no longer than `timeout`.
pub(super) async fn make<T, E, F>(
    pools: &Pools,
    timeout: Duration,
    unit: Unit,
    work: F,
) -> Result<T, E>
where
    E: CallError,
    F: Work<T, E>,
{
    let mut conflicts = 0;
    loop {
        let result = attempt(pools, timeout, unit, work.clone()).await;
        let is_conflict = result.as_ref().err().is_some_and(is_conflict);
        if !is_conflict || conflicts == CONFLICTS_MAX {
            return result;
        }
        conflicts += 1;
    }
}

fn is_conflict<E: CallError>(error: &E) -> bool {
    let is_unknown = E::of_store(error).is_some_and(StoreError::is_outcome_unknown);
    !is_unknown && E::of_store(error).and_then(StoreError::blame) == Some(Blame::Conflict)
}

async fn attempt<T, E, F>(pools: &Pools, timeout: Duration, unit: Unit, work: F) -> Result<T, E>
where
    E: CallError,
    F: Work<T, E>,
{
    let mut lease = scopeguard::guard(pools.acquire(unit).await?, Connection::sever);
    let is_committing = AtomicBool::new(false);
    let ran = run(&mut lease, unit, work, &is_committing);
    let (result, is_clean) = if let Ok(ran) = tokio::time::timeout(timeout, ran).await {
        ran
    } else {
        let error = StoreError::TimedOut(timeout);
        let is_unknown = is_committing.load(Ordering::Relaxed);
        let error = if is_unknown { error.of_commit() } else { error };
        (Err(error.into()), false)
    };
    let result = result.map_err(|error| match E::of_store(&error) {
        // The server has as much patience, and was a moment faster.
        Some(cut) if cut.is_cut_off() => StoreError::TimedOut(timeout).into(),
        _ => error,
    });
    if let Err(error) = &result
        && let Some(error) = E::of_store(error)
    {
        pools.learn(error);
    }
    if result.is_ok() && unit == Unit::Write {
        // What was made durable must be where the next process finds it. The connection is still open,
        // and the log with it.
        pools.check_written().map_err(StoreError::of_commit)?;
    }
    if is_clean {
        drop(scopeguard::ScopeGuard::into_inner(lease));
    }
    result
}

/// Does `work` as one `unit`, and tells whether the connection is in a known state after it.
async fn run<T, E, F>(
    connection: &mut Connection,
    unit: Unit,
    work: F,
    is_committing: &AtomicBool,
) -> (Result<T, E>, bool)
where
    E: CallError,
    F: Work<T, E>,
{
    if let Err(error) = connection.begin(unit).await {
        return (Err(error.into()), false);
    }
    match work(connection).await {
        Ok(value) => {
            is_committing.store(unit == Unit::Write, Ordering::Relaxed);
            match connection.commit(unit).await {
                Ok(()) => (Ok(value), true),
                Err(error) if unit == Unit::Write => (Err(error.of_commit().into()), false),
                Err(error) => (Err(error.into()), false),
            }
        }
        Err(error) => {
            let is_clean =
                leaves_connection_whole(&error, unit) && connection.roll_back(unit).await.is_ok();
            (Err(error), is_clean)
        }
    }
}

/// Whether the connection, and the server at its other end, are as good as before `error` once the
/// transaction is undone.
fn leaves_connection_whole<E: CallError>(error: &E, unit: Unit) -> bool {
    let Some(error) = E::of_store(error) else {
        return true;
    };
    match error.blame() {
        Some(blame) => matches!(blame, Blame::Call | Blame::Conflict),
        // Rows that can't be read may not have been read to their end.
        None => unit != Unit::OneRead,
    }
}

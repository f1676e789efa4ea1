//! A database that went back: it lacks what it had acknowledged, since a standby without the last changes
//! was promoted, or a backup was put in its place under a running process.
//!
//! Left alone, it would give ids a second time that clients know already. A process can tell by its
//! run's row, which only ever moves on. It gives nothing out any more, and leaves a row for the process
//! after it, which can't know: that one doesn't start before an operator has skipped what was lost
//! (`restored`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schema::UnixMillis;

use super::{StoreError, connection::Connection};
use crate::facts::NodeRun;

/// What the database has acknowledged of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// That the run was alive then.
    pub(super) alive_at: UnixMillis,
    /// That something was recorded with that instant.
    pub(super) last_instant: UnixMillis,
}

impl Known {
    /// Nothing.
    pub(super) const NOTHING: Self = Self {
        alive_at: UnixMillis::EPOCH,
        last_instant: UnixMillis::EPOCH,
    };
}

/// What the database has acknowledged of this process's run. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Acknowledged(Arc<Mutex<Option<(NodeRun, Known)>>>);

impl Acknowledged {
    /// The run has begun.
    pub(super) fn begin(&self, run: &NodeRun) {
        let known = Known {
            alive_at: run.started_at,
            ..Known::NOTHING
        };
        *self.lock() = Some((run.clone(), known));
    }

    /// Something of the run became durable.
    pub(super) fn raise(
        &self,
        run: &NodeRun,
        alive_at: Option<UnixMillis>,
        last_instant: Option<UnixMillis>,
    ) {
        if let Some((begun, known)) = self.lock().as_mut()
            && begun == run
        {
            known.alive_at = known.alive_at.max(alive_at.unwrap_or(UnixMillis::EPOCH));
            known.last_instant = known
                .last_instant
                .max(last_instant.unwrap_or(UnixMillis::EPOCH));
        }
    }

    /// What is known of `run`: nothing if it is not this process's.
    pub(super) fn of(&self, run: &NodeRun) -> Known {
        match &*self.lock() {
            Some((begun, known)) if begun == run => *known,
            _ => Known::NOTHING,
        }
    }

    /// This process's run with what is known of it, once it has begun.
    pub(super) fn current(&self) -> Option<(NodeRun, Known)> {
        self.lock().clone()
    }

    /// The value is valid after any panic: each change of it is a single step.
    fn lock(&self) -> MutexGuard<'_, Option<(NodeRun, Known)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fails if the row of `run` is older than what is known of it, or not there.
pub(super) async fn check(
    connection: &mut Connection,
    run: &NodeRun,
    known: Known,
) -> Result<(), StoreError> {
    let row: Option<(i64, i64)> = connection
        .row(
            "SELECT alive_at, last_instant FROM node_runs WHERE node = $1 AND epoch = $2",
            &[run.node.as_str().into(), run.epoch.into()],
        )
        .await?;
    match row {
        Some((alive_at, last_instant))
            if alive_at >= known.alive_at.get() && last_instant >= known.last_instant.get() =>
        {
            Ok(())
        }
        // Runs that are over are deleted when they are old: not by a database that went back.
        None if is_followed(connection, run).await? => Ok(()),
        _ => Err(StoreError::WentBack),
    }
}

/// Whether a later run of the node has begun.
async fn is_followed(connection: &mut Connection, run: &NodeRun) -> Result<bool, StoreError> {
    let sql = "SELECT epoch FROM node_runs WHERE node = $1 AND epoch > $2 LIMIT 1";
    let later: Option<(i64,)> = connection
        .row(sql, &[run.node.as_str().into(), run.epoch.into()])
        .await?;
    Ok(later.is_some())
}

/// Leaves word that the database is older than what `run` knows of it.
pub(super) async fn note(
    connection: &mut Connection,
    run: NodeRun,
    known: Known,
) -> Result<(), StoreError> {
    connection
        .execute(
            "INSERT INTO setbacks (node, epoch, known_alive_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[
                run.node.as_str().into(),
                run.epoch.into(),
                known.alive_at.get().into(),
            ],
        )
        .await
        .map(drop)
}

/// Fails if a process found that the database went back, and nobody has skipped what was lost.
pub(super) async fn refuse_unmended(connection: &mut Connection) -> Result<(), StoreError> {
    let row: Option<(String,)> = connection
        .row("SELECT node FROM setbacks LIMIT 1", &[])
        .await?;
    match row {
        Some(_) => Err(StoreError::WentBack),
        None => Ok(()),
    }
}

/// What was lost is skipped.
pub(super) async fn mend(connection: &mut Connection) -> Result<(), StoreError> {
    connection
        .execute("DELETE FROM setbacks", &[])
        .await
        .map(drop)
}

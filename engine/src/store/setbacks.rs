//! A database that went back: it lacks what it had acknowledged, since a standby without the last changes
//! was promoted, or a backup was put in its place under a running process.
//!
//! Left alone, it would give ids a second time that clients know already. A process can tell by its
//! run's row, which only ever moves on. It gives nothing out any more, and leaves a row for the process
//! after it, which can't know: that one doesn't start before an operator has skipped what was lost
//! (`restored`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schema::UnixMillis;

use super::{StoreError, connection::Connection, runs::lane_number};
use crate::{facts::NodeRun, lanes::Lanes};

/// What the database has acknowledged of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    alive_at: UnixMillis,
    /// By lane, for each lane of the run.
    last_instants: Vec<UnixMillis>,
}

impl Known {
    /// Up to when the run was alive.
    pub(super) const fn alive_at(&self) -> UnixMillis {
        self.alive_at
    }

    /// The greatest instant that something was recorded with in `lane`; of another process's run, nothing.
    pub(super) fn last_instant(&self, lane: usize) -> UnixMillis {
        let last_instant = self.last_instants.get(lane);
        last_instant.copied().unwrap_or_default()
    }
}

/// What the database has acknowledged of this process's run. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Acknowledged(Arc<Mutex<Option<(NodeRun, Known)>>>);

impl Acknowledged {
    /// The run has begun, with `lanes`.
    pub(super) fn begin(&self, run: &NodeRun, lanes: Lanes) {
        let known = Known {
            alive_at: run.started_at,
            last_instants: vec![UnixMillis::EPOCH; lanes.count()],
        };
        *self.lock() = Some((run.clone(), known));
    }

    /// It is durable that the run was alive at `instant`.
    pub(super) fn alive_at(&self, run: &NodeRun, instant: UnixMillis) {
        self.learn(run, |known| known.alive_at = known.alive_at.max(instant));
    }

    /// It is durable that something was recorded with `instant` in `lane`.
    pub(super) fn recorded(&self, run: &NodeRun, lane: usize, instant: UnixMillis) {
        self.learn(run, |known| {
            known.last_instants[lane] = known.last_instants[lane].max(instant);
        });
    }

    fn learn(&self, run: &NodeRun, learn: impl FnOnce(&mut Known)) {
        if let Some((begun, known)) = self.lock().as_mut()
            && begun == run
        {
            learn(known);
        }
    }

    /// What is known of `run`: nothing if it is not this process's.
    pub(super) fn of(&self, run: &NodeRun) -> Known {
        match &*self.lock() {
            Some((begun, known)) if begun == run => known.clone(),
            _ => Known::default(),
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

/// A run with one of its lanes; a run that is over has none.
#[derive(sqlx::FromRow)]
struct LaneRow {
    alive_at: i64,
    is_current: bool,
    last_instant: i64,
    lane: Option<i64>,
    last_instant_of_lane: Option<i64>,
}

/// Fails if the rows of `run` are older than what is known of it, or not there.
pub(super) async fn check(
    connection: &mut Connection,
    run: &NodeRun,
    known: &Known,
) -> Result<(), StoreError> {
    let rows: Vec<LaneRow> = connection
        .rows(
            "SELECT alive_at, is_current, run.last_instant, lane, lanes.last_instant AS last_instant_of_lane
             FROM node_runs AS run LEFT JOIN node_lanes AS lanes
                ON lanes.node = run.node AND lanes.epoch = run.epoch
             WHERE run.node = $1 AND run.epoch = $2",
            &[run.node.as_str().into(), run.epoch.into()],
        )
        .await?;
    let Some(row) = rows.first() else {
        // Runs that are over are deleted when they are old: not by a database that went back.
        return if is_followed(connection, run).await? {
            Ok(())
        } else {
            Err(StoreError::WentBack)
        };
    };
    let last_instant = |lane: usize| {
        let of_lane = rows
            .iter()
            .filter(|row| row.lane == Some(lane_number(lane)));
        let of_lane = of_lane.filter_map(|row| row.last_instant_of_lane).max();
        // Whoever ended the run took over what its lanes said.
        of_lane.or_else(|| (!row.is_current).then_some(row.last_instant))
    };
    let mut known_lanes = known.last_instants.iter().enumerate();
    let has_all = row.alive_at >= known.alive_at.get()
        && known_lanes.all(|(lane, known)| last_instant(lane) >= Some(known.get()));
    if has_all {
        Ok(())
    } else {
        Err(StoreError::WentBack)
    }
}

/// Why nothing can be written under the rows of `run`: it is over, or they are older than what is known of
/// it.
pub(super) async fn shut_out(
    connection: &mut Connection,
    run: &NodeRun,
    known: &Known,
) -> StoreError {
    match check(connection, run, known).await {
        Ok(()) => StoreError::Superseded,
        Err(error) => error,
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

//! Runs of nodes: who may write under a node's name, and when it was alive (law 8).

use billing::{Run, Takeover};
use schema::{Millis, UnixMillis};

use super::{
    StoreError,
    connection::{Connection, Sql},
    setbacks::{self, Known},
};
use crate::{
    clock::ClockReading,
    facts::{NodeName, NodeRun, NodeTime, ProcessId, ResumePolicy},
    lanes::Lanes,
};

/// Succeeds if the database answers.
pub(super) async fn ping(connection: &mut Connection) -> Result<(), StoreError> {
    connection
        .rows::<(i64,)>(
            Sql {
                postgres: "SELECT 1::BIGINT",
                sqlite: "SELECT 1",
            },
            &[],
        )
        .await
        .map(drop)
}

/// What the node's runs have recorded of time; `None` of a node that never ran. Each run begins after
/// all that the one before it recorded, so the last one tells it.
pub(super) async fn node_time(
    connection: &mut Connection,
    node: &NodeName,
) -> Result<Option<NodeTime>, StoreError> {
    let row: Option<(i64, i64, i64, i64)> = connection
        .row(
            "SELECT alive_at, last_instant,
                COALESCE((SELECT max(last_instant) FROM node_lanes WHERE node = $1), 0), lead_ms
             FROM node_runs WHERE node = $1 ORDER BY epoch DESC LIMIT 1",
            &[node.as_str().into()],
        )
        .await?;
    row.map(|(alive_at, last_instant, of_lanes, lead)| {
        Ok(NodeTime {
            latest: UnixMillis::new(alive_at.max(last_instant).max(of_lanes))?,
            lead: Millis::new(lead)?,
        })
    })
    .transpose()
}

/// The latest instant that any node's current run has proved: it was alive then, or recorded something
/// with it. `None` before the first run.
///
/// Nobody else's instants may lie beyond it, whatever their own clocks say: served time is only what
/// runs prove.
pub(super) async fn proved(connection: &mut Connection) -> Result<Option<UnixMillis>, StoreError> {
    let row: Option<(Option<i64>,)> = connection
        .row(
            "SELECT max(instant) FROM (
                SELECT CASE WHEN alive_at < last_instant THEN last_instant ELSE alive_at END AS instant
                FROM node_runs WHERE is_current
                UNION ALL SELECT last_instant FROM node_lanes) AS recorded",
            &[],
        )
        .await?;
    let proved = row.and_then(|(proved,)| proved);
    Ok(proved.map(UnixMillis::new).transpose()?)
}

/// What a writer at `now` by its own clock may record, where that is only read by people or tells what is
/// old: no instant beyond what runs have proved, once there was a run.
pub(super) async fn within_proved(
    connection: &mut Connection,
    now: UnixMillis,
) -> Result<UnixMillis, StoreError> {
    let proved = proved(connection).await?;
    Ok(proved.map_or(now, |proved| now.min(proved)))
}

/// A run in the database.
#[derive(sqlx::FromRow)]
pub(super) struct RunRow {
    epoch: i64,
    started_at: i64,
    alive_at: i64,
    resumes: bool,
}

impl RunRow {
    /// The run as recorded, up to its last `alive_at`.
    pub(super) fn run(&self) -> Result<Run, StoreError> {
        Ok(Run {
            from: UnixMillis::new(self.started_at)?,
            to: UnixMillis::new(self.alive_at)?,
            takeover: self.takeover(),
        })
    }

    const fn takeover(&self) -> Takeover {
        if self.resumes {
            Takeover::Resume
        } else {
            Takeover::End
        }
    }
}

/// The node's runs that were alive at or after `since`, in order.
pub(super) async fn since(
    connection: &mut Connection,
    node: &NodeName,
    since: UnixMillis,
) -> Result<Vec<RunRow>, StoreError> {
    connection
        .rows(
            "SELECT epoch, started_at, alive_at, resumes FROM node_runs
             WHERE node = $1 AND alive_at >= $2 ORDER BY epoch",
            &[node.as_str().into(), since.get().into()],
        )
        .await
}

/// Begins the node's next run, with `lanes`.
///
/// Clearing the old row's flag and deleting its lanes is what shuts the run before out: a journal
/// transaction that waits for such a row sees that when it gets it, whereas a sub-query for the greatest
/// epoch would still see the state from before it waited.
pub(super) async fn begin(
    connection: &mut Connection,
    node: NodeName,
    process: ProcessId,
    now: ClockReading,
    policy: ResumePolicy,
    lanes: Lanes,
) -> Result<NodeRun, StoreError> {
    lock_runs(connection, &node).await?;
    let before: Option<(i64, i64, i64)> = connection
        .row(
            "UPDATE node_runs SET is_current = FALSE WHERE node = $1 AND is_current
             RETURNING epoch, alive_at, last_instant",
            &[node.as_str().into()],
        )
        .await?;
    let run = match before {
        Some((epoch, alive_at, last_instant)) => {
            let ended = Ended::new(epoch, alive_at, last_instant)?;
            let ended = ended.with_lanes(connection, &node).await?;
            ended.next(node, process, now.at, policy)?
        }
        None => NodeRun {
            node,
            epoch: 1,
            process,
            started_at: now.at,
            takeover: Takeover::Resume,
        },
    };
    insert(connection, &run, now, lanes).await?;
    Ok(run)
}

/// Begins another run of the process that runs as `run`, which was alive up to `cut`.
pub(super) async fn next(
    connection: &mut Connection,
    run: NodeRun,
    cut: UnixMillis,
    now: ClockReading,
    policy: ResumePolicy,
    lanes: Lanes,
) -> Result<NodeRun, StoreError> {
    let NodeRun {
        node,
        epoch,
        process,
        ..
    } = run;
    lock_runs(connection, &node).await?;
    let ended: Option<(i64, i64)> = connection
        .row(
            "UPDATE node_runs SET is_current = FALSE, alive_at = CASE WHEN alive_at < $3 THEN $3 ELSE alive_at END
             WHERE node = $1 AND epoch = $2 AND is_current RETURNING alive_at, last_instant",
            &[node.as_str().into(), epoch.into(), cut.get().into()],
        )
        .await?;
    if let Some((alive_at, last_instant)) = ended {
        let ended = Ended::new(epoch, alive_at, last_instant)?;
        let ended = ended.with_lanes(connection, &node).await?;
        let run = ended.next(node, process, now.at, policy)?;
        insert(connection, &run, now, lanes).await?;
        return Ok(run);
    }
    // It is over already. If it was ended by a call of ours whose reply got lost, that began the next.
    let current: Option<RunRow> = connection
        .row(
            "SELECT epoch, started_at, alive_at, resumes FROM node_runs
             WHERE node = $1 AND epoch = $2 AND process = $3 AND is_current",
            &[
                node.as_str().into(),
                (epoch + 1).into(),
                process.as_str().into(),
            ],
        )
        .await?;
    let current = current.ok_or(StoreError::Superseded)?;
    Ok(NodeRun {
        node,
        epoch: current.epoch,
        process,
        started_at: UnixMillis::new(current.started_at)?,
        takeover: current.takeover(),
    })
}

/// A run that is over.
struct Ended {
    epoch: i64,
    alive_at: UnixMillis,
    last_instant: UnixMillis,
}

impl Ended {
    fn new(epoch: i64, alive_at: i64, last_instant: i64) -> Result<Self, StoreError> {
        Ok(Self {
            epoch,
            alive_at: UnixMillis::new(alive_at)?,
            last_instant: UnixMillis::new(last_instant)?,
        })
    }

    /// Deletes the run's lanes, once their batches are done, and takes over what they say.
    async fn with_lanes(
        mut self,
        connection: &mut Connection,
        node: &NodeName,
    ) -> Result<Self, StoreError> {
        let lanes: Vec<(i64,)> = connection
            .rows(
                "DELETE FROM node_lanes WHERE node = $1 RETURNING last_instant",
                &[node.as_str().into()],
            )
            .await?;
        for (last_instant,) in lanes {
            self.last_instant = self.last_instant.max(UnixMillis::new(last_instant)?);
        }
        connection
            .execute(
                "UPDATE node_runs SET last_instant = $3 WHERE node = $1 AND epoch = $2 AND last_instant < $3",
                &[
                    node.as_str().into(),
                    self.epoch.into(),
                    self.last_instant.get().into(),
                ],
            )
            .await?;
        Ok(self)
    }

    /// The run after it. It begins after everything that was recorded, whatever `now` says: it was read
    /// before the run's row was locked, and by another clock.
    fn next(
        self,
        node: NodeName,
        process: ProcessId,
        now: UnixMillis,
        policy: ResumePolicy,
    ) -> Result<NodeRun, StoreError> {
        let latest = self.alive_at.max(self.last_instant);
        let started_at = now.max(UnixMillis::new(latest.get() + 1)?);
        Ok(NodeRun {
            node,
            epoch: self.epoch + 1,
            process,
            started_at,
            takeover: policy.takeover(self.alive_at, started_at),
        })
    }
}

async fn lock_runs(connection: &mut Connection, node: &NodeName) -> Result<(), StoreError> {
    connection.lock(&format!("runs of {}", node.as_str())).await
}

/// Inserts the run, which was begun by a clock that said `now`, with its lanes.
async fn insert(
    connection: &mut Connection,
    run: &NodeRun,
    now: ClockReading,
    lanes: Lanes,
) -> Result<(), StoreError> {
    // It may have had to begin a moment later than the clock said.
    let lead = now.lead.saturating_add(run.started_at.since(now.at));
    connection
        .execute(
            "INSERT INTO node_runs (node, epoch, process, started_at, alive_at, resumes, is_current, lead_ms)
             VALUES ($1, $2, $3, $4, $4, $5 = 1, TRUE, $6)",
            &[
                run.node.as_str().into(),
                run.epoch.into(),
                run.process.as_str().into(),
                run.started_at.get().into(),
                i64::from(run.takeover == Takeover::Resume).into(),
                lead.get().into(),
            ],
        )
        .await?;
    for lane in 0..lanes.count() {
        connection
            .execute(
                "INSERT INTO node_lanes (node, lane, epoch) VALUES ($1, $2, $3)",
                &[
                    run.node.as_str().into(),
                    lane_number(lane).into(),
                    run.epoch.into(),
                ],
            )
            .await?;
    }
    Ok(())
}

/// The node's runs before `run` that were alive at or after `alive_since`.
pub(super) async fn earlier(
    connection: &mut Connection,
    run: NodeRun,
    alive_since: UnixMillis,
) -> Result<Vec<Run>, StoreError> {
    let rows = since(connection, &run.node, alive_since).await?;
    rows.iter()
        .filter(|row| row.epoch < run.epoch)
        .map(RunRow::run)
        .collect()
}

/// The lane as the database has it.
pub(super) fn lane_number(lane: usize) -> i64 {
    i64::try_from(lane).unwrap_or(i64::MAX)
}

/// Locks the run's row for this transaction, and records that the run was alive at `alive_at`; nothing
/// where it is not given. Fails if the row is older than `known`.
pub(super) async fn keep_alive(
    connection: &mut Connection,
    run: &NodeRun,
    alive_at: Option<UnixMillis>,
    known: &Known,
) -> Result<(), StoreError> {
    let kept: Option<(i64,)> = connection
        .row(
            "UPDATE node_runs SET alive_at = CASE WHEN alive_at < $3 THEN $3 ELSE alive_at END
             WHERE node = $1 AND epoch = $2 AND is_current AND alive_at >= $4 RETURNING epoch",
            &[
                run.node.as_str().into(),
                run.epoch.into(),
                alive_at.map_or(0, UnixMillis::get).into(),
                known.alive_at().get().into(),
            ],
        )
        .await?;
    match kept {
        Some(_) => Ok(()),
        None => Err(setbacks::shut_out(connection, run, known).await),
    }
}

/// Locks the row of a lane of the run for this transaction, and records that the run records something
/// with `last_instant`. Fails if the row is older than `known`.
pub(super) async fn hold(
    connection: &mut Connection,
    run: &NodeRun,
    lane: usize,
    last_instant: UnixMillis,
    known: &Known,
) -> Result<(), StoreError> {
    let held: Option<(i64,)> = connection
        .row(
            "UPDATE node_lanes SET last_instant = CASE WHEN last_instant < $4 THEN $4 ELSE last_instant END
             WHERE node = $1 AND lane = $2 AND epoch = $3 AND last_instant >= $5 RETURNING epoch",
            &[
                run.node.as_str().into(),
                lane_number(lane).into(),
                run.epoch.into(),
                last_instant.get().into(),
                known.last_instant(lane).get().into(),
            ],
        )
        .await?;
    match held {
        Some(_) => Ok(()),
        None => Err(setbacks::shut_out(connection, run, known).await),
    }
}

//! Runs of nodes: who may write under a node's name, and when it was alive (law 8).

use billing::Span;
use schema::UnixMillis;

use super::{
    StoreError,
    connection::{Connection, Sql},
};
use crate::facts::{NodeName, NodeRun};

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

/// The greatest instant that any node was alive at.
pub(super) async fn latest_alive_at(
    connection: &mut Connection,
) -> Result<Option<UnixMillis>, StoreError> {
    let row: Option<(Option<i64>,)> = connection
        .row("SELECT max(alive_at) FROM node_runs", &[])
        .await?;
    Ok(row
        .and_then(|(alive_at,)| alive_at)
        .map(UnixMillis::new)
        .transpose()?)
}

/// Begins the node's next run.
///
/// Clearing the old row's flag is what shuts the run before out: a journal transaction that waits
/// for that row sees the flag when it gets it, whereas a sub-query for the greatest epoch would still
/// see the state from before it waited.
pub(super) async fn begin(
    connection: &mut Connection,
    node: NodeName,
    now: UnixMillis,
) -> Result<NodeRun, StoreError> {
    connection
        .lock(&format!("runs of {}", node.as_str()))
        .await?;
    let before: Option<(i64, i64)> = connection
        .row(
            "UPDATE node_runs SET is_current = FALSE WHERE node = $1 AND is_current RETURNING epoch, alive_at",
            &[node.as_str().into()],
        )
        .await?;
    let (epoch, started_at) = match before {
        Some((epoch, alive_at)) => (epoch + 1, now.max(UnixMillis::new(alive_at + 1)?)),
        None => (1, now),
    };
    connection
        .execute(
            "INSERT INTO node_runs (node, epoch, started_at, alive_at, is_current) VALUES ($1, $2, $3, $3, TRUE)",
            &[node.as_str().into(), epoch.into(), started_at.get().into()],
        )
        .await?;
    Ok(NodeRun {
        node,
        epoch,
        started_at,
    })
}

/// The node's runs before `run` that were alive at or after `since`.
pub(super) async fn earlier(
    connection: &mut Connection,
    run: NodeRun,
    since: UnixMillis,
) -> Result<Vec<Span>, StoreError> {
    let rows: Vec<(i64, i64)> = connection
        .rows(
            "SELECT started_at, alive_at FROM node_runs
             WHERE node = $1 AND epoch < $2 AND alive_at >= $3 ORDER BY epoch",
            &[
                run.node.as_str().into(),
                run.epoch.into(),
                since.get().into(),
            ],
        )
        .await?;
    rows.into_iter()
        .map(|(from, to)| {
            Ok(Span {
                from: UnixMillis::new(from)?,
                to: UnixMillis::new(to)?,
            })
        })
        .collect()
}

/// Locks the run's row for this transaction, and with `alive_at` records that the run was alive then.
pub(super) async fn hold(
    connection: &mut Connection,
    run: &NodeRun,
    alive_at: Option<UnixMillis>,
) -> Result<(), StoreError> {
    let (node, epoch) = (run.node.as_str().into(), run.epoch.into());
    let held: Option<(i64,)> = match alive_at {
        Some(alive_at) => {
            connection
                .row(
                    "UPDATE node_runs SET alive_at = CASE WHEN alive_at < $3 THEN $3 ELSE alive_at END
                     WHERE node = $1 AND epoch = $2 AND is_current RETURNING epoch",
                    &[node, epoch, alive_at.get().into()],
                )
                .await?
        }
        None => {
            connection
                .row(
                    Sql {
                        postgres: "SELECT epoch FROM node_runs WHERE node = $1 AND epoch = $2 AND is_current FOR UPDATE",
                        sqlite: "SELECT epoch FROM node_runs WHERE node = $1 AND epoch = $2 AND is_current",
                    },
                    &[node, epoch],
                )
                .await?
        }
    };
    held.map(drop).ok_or(StoreError::Superseded)
}

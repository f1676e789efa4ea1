//! Deleting what is old: portion by portion, each a short transaction.
//!
//! Never deleted: the ledger, and sessions that cost something, which it refers to. A user whose
//! sessions were deleted knows how many writes to the wallet these were, so that an audit still
//! accounts for every version of it.

use std::slice::from_ref;

use schema::{SessionId, UnixMillis};

use super::{
    OldSession, RunSpan, StoreError,
    connection::{Column, Connection, Sql, Value},
};
use crate::facts::NodeName;

/// A session in the database, as far as it matters here.
#[derive(sqlx::FromRow)]
struct SessionRow {
    id: i64,
    node: String,
    start_time: i64,
    end_time: Option<i64>,
    credits_consumed: i64,
}

/// A run in the database, as far as it matters here.
#[derive(sqlx::FromRow)]
struct RunRow {
    node: String,
    epoch: i64,
    started_at: i64,
    alive_at: i64,
    last_instant: i64,
    is_current: bool,
}

/// Deletes up to `limit` notices from before `before`, but never the newest one: its number tells
/// where to go on.
pub(super) async fn purge_notices(
    connection: &mut Connection,
    before: UnixMillis,
    limit: u32,
) -> Result<u64, StoreError> {
    connection
        .execute(
            "DELETE FROM wallet_notices WHERE id IN
                (SELECT id FROM wallet_notices WHERE created_at < $1 ORDER BY created_at LIMIT $2)
             AND id < (SELECT max(id) FROM wallet_notices)",
            &[before.get().into(), limit.into()],
        )
        .await
}

/// Up to `limit` sessions in the order of their ids, after `after`.
pub(super) async fn sessions(
    connection: &mut Connection,
    after: Option<SessionId>,
    limit: u32,
) -> Result<Vec<OldSession>, StoreError> {
    let rows: Vec<SessionRow> = connection
        .rows(
            "SELECT id, node, start_time, end_time, credits_consumed FROM sessions
             WHERE id > $1 ORDER BY id LIMIT $2",
            &[after.map_or(0, SessionId::get).into(), limit.into()],
        )
        .await?;
    let session = |row: SessionRow| {
        Ok(OldSession {
            id: SessionId::new(row.id)?,
            node: node(&row.node)?,
            started_at: UnixMillis::new(row.start_time)?,
            ended_at: row.end_time.map(UnixMillis::new).transpose()?,
            is_paid: row.credits_consumed > 0,
        })
    };
    rows.into_iter().map(session).collect()
}

/// Deletes those of `sessions` that ended before `before` and cost nothing. A user who is written to
/// by somebody else just now is left for another time.
pub(super) async fn delete_unpaid(
    connection: &mut Connection,
    sessions: Vec<SessionId>,
    before: UnixMillis,
) -> Result<u64, StoreError> {
    let ids = Value::Ints(sessions.iter().map(|session| session.get()).collect());
    let sql = Sql {
        postgres:
            "SELECT id FROM users WHERE id IN (SELECT user_id FROM sessions WHERE id = ANY($1))
            ORDER BY id FOR UPDATE SKIP LOCKED",
        sqlite: "SELECT id FROM users WHERE id IN
            (SELECT user_id FROM sessions WHERE id IN (SELECT value FROM json_each($1)))",
    };
    let users: Vec<(i64,)> = connection.rows(sql, from_ref(&ids)).await?;
    let users = Value::Ints(users.into_iter().map(|(user,)| user).collect());
    let sql = Sql {
        postgres: "SELECT id, user_id, 1 + settled_seq FROM sessions
            WHERE id = ANY($1) AND user_id = ANY($2) AND end_time < $3 AND credits_consumed = 0
                AND NOT EXISTS (SELECT 1 FROM idempotency_keys WHERE session_id = sessions.id)",
        sqlite: "SELECT id, user_id, 1 + settled_seq FROM sessions
            WHERE id IN (SELECT value FROM json_each($1)) AND user_id IN (SELECT value FROM json_each($2))
                AND end_time < $3 AND credits_consumed = 0
                AND NOT EXISTS (SELECT 1 FROM idempotency_keys WHERE session_id = sessions.id)",
    };
    let doomed: Vec<(i64, i64, i64)> = connection
        .rows(sql, &[ids, users, before.get().into()])
        .await?;
    if doomed.is_empty() {
        return Ok(0);
    }
    let sql = Sql {
        postgres: "UPDATE users SET forgotten_writes = forgotten_writes + writes
            FROM (SELECT wallet, CAST(SUM(number) AS BIGINT) AS writes
                FROM UNNEST($1::BIGINT[], $2::BIGINT[]) AS gone (wallet, number) GROUP BY wallet) AS gone
            WHERE id = wallet",
        sqlite: "UPDATE users SET forgotten_writes = forgotten_writes + writes
            FROM (SELECT value ->> 0 AS wallet, SUM(value ->> 1) AS writes FROM json_each($1)
                GROUP BY value ->> 0) AS gone
            WHERE id = wallet",
    };
    let by_user = Value::Rows(vec![
        Column::Ints(doomed.iter().map(|(_, user, _)| *user).collect()),
        Column::Ints(doomed.iter().map(|(_, _, writes)| *writes).collect()),
    ]);
    connection.execute(sql, &[by_user]).await?;
    let doomed = Value::Ints(doomed.into_iter().map(|(id, _, _)| id).collect());
    let pauses = Sql {
        postgres: "DELETE FROM session_pauses WHERE session_id = ANY($1)",
        sqlite: "DELETE FROM session_pauses WHERE session_id IN (SELECT value FROM json_each($1))",
    };
    connection.execute(pauses, from_ref(&doomed)).await?;
    let sessions = Sql {
        postgres: "DELETE FROM sessions WHERE id = ANY($1)",
        sqlite: "DELETE FROM sessions WHERE id IN (SELECT value FROM json_each($1))",
    };
    connection.execute(sessions, &[doomed]).await
}

/// All runs but the current ones, with the time that each took up until the next one began.
pub(super) async fn ended_runs(connection: &mut Connection) -> Result<Vec<RunSpan>, StoreError> {
    let rows: Vec<RunRow> = connection
        .rows(
            "SELECT node, epoch, started_at, alive_at, last_instant, is_current FROM node_runs
             ORDER BY node, epoch",
            &[],
        )
        .await?;
    let nexts = rows.iter().skip(1).map(Some).chain([None]);
    let mut spans = Vec::new();
    for (run, next) in rows.iter().zip(nexts) {
        let next = next.filter(|next| next.node == run.node);
        if let Some(next) = next.filter(|_| !run.is_current) {
            spans.push(RunSpan {
                node: node(&run.node)?,
                epoch: run.epoch,
                from: UnixMillis::new(run.started_at)?,
                until: UnixMillis::new(next.started_at)?,
                last_at: UnixMillis::new(run.alive_at.max(run.last_instant))?,
            });
        }
    }
    Ok(spans)
}

/// Deletes these runs, except current ones.
pub(super) async fn delete_runs(
    connection: &mut Connection,
    runs: Vec<RunSpan>,
) -> Result<u64, StoreError> {
    let rows = Value::Rows(vec![
        Column::Texts(
            runs.iter()
                .map(|run| run.node.as_str().to_owned())
                .collect(),
        ),
        Column::Ints(runs.iter().map(|run| run.epoch).collect()),
    ]);
    let sql = Sql {
        postgres: "DELETE FROM node_runs WHERE NOT is_current AND (node, epoch) IN
            (SELECT name, number FROM UNNEST($1::TEXT[], $2::BIGINT[]) AS gone (name, number))",
        sqlite: "DELETE FROM node_runs WHERE NOT is_current AND (node, epoch) IN
            (SELECT value ->> 0, value ->> 1 FROM json_each($1))",
    };
    connection.execute(sql, &[rows]).await
}

fn node(name: &str) -> Result<NodeName, StoreError> {
    Ok(NodeName::new(name)?)
}

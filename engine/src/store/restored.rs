//! A database that was restored from a backup: what clients saw since the backup is not in it.
//!
//! Left as it is, it would give out ids a second time that clients know already, of sessions, ledger
//! entries and users; and a token made since would let whoever holds it in as somebody else. And
//! tokens that were revoked since would be good again.

use schema::{MAX_SAFE_INTEGER, Millis, SessionId, UnixMillis, UserId};

use super::{
    StoreError,
    connection::{Connection, Sql},
    runs, setbacks,
};
use crate::{
    clock::ClockReading,
    facts::{NodeName, ProcessId, ResumePolicy},
    lanes::Lanes,
};

/// Where a restored database goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// No session that is started from now on has a smaller id.
    pub session_ids_from: SessionId,
    /// No user who signs up from now on has a smaller id.
    pub user_ids_from: UserId,
    /// How many users there are, whose tokens are void.
    pub users: u64,
}

/// Skips `ids` ids of each kind, voids all tokens, and shuts out every process
/// that still writes to this database. From then on processes may start in it again. `wall` is what this
/// machine's wall clock says.
pub(super) async fn skip_ahead(
    connection: &mut Connection,
    ids: u32,
    wall: UnixMillis,
    policy: ResumePolicy,
) -> Result<Resumption, StoreError> {
    let updated_at = runs::within_proved(connection, wall).await?;
    let session_ids_from = skip_session_ids(connection, ids).await?;
    let user_ids_from = skip_row_ids(connection, "users", ids).await?;
    skip_row_ids(connection, "ledger", ids).await?;
    let users = connection
        .execute(
            // As with ids: a token made since the backup has a later generation than the one recorded.
            "UPDATE users SET token_generation = token_generation + $1, kept_token = NULL,
                updated_at = CASE WHEN updated_at < $2 THEN $2 ELSE updated_at END
             WHERE erased_at IS NULL",
            &[ids.into(), updated_at.get().into()],
        )
        .await?;
    begin_runs(connection, wall, policy).await?;
    setbacks::mend(connection).await?;
    Ok(Resumption {
        session_ids_from: SessionId::new(session_ids_from)?,
        user_ids_from: UserId::new(user_ids_from)?,
        users,
    })
}

/// A new run for every node, so that whoever holds a block of ids from before may write no more. It
/// serves nobody: the node's next process goes on from it as from any other.
///
/// It begins right after what the node has recorded, whatever this machine's clock says: a command raises
/// no node's clock. How far that lies ahead of the wall clock is known from then on, and no longer a
/// reason to refuse to serve.
async fn begin_runs(
    connection: &mut Connection,
    wall: UnixMillis,
    policy: ResumePolicy,
) -> Result<(), StoreError> {
    let nodes: Vec<(String,)> = connection
        .rows(
            "SELECT node FROM node_runs WHERE is_current ORDER BY node",
            &[],
        )
        .await?;
    for (node,) in nodes {
        let node = NodeName::new(&node)
            .map_err(|_| StoreError::Corrupt(format!("a node is named {node:?}")))?;
        let recorded = runs::node_time(connection, &node).await?;
        let after = recorded.and_then(|recorded| recorded.latest.checked_add(Millis::literal(1)));
        let at =
            after.ok_or_else(|| StoreError::Corrupt(format!("no time is left for {node:?}")))?;
        let lead = at.since(wall);
        let now = ClockReading { at, lead };
        let process = ProcessId::random();
        runs::begin(connection, node, process, now, policy, Lanes::ONE).await?;
    }
    Ok(())
}

async fn skip_session_ids(connection: &mut Connection, ids: u32) -> Result<i64, StoreError> {
    let row: Option<(i64,)> = connection
        .row(
            "INSERT INTO id_blocks (name, next) VALUES ('sessions', 1 + $1)
             ON CONFLICT (name) DO UPDATE SET next = id_blocks.next + $1 RETURNING next",
            &[ids.into()],
        )
        .await?;
    checked("sessions", row)
}

/// Skips ids that the database gives to new rows of `table` by itself.
pub(super) async fn skip_row_ids(
    connection: &mut Connection,
    table: &'static str,
    ids: u32,
) -> Result<i64, StoreError> {
    if matches!(connection, Connection::Sqlite(_)) {
        // The greatest id that a table ever gave stands in a table of SQLite's own, once there was one.
        connection
            .execute(
                "INSERT INTO sqlite_sequence (name, seq)
                 SELECT $1, 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = $1)",
                &[table.into()],
            )
            .await?;
    }
    let skip = Sql {
        postgres: "SELECT setval(
             pg_get_serial_sequence($1, 'id')::regclass,
             nextval(pg_get_serial_sequence($1, 'id')::regclass) + $2, FALSE)",
        sqlite: "UPDATE sqlite_sequence SET seq = seq + $2 WHERE name = $1 RETURNING seq + 1",
    };
    let row = connection.row(skip, &[table.into(), ids.into()]).await?;
    checked(table, row)
}

/// The next id, unless there is none left that clients can read.
fn checked(table: &str, row: Option<(i64,)>) -> Result<i64, StoreError> {
    let (next,) =
        row.ok_or_else(|| StoreError::Corrupt(format!("no id of {table} could be skipped")))?;
    if next > MAX_SAFE_INTEGER {
        return Err(StoreError::Corrupt(format!(
            "the ids of {table} are used up: the next would be {next}"
        )));
    }
    Ok(next)
}

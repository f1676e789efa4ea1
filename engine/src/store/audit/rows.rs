//! What the audit reads: plain rows, taken as they stand.

use std::collections::HashMap;

use schema::UserId;

use super::super::{
    StoreError,
    connection::{Connection, Value},
};

/// A user in the database.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct UserRow {
    pub(super) id: i64,
    pub(super) credits: i64,
    pub(super) version: i64,
    pub(super) last_instant: i64,
}

/// A ledger entry in the database.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct EntryRow {
    pub(super) id: i64,
    pub(super) user_id: i64,
    pub(super) at: i64,
    pub(super) kind: String,
    pub(super) from_account: i64,
    pub(super) to_account: i64,
    pub(super) amount: i64,
    pub(super) session_id: Option<i64>,
    pub(super) wallet_version: i64,
    pub(super) balance_after: i64,
}

/// A session in the database.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct SessionRow {
    pub(super) id: i64,
    pub(super) user_id: i64,
    pub(super) slot: i32,
    pub(super) node: String,
    pub(super) start_time: i64,
    pub(super) end_time: Option<i64>,
    pub(super) end_reason: Option<String>,
    pub(super) credits_consumed: i64,
    pub(super) settled_seq: i64,
    pub(super) settled_at: i64,
    pub(super) served_ms: i64,
    pub(super) tariff_credits: i64,
    pub(super) tariff_interval_ms: i64,
    pub(super) tariff_charged_at: String,
}

/// A pause in the database.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct PauseRow {
    pub(super) session_id: i64,
    pub(super) from_time: i64,
    pub(super) to_time: Option<i64>,
}

/// A run of a node in the database.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct RunRow {
    pub(super) node: String,
    pub(super) epoch: i64,
    pub(super) started_at: i64,
    pub(super) alive_at: i64,
    pub(super) is_current: bool,
}

/// A page of users with all that is theirs.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// In the order of their ids.
    pub(super) users: Vec<UserRow>,
    /// By user, in the order of the wallet's versions.
    entries: HashMap<i64, Vec<EntryRow>>,
    /// By user, in the order of their ids.
    sessions: HashMap<i64, Vec<SessionRow>>,
    /// By session, in the order of time.
    pauses: HashMap<i64, Vec<PauseRow>>,
    /// By node, in the order of their epochs.
    runs: HashMap<String, Vec<RunRow>>,
}

impl Rows {
    /// The page of up to `limit` users after `after`.
    pub(super) async fn read(
        connection: &mut Connection,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Self, StoreError> {
        let after = after.map_or(0, UserId::get);
        let sql = "SELECT id, credits, version, last_instant FROM users WHERE id > $1 ORDER BY id LIMIT $2";
        let users: Vec<UserRow> = connection.rows(sql, &[after.into(), limit.into()]).await?;
        let Some(last) = users.last() else {
            return Ok(Self::default());
        };
        let page: [Value; 2] = [after.into(), last.id.into()];
        let entries: Vec<EntryRow> = connection
            .rows(
                "SELECT id, user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                    balance_after
                 FROM ledger WHERE user_id > $1 AND user_id <= $2 ORDER BY user_id, wallet_version",
                &page,
            )
            .await?;
        let sessions: Vec<SessionRow> = connection
            .rows(
                "SELECT id, user_id, slot, node, start_time, end_time, end_reason, credits_consumed, settled_seq,
                    settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at
                 FROM sessions WHERE user_id > $1 AND user_id <= $2 ORDER BY user_id, id",
                &page,
            )
            .await?;
        let pauses: Vec<PauseRow> = connection
            .rows(
                "SELECT session_id, from_time, to_time FROM session_pauses
                 WHERE session_id IN (SELECT id FROM sessions WHERE user_id > $1 AND user_id <= $2)
                 ORDER BY session_id, from_time",
                &page,
            )
            .await?;
        let runs: Vec<RunRow> = connection
            .rows("SELECT node, epoch, started_at, alive_at, is_current FROM node_runs ORDER BY node, epoch", &[])
            .await?;
        Ok(Self {
            users,
            entries: grouped(entries, |entry| entry.user_id),
            sessions: grouped(sessions, |session| session.user_id),
            pauses: grouped(pauses, |pause| pause.session_id),
            runs: grouped(runs, |run| run.node.clone()),
        })
    }

    /// The user's entries.
    pub(super) fn entries_of(&self, user: &UserRow) -> &[EntryRow] {
        self.entries.get(&user.id).map_or(&[], Vec::as_slice)
    }

    /// The user's sessions.
    pub(super) fn sessions_of(&self, user: &UserRow) -> &[SessionRow] {
        self.sessions.get(&user.id).map_or(&[], Vec::as_slice)
    }

    /// The session's pauses.
    pub(super) fn pauses_of(&self, session: &SessionRow) -> &[PauseRow] {
        self.pauses.get(&session.id).map_or(&[], Vec::as_slice)
    }

    /// The node's runs.
    pub(super) fn runs_of(&self, node: &str) -> &[RunRow] {
        self.runs.get(node).map_or(&[], Vec::as_slice)
    }
}

/// The rows by `key`, each group in the order that it came in.
fn grouped<K: Eq + std::hash::Hash, T>(rows: Vec<T>, key: impl Fn(&T) -> K) -> HashMap<K, Vec<T>> {
    let mut groups: HashMap<K, Vec<T>> = HashMap::new();
    for row in rows {
        groups.entry(key(&row)).or_default().push(row);
    }
    groups
}

//! What the audit reads: plain rows, taken as they stand.

use std::collections::HashMap;

use super::{
    super::{StoreError, connection::Connection},
    AuditLimits,
    course::Event,
};

/// A user in the database.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct UserRow {
    pub(super) id: i64,
    pub(super) credits: i64,
    pub(super) version: i64,
    pub(super) last_instant: i64,
    pub(super) forgotten_writes: i64,
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
    pub(super) last_instant: i64,
    pub(super) resumes: bool,
    pub(super) is_current: bool,
}

/// The runs of all nodes.
#[derive(Debug)]
pub(super) struct Runs(HashMap<String, Vec<RunRow>>);

impl Runs {
    /// Reads them.
    pub(super) async fn read(connection: &mut Connection) -> Result<Self, StoreError> {
        let runs: Vec<RunRow> = connection
            .rows("SELECT node, epoch, started_at, alive_at, last_instant, resumes, is_current FROM node_runs
                 ORDER BY node, epoch",
                &[],
            )
            .await?;
        Ok(Self(grouped(runs, |run| run.node.clone())))
    }

    /// The node's runs, in the order of their epochs.
    pub(super) fn of(&self, node: &str) -> &[RunRow] {
        self.0.get(node).map_or(&[], Vec::as_slice)
    }

    /// The runs of each node.
    pub(super) fn of_nodes(&self) -> impl Iterator<Item = &[RunRow]> {
        let mut nodes: Vec<_> = self.0.values().map(Vec::as_slice).collect();
        nodes.sort_unstable_by_key(|runs| runs.first().map(|run| &run.node));
        nodes.into_iter()
    }
}

/// A page of users with all that is theirs, or one user alone who has too many rows for a page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// In the order of their ids.
    pub(super) users: Vec<UserRow>,
    /// The user after them who has too many rows, if the page ends there.
    pub(super) oversized: Option<UserRow>,
    /// By user, in the order of the wallet's versions.
    entries: HashMap<i64, Vec<EntryRow>>,
    /// By user, in the order of their ids.
    sessions: HashMap<i64, Vec<SessionRow>>,
    /// By session, in the order of time.
    pauses: HashMap<i64, Vec<PauseRow>>,
}

impl Page {
    /// The page after the user `after`.
    pub(super) async fn read(
        connection: &mut Connection,
        after: i64,
        limits: AuditLimits,
    ) -> Result<Self, StoreError> {
        let sql = "SELECT id, credits, version, last_instant, forgotten_writes FROM users WHERE id > $1 ORDER BY id LIMIT $2";
        let mut users: Vec<UserRow> = connection
            .rows(sql, &[after.into(), limits.users.into()])
            .await?;
        // Past the last user there may be rows that are nobody's.
        let mut until = users.last().map_or(i64::MAX, |last| last.id);
        let mut entries: Vec<EntryRow> = connection
            .rows(
                "SELECT id, user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                    balance_after
                 FROM ledger WHERE user_id > $1 AND user_id <= $2 ORDER BY user_id, wallet_version, id LIMIT $3",
                &[after.into(), until.into(), limits.rows.into()],
            )
            .await?;
        until = complete_until(until, limits, entries.iter().map(|entry| entry.user_id));
        let mut sessions: Vec<SessionRow> = connection
            .rows(
                "SELECT id, user_id, slot, node, start_time, end_time, end_reason, credits_consumed, settled_seq,
                    settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at
                 FROM sessions WHERE user_id > $1 AND user_id <= $2 ORDER BY user_id, id LIMIT $3",
                &[after.into(), until.into(), limits.rows.into()],
            )
            .await?;
        until = complete_until(
            until,
            limits,
            sessions.iter().map(|session| session.user_id),
        );
        let whole = users.partition_point(|user| user.id <= until);
        let mut oversized = None;
        if whole < users.len() {
            oversized = users.drain(whole..).next().filter(|_| whole == 0);
        }
        entries.retain(|entry| entry.user_id <= until);
        sessions.retain(|session| session.user_id <= until);
        let pauses: Vec<PauseRow> = connection
            .rows(
                "SELECT session_id, from_time, to_time FROM session_pauses
                 WHERE session_id IN (SELECT id FROM sessions WHERE user_id > $1 AND user_id <= $2)
                 ORDER BY session_id, from_time",
                &[after.into(), until.into()],
            )
            .await?;
        Ok(Self {
            users,
            oversized,
            entries: grouped(entries, |entry| entry.user_id),
            sessions: grouped(sessions, |session| session.user_id),
            pauses: grouped(pauses, |pause| pause.session_id),
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

    /// The entries whose user is not there.
    pub(super) fn nobodys_entries(&self) -> impl Iterator<Item = &EntryRow> {
        let is_there = |id: &i64| self.users.binary_search_by_key(id, |user| user.id).is_ok();
        self.entries
            .iter()
            .filter(move |(user, _)| !is_there(user))
            .flat_map(|(_, entries)| entries)
    }
}

/// The last user all of whose rows are among those read, given whose each of them is, in order.
fn complete_until(
    until: i64,
    limits: AuditLimits,
    owners: impl DoubleEndedIterator<Item = i64> + ExactSizeIterator,
) -> i64 {
    let is_cut = owners.len() >= limits.rows as usize;
    let mut owners = owners.rev();
    match owners.next() {
        Some(last) if is_cut => until.min(last - 1),
        _ => until,
    }
}

// --- one user's rows, in pieces ---

/// The user.
pub(super) async fn user(
    connection: &mut Connection,
    user: i64,
) -> Result<Option<UserRow>, StoreError> {
    let sql =
        "SELECT id, credits, version, last_instant, forgotten_writes FROM users WHERE id = $1";
    connection.row(sql, &[user.into()]).await
}

/// Up to `limit` entries in the order of the wallet's versions, after this version and id.
pub(super) async fn entries(
    connection: &mut Connection,
    user: i64,
    (version, id): (i64, i64),
    limit: u32,
) -> Result<Vec<EntryRow>, StoreError> {
    connection
        .rows(
            "SELECT id, user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                balance_after
             FROM ledger WHERE user_id = $1 AND (wallet_version, id) > ($2, $3)
             ORDER BY wallet_version, id LIMIT $4",
            &[user.into(), version.into(), id.into(), limit.into()],
        )
        .await
}

/// Up to `limit` entries of sessions, in the order of the sessions, after this session and entry and
/// up to the session `until`.
pub(super) async fn entries_by_session(
    connection: &mut Connection,
    user: i64,
    (session, id): (i64, i64),
    until: i64,
    limit: u32,
) -> Result<Vec<EntryRow>, StoreError> {
    connection
        .rows(
            "SELECT id, user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                balance_after
             FROM ledger WHERE user_id = $1 AND (session_id, id) > ($2, $3) AND session_id <= $4
             ORDER BY session_id, id LIMIT $5",
            &[user.into(), session.into(), id.into(), until.into(), limit.into()],
        )
        .await
}

/// Up to `limit` sessions in the order of their ids, after this one.
pub(super) async fn sessions(
    connection: &mut Connection,
    user: i64,
    after: i64,
    limit: u32,
) -> Result<Vec<SessionRow>, StoreError> {
    connection
        .rows(
            "SELECT id, user_id, slot, node, start_time, end_time, end_reason, credits_consumed, settled_seq,
                settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at
             FROM sessions WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT $3",
            &[user.into(), after.into(), limit.into()],
        )
        .await
}

/// The pauses of the sessions after `after` up to `until`, by session, in the order of time.
pub(super) async fn pauses(
    connection: &mut Connection,
    user: i64,
    after: i64,
    until: i64,
) -> Result<HashMap<i64, Vec<PauseRow>>, StoreError> {
    let pauses: Vec<PauseRow> = connection
        .rows(
            "SELECT session_id, from_time, to_time FROM session_pauses
             WHERE session_id IN (SELECT id FROM sessions WHERE user_id = $1 AND id > $2 AND id <= $3)
             ORDER BY session_id, from_time",
            &[user.into(), after.into(), until.into()],
        )
        .await?;
    Ok(grouped(pauses, |pause| pause.session_id))
}

/// Up to `limit` of what happened to the wallet, in the order of time, after this instant, turn and
/// id. The turns are those of [`Event`].
pub(super) async fn events(
    connection: &mut Connection,
    user: i64,
    (at, turn, id): (i64, i64, i64),
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    connection
        .rows(
            "SELECT at, turn, id, number FROM (
                SELECT at, CAST(CASE WHEN from_account = user_id THEN 0 ELSE 3 END AS BIGINT) AS turn, id,
                    CASE WHEN to_account = user_id THEN amount ELSE 0 END
                        - CASE WHEN from_account = user_id THEN amount ELSE 0 END AS number
                FROM ledger WHERE user_id = $1
                UNION ALL
                SELECT start_time, CAST(1 AS BIGINT), id, COALESCE(end_time, 9223372036854775807)
                FROM sessions WHERE user_id = $1
                UNION ALL
                SELECT settled_at, CAST(2 AS BIGINT), id, tariff_credits
                FROM sessions WHERE user_id = $1 AND end_reason = 'depleted') AS course
             WHERE (at, turn, id) > ($2, $3, $4) ORDER BY at, turn, id LIMIT $5",
            &[user.into(), at.into(), turn.into(), id.into(), limit.into()],
        )
        .await
}

/// The rows by `key`, each group in the order that it came in.
fn grouped<K: Eq + std::hash::Hash, T>(rows: Vec<T>, key: impl Fn(&T) -> K) -> HashMap<K, Vec<T>> {
    let mut groups: HashMap<K, Vec<T>> = HashMap::new();
    for row in rows {
        groups.entry(key(&row)).or_default().push(row);
    }
    groups
}

//! What the audit reads: plain rows, taken as they stand.

use std::collections::HashMap;

use schema::MAX_SAFE_INTEGER;

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
    pub(super) slot: i64,
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
    /// The wallet's version by the start or the last settlement; `None` if the session ended before such
    /// versions were recorded.
    pub(super) wallet_version: Option<i64>,
}

// A NULL where none can be is told by the rules for rows. Here a number stands for it that is none.

const USER: &str = "id, COALESCE(credits, -1) AS credits, COALESCE(version, -1) AS version,
    COALESCE(last_instant, -1) AS last_instant, COALESCE(forgotten_writes, -1) AS forgotten_writes";
const ENTRY: &str =
    "COALESCE(id, -1) AS id, user_id, COALESCE(at, -1) AS at, COALESCE(kind, '') AS kind,
    COALESCE(from_account, 0) AS from_account, COALESCE(to_account, 0) AS to_account,
    COALESCE(amount, -1) AS amount, session_id, COALESCE(wallet_version, -1) AS wallet_version,
    COALESCE(balance_after, -1) AS balance_after";
const SESSION: &str = "COALESCE(id, -1) AS id, user_id, CAST(COALESCE(slot, -1) AS BIGINT) AS slot, COALESCE(node, '') AS node,
    COALESCE(start_time, -1) AS start_time, end_time, end_reason,
    COALESCE(credits_consumed, -1) AS credits_consumed, COALESCE(settled_seq, -1) AS settled_seq,
    COALESCE(settled_at, -1) AS settled_at, COALESCE(served_ms, -1) AS served_ms,
    COALESCE(tariff_credits, -1) AS tariff_credits, COALESCE(tariff_interval_ms, -1) AS tariff_interval_ms,
    COALESCE(tariff_charged_at, '') AS tariff_charged_at, wallet_version";
const PAUSE: &str = "session_id, COALESCE(from_time, -1) AS from_time, to_time";
const RUN: &str = "COALESCE(node, '') AS node, COALESCE(epoch, -1) AS epoch,
    COALESCE(started_at, -1) AS started_at, COALESCE(alive_at, -1) AS alive_at,
    COALESCE((SELECT max(lanes.last_instant) FROM node_lanes AS lanes WHERE lanes.node = node_runs.node
        AND lanes.epoch = node_runs.epoch AND lanes.last_instant > node_runs.last_instant),
        last_instant, -1) AS last_instant, COALESCE(resumes, FALSE) AS resumes,
    COALESCE(is_current, FALSE) AS is_current";

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

impl RunRow {
    /// The latest instant that the run has proved: it was alive then, or recorded something.
    pub(super) fn proved(&self) -> i64 {
        self.alive_at.max(self.last_instant)
    }
}

/// The runs of all nodes.
#[derive(Debug)]
pub(super) struct Runs(HashMap<String, Vec<RunRow>>);

impl Runs {
    /// Reads them.
    pub(super) async fn read(connection: &mut Connection) -> Result<Self, StoreError> {
        let runs: Vec<RunRow> = connection
            .composed_rows(format!(
                "SELECT {RUN} FROM node_runs ORDER BY node_runs.node, node_runs.epoch"
            ))
            .await?;
        Ok(Self(grouped(runs, |run| run.node.clone())))
    }

    /// The node's runs, in the order of their epochs.
    pub(super) fn of(&self, node: &str) -> &[RunRow] {
        self.0.get(node).map_or(&[], Vec::as_slice)
    }

    /// The latest instant that any run has proved; 0 if there was none.
    pub(super) fn proved(&self) -> i64 {
        let runs = self.0.values().flatten();
        runs.map(RunRow::proved).max().unwrap_or(0)
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
        let AuditLimits {
            users: users_at_once,
            rows,
            ..
        } = limits;
        let mut users: Vec<UserRow> = connection
            .composed_rows(format!(
                "SELECT {USER} FROM users WHERE users.id > {after} AND users.id <= {MAX_SAFE_INTEGER}
                 ORDER BY users.id LIMIT {users_at_once}"
            ))
            .await?;
        // Past the last user there may be rows that are nobody's.
        let mut until = users.last().map_or(i64::MAX, |last| last.id);
        let mut entries: Vec<EntryRow> = connection
            .composed_rows(format!(
                "SELECT {ENTRY} FROM ledger WHERE user_id > {after} AND user_id <= {until}
                 ORDER BY user_id, ledger.wallet_version, ledger.id LIMIT {rows}"
            ))
            .await?;
        until = complete_until(until, limits, entries.iter().map(|entry| entry.user_id));
        let mut sessions: Vec<SessionRow> = connection
            .composed_rows(format!(
                "SELECT {SESSION} FROM sessions WHERE user_id > {after} AND user_id <= {until}
                 ORDER BY user_id, sessions.id LIMIT {rows}"
            ))
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
            .composed_rows(format!(
                "SELECT {PAUSE} FROM session_pauses
                 WHERE session_id IN (SELECT id FROM sessions WHERE user_id > {after} AND user_id <= {until})
                 ORDER BY session_id, session_pauses.from_time"
            ))
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
    let sql = format!("SELECT {USER} FROM users WHERE users.id = {user}");
    Ok(connection.composed_rows(sql).await?.pop())
}

/// Up to `limit` entries in the order of the wallet's versions, after this version and id.
pub(super) async fn entries(
    connection: &mut Connection,
    user: i64,
    (version, id): (i64, i64),
    limit: u32,
) -> Result<Vec<EntryRow>, StoreError> {
    connection
        .composed_rows(format!(
            "SELECT {ENTRY} FROM ledger
             WHERE user_id = {user} AND (ledger.wallet_version, ledger.id) > ({version}, {id})
             ORDER BY ledger.wallet_version, ledger.id LIMIT {limit}"
        ))
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
        .composed_rows(format!(
            "SELECT {ENTRY} FROM ledger
             WHERE user_id = {user} AND (session_id, ledger.id) > ({session}, {id}) AND session_id <= {until}
             ORDER BY session_id, ledger.id LIMIT {limit}"
        ))
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
        .composed_rows(format!(
            "SELECT {SESSION} FROM sessions WHERE user_id = {user} AND sessions.id > {after}
             ORDER BY sessions.id LIMIT {limit}"
        ))
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
        .composed_rows(format!(
            "SELECT {PAUSE} FROM session_pauses WHERE session_id IN
                (SELECT id FROM sessions WHERE user_id = {user} AND id > {after} AND id <= {until})
             ORDER BY session_id, session_pauses.from_time"
        ))
        .await?;
    Ok(grouped(pauses, |pause| pause.session_id))
}

/// Up to `limit` of what was written to the wallet, in the order of its versions, after this version, turn
/// and id. The turns are those of [`Event`].
pub(super) async fn events(
    connection: &mut Connection,
    user: i64,
    (version, turn, id): (i64, i64, i64),
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    connection
        .rows(
            "SELECT version, turn, id, at, number, session, others_from FROM (
                SELECT COALESCE(wallet_version, -1) AS version, CAST(0 AS BIGINT) AS turn, id, COALESCE(at, -1) AS at,
                    CASE WHEN to_account = user_id THEN amount ELSE 0 END
                        - CASE WHEN from_account = user_id THEN amount ELSE 0 END AS number,
                    CASE WHEN kind = 'usage' THEN COALESCE(session_id, 0) ELSE CAST(0 AS BIGINT) END AS session,
                    9223372036854775807 AS others_from
                FROM ledger WHERE user_id = $1
                UNION ALL
                SELECT wallet_version, CAST(1 AS BIGINT), id, COALESCE(settled_at, -1),
                    CASE WHEN end_reason = 'depleted' THEN tariff_credits ELSE CAST(0 AS BIGINT) END,
                    CAST(CASE WHEN end_time IS NULL THEN 0 ELSE 1 END AS BIGINT),
                    COALESCE(MIN(start_time) OVER (ORDER BY CASE WHEN end_time IS NULL THEN 1 ELSE 0 END,
                        wallet_version, id ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), 9223372036854775807)
                FROM sessions WHERE user_id = $1 AND wallet_version IS NOT NULL) AS course
             WHERE (version, turn, id) > ($2, $3, $4) ORDER BY version, turn, id LIMIT $5",
            &[user.into(), version.into(), turn.into(), id.into(), limit.into()],
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

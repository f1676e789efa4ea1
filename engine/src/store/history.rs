//! What a user may look back on: sessions and wallet movements, newest first, page by page.

use billing::SlotNumber;
use schema::{
    Credits, CreditsChange, EntryId, Millis, SessionId, UnixMillis, UserId,
    ledger::{EntryKind, LedgerEntry},
    session::{EndReason, SessionRecord},
};

use super::{LiveSessionOf, SessionCursor, StoreError, connection::Connection};
use crate::facts::NodeName;

/// A session in the database.
#[derive(sqlx::FromRow)]
struct SessionRow {
    id: i64,
    start_time: i64,
    end_time: Option<i64>,
    end_reason: Option<String>,
    credits_consumed: i64,
    served_ms: i64,
    tariff_credits: i64,
    tariff_interval_ms: i64,
}

/// A ledger entry in the database.
#[derive(sqlx::FromRow)]
struct EntryRow {
    id: i64,
    at: i64,
    recorded_at: Option<i64>,
    kind: String,
    amount: i64,
    balance_after: i64,
    session_id: Option<i64>,
    reason: Option<String>,
}

/// Up to `limit` of the user's sessions, from before `before`.
pub(super) async fn sessions(
    connection: &mut Connection,
    user: UserId,
    before: Option<SessionCursor>,
    limit: u32,
) -> Result<Vec<SessionRecord>, StoreError> {
    let (start_time, id) = before.map_or((i64::MAX, i64::MAX), |cursor| {
        (cursor.started_at.get(), cursor.session.get())
    });
    let rows: Vec<SessionRow> = connection
        .rows(
            "SELECT id, start_time, end_time, end_reason, credits_consumed, served_ms, tariff_credits,
                tariff_interval_ms
             FROM sessions WHERE user_id = $1 AND (start_time, id) < ($2, $3)
             ORDER BY start_time DESC, id DESC LIMIT $4",
            &[user.get().into(), start_time.into(), id.into(), limit.into()],
        )
        .await?;
    rows.into_iter().map(SessionRow::into_record).collect()
}

/// A live session in the database, with its user.
#[derive(sqlx::FromRow)]
struct LiveRow {
    id: i64,
    user_id: i64,
    slot: i32,
    node: String,
    start_time: i64,
}

/// Up to `limit` live sessions of all users after `after`, by user and slot.
pub(super) async fn live_sessions(
    connection: &mut Connection,
    after: Option<(UserId, SlotNumber)>,
    limit: u32,
) -> Result<Vec<LiveSessionOf>, StoreError> {
    let (user, slot) = after.map_or((0, 0), |(user, slot)| (user.get(), slot.get()));
    let rows: Vec<LiveRow> = connection
        .rows(
            "SELECT id, user_id, slot, node, start_time FROM sessions
             WHERE end_time IS NULL AND (user_id, slot) > ($1, $2) ORDER BY user_id, slot LIMIT $3",
            &[user.into(), i64::from(slot).into(), limit.into()],
        )
        .await?;
    let live = rows.into_iter().map(|row| {
        Ok(LiveSessionOf {
            user: UserId::new(row.user_id)?,
            session: SessionId::new(row.id)?,
            slot: SlotNumber::new(row.slot),
            node: NodeName::new(&row.node)?,
            started_at: UnixMillis::new(row.start_time)?,
        })
    });
    live.collect()
}

/// One session of the user's.
pub(super) async fn session(
    connection: &mut Connection,
    user: UserId,
    session: SessionId,
) -> Result<Option<SessionRecord>, StoreError> {
    let row: Option<SessionRow> = connection
        .row(
            "SELECT id, start_time, end_time, end_reason, credits_consumed, served_ms, tariff_credits,
                tariff_interval_ms
             FROM sessions WHERE id = $1 AND user_id = $2",
            &[session.get().into(), user.get().into()],
        )
        .await?;
    row.map(SessionRow::into_record).transpose()
}

/// Up to `limit` of the user's ledger entries, from before the entry `before`.
pub(super) async fn ledger(
    connection: &mut Connection,
    user: UserId,
    before: Option<EntryId>,
    limit: u32,
) -> Result<Vec<LedgerEntry>, StoreError> {
    let rows: Vec<EntryRow> = connection
        .rows(
            "SELECT id, at, recorded_at, kind, CASE WHEN to_account = user_id THEN amount ELSE -amount END AS amount,
                balance_after, session_id, reason
             FROM ledger WHERE user_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
            &[user.get().into(), before.map_or(i64::MAX, EntryId::get).into(), limit.into()],
        )
        .await?;
    rows.into_iter().map(EntryRow::into_entry).collect()
}

impl SessionRow {
    fn into_record(self) -> Result<SessionRecord, StoreError> {
        let end_reason = self.end_reason.map(|name| {
            EndReason::from_name(&name)
                .ok_or_else(|| StoreError::Corrupt(format!("a session that ended by {name:?}")))
        });
        Ok(SessionRecord {
            session_id: SessionId::new(self.id)?,
            started_at: UnixMillis::new(self.start_time)?,
            ended_at: self.end_time.map(UnixMillis::new).transpose()?,
            credits_consumed: Credits::new(self.credits_consumed)?,
            end_reason: end_reason.transpose()?,
            served_ms: Millis::new(self.served_ms)?,
            credits_per_interval: Credits::new(self.tariff_credits)?,
            interval_ms: Millis::new(self.tariff_interval_ms)?,
        })
    }
}

impl EntryRow {
    fn into_entry(self) -> Result<LedgerEntry, StoreError> {
        let kind = EntryKind::from_name(&self.kind).ok_or_else(|| {
            StoreError::Corrupt(format!("a ledger entry of the kind {:?}", self.kind))
        })?;
        // Before the first run nothing is proved: then the writer's clock is all that there is to show.
        let is_proved = self.at > UnixMillis::EPOCH.get();
        let shown = self.recorded_at.filter(|_| !is_proved);
        let at = shown.unwrap_or(self.at);
        Ok(LedgerEntry {
            entry_id: EntryId::new(self.id)?,
            at: UnixMillis::new(at)?,
            kind,
            amount: CreditsChange::try_from(self.amount)?,
            balance_after: Credits::new(self.balance_after)?,
            session_id: self.session_id.map(SessionId::new).transpose()?,
            reason: self.reason,
        })
    }
}

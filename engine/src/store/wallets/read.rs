//! Reading wallets whole: the user's row, the live sessions with their pauses, and what others did.

use std::collections::{HashMap, hash_map::Entry};

use billing::{
    BalanceChange, ChargedAt, Checkpoint, RecordedSession, Settled, SlotNumber, Span, Tariff,
    WalletVersion,
};
use schema::{Credits, CreditsChange, Millis, SessionId, UnixMillis, UserId};

use crate::{
    facts::{
        FIRST_READING, LiveSession, NodeName, RecordedBalance, WalletAsked, WalletReading,
        WalletRecord,
    },
    store::{
        StoreError,
        connection::{Column, Connection, Sql, Value},
    },
};

/// A user's wallet in the database.
#[derive(sqlx::FromRow)]
struct WalletRow {
    id: i64,
    version: i64,
    credits: i64,
    last_instant: i64,
    is_closing: bool,
}

/// A live session in the database.
#[derive(sqlx::FromRow)]
struct LiveRow {
    id: i64,
    user_id: i64,
    slot: i32,
    node: String,
    start_time: i64,
    credits_consumed: i64,
    settled_seq: i64,
    settled_at: i64,
    served_ms: i64,
    tariff_credits: i64,
    tariff_interval_ms: i64,
    tariff_charged_at: String,
    wallet_version: Option<i64>,
}

/// A change of a balance since a version that was asked for, in the database.
#[derive(sqlx::FromRow)]
struct ChangeRow {
    user_id: i64,
    since: i64,
    at: i64,
    amount: i64,
}

/// An entry since a checkpoint in the database.
#[derive(sqlx::FromRow)]
struct ChangedRow {
    user_id: i64,
    at: i64,
    is_usage: bool,
    amount: i64,
}

/// The user's wallet.
pub(super) async fn wallet(
    connection: &mut Connection,
    user: UserId,
) -> Result<Option<WalletRecord>, StoreError> {
    let since = FIRST_READING;
    let readings = wallets(connection, vec![WalletAsked { user, since }], None).await?;
    let reading = readings.into_iter().next().flatten();
    Ok(reading.map(|reading| reading.record))
}

/// The balances in the ledger of these users' wallets, in the users' order. One statement, which reads
/// nothing but the users' rows.
pub(in crate::store) async fn balances(
    connection: &mut Connection,
    users: Vec<UserId>,
) -> Result<Vec<Option<RecordedBalance>>, StoreError> {
    let ids = users.iter().map(|user| user.get()).collect();
    let rows: Vec<(i64, i64, i64)> = connection
        .rows(
            Sql {
                postgres: "SELECT id, credits, version FROM users WHERE id = ANY($1)",
                sqlite: "SELECT id, credits, version FROM users WHERE id IN (SELECT value FROM json_each($1))",
            },
            &[Value::Ints(ids)],
        )
        .await?;
    let balance = |(id, credits, version)| {
        let (credits, version) = (Credits::new(credits)?, WalletVersion::new(version));
        Ok((id, RecordedBalance { credits, version }))
    };
    let balances: Result<HashMap<i64, RecordedBalance>, StoreError> =
        rows.into_iter().map(balance).collect();
    let balances = balances?;
    let balances = users.iter().map(|user| balances.get(&user.get()).copied());
    Ok(balances.collect())
}

/// A wallet at first sight in the database, once for each unpaid session.
#[derive(sqlx::FromRow)]
struct SightRow {
    #[sqlx(flatten)]
    wallet: WalletRow,
    is_live: bool,
    unpaid_end: Option<i64>,
}

/// What one statement tells of these users: the wallets of those without a live session, with the unpaid
/// sessions since an instant. For Postgres, to which each round trip counts: most who start have none.
pub(in crate::store) async fn at_first_sight(
    connection: &mut Connection,
    users: Vec<i64>,
    unpaid_since: Option<UnixMillis>,
) -> Result<HashMap<UserId, WalletReading>, StoreError> {
    let rows: Vec<SightRow> = connection
        .rows(
            FIRST_SIGHT,
            &[Value::Ints(users), unpaid_since.map(UnixMillis::get).into()],
        )
        .await?;
    let mut readings: HashMap<UserId, WalletReading> = HashMap::new();
    for row in rows.into_iter().filter(|row| !row.is_live) {
        let reading = match readings.entry(UserId::new(row.wallet.id)?) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(WalletReading {
                record: row.wallet.into_record(Vec::new(), Vec::new())?,
                unpaid_ends: Vec::new(),
            }),
        };
        if let Some(end) = row.unpaid_end {
            reading.unpaid_ends.push(UnixMillis::new(end)?);
        }
    }
    Ok(readings)
}

/// The statement of [`at_first_sight`]. For the unpaid sessions see [`unpaid_ends`].
const FIRST_SIGHT: &str = "
    SELECT owner.*, live.id IS NOT NULL AS is_live, unpaid.end_time AS unpaid_end
    FROM (SELECT DISTINCT UNNEST($1::BIGINT[]) AS wallet) AS asked
    CROSS JOIN LATERAL (
        SELECT id, version, credits, last_instant, closing_at IS NOT NULL AS is_closing
        FROM users WHERE id = wallet OFFSET 0
    ) AS owner
    LEFT JOIN LATERAL (
        SELECT id FROM sessions WHERE user_id = wallet AND end_time IS NULL LIMIT 1
    ) AS live ON TRUE
    LEFT JOIN LATERAL (
        SELECT * FROM sessions WHERE user_id = wallet AND start_time >= COALESCE(
                (SELECT before.start_time FROM sessions AS before
                 WHERE before.user_id = wallet AND before.start_time < $2
                 ORDER BY before.start_time DESC, before.id DESC LIMIT 1), $2)
            AND end_time > $2 AND end_reason = 'user' AND credits_consumed = 0 OFFSET 0
    ) AS unpaid ON TRUE
    ORDER BY unpaid.start_time DESC, unpaid.id DESC";

/// These wallets in their order, with the changes from outside since the versions asked for, and with
/// the unpaid sessions since an instant. A few statements, however many there are.
pub(in crate::store) async fn wallets(
    connection: &mut Connection,
    asked: Vec<WalletAsked>,
    unpaid_since: Option<UnixMillis>,
) -> Result<Vec<Option<WalletReading>>, StoreError> {
    let users: Vec<i64> = asked.iter().map(|asked| asked.user.get()).collect();
    let rows: Vec<WalletRow> = connection
        .rows(
            Sql {
                postgres:
                    "SELECT id, version, credits, last_instant, closing_at IS NOT NULL AS is_closing
                    FROM users WHERE id = ANY($1)",
                sqlite:
                    "SELECT id, version, credits, last_instant, closing_at IS NOT NULL AS is_closing
                    FROM users WHERE id IN (SELECT value FROM json_each($1))",
            },
            &[Value::Ints(users.clone())],
        )
        .await?;
    let records = with_live_sessions(connection, rows).await?;
    let records: HashMap<UserId, WalletRecord> = records
        .into_iter()
        .map(|record| (record.user, record))
        .collect();
    let changes = changes_since(connection, &asked, &records).await?;
    let unpaid_ends = match unpaid_since {
        Some(since) => unpaid_ends(connection, users, since).await?,
        None => HashMap::new(),
    };
    let readings = asked.into_iter().map(|WalletAsked { user, since }| {
        let mut record = records.get(&user)?.clone();
        record.changes = changes.get(&(user, since)).cloned().unwrap_or_default();
        let unpaid_ends = unpaid_ends.get(&user).cloned().unwrap_or_default();
        Some(WalletReading {
            record,
            unpaid_ends,
        })
    });
    Ok(readings.collect())
}

/// What others changed of these balances since the versions asked for, in the order of the versions.
async fn changes_since(
    connection: &mut Connection,
    asked: &[WalletAsked],
    records: &HashMap<UserId, WalletRecord>,
) -> Result<HashMap<(UserId, WalletVersion), Vec<BalanceChange>>, StoreError> {
    // Who reads a wallet for the first time knows nothing that could have changed.
    let outdated: Vec<&WalletAsked> = asked
        .iter()
        .filter(|asked| {
            records
                .get(&asked.user)
                .is_some_and(|record| record.version > asked.since)
        })
        .collect();
    if outdated.is_empty() {
        return Ok(HashMap::new());
    }
    let ints = |of: fn(&WalletAsked) -> i64| {
        Column::Ints(outdated.iter().map(|asked| of(asked)).collect())
    };
    let wanted = Value::Rows(vec![
        ints(|asked| asked.user.get()),
        ints(|asked| asked.since.get()),
    ]);
    let rows: Vec<ChangeRow> = connection
        .rows(
            Sql {
                postgres: "SELECT DISTINCT user_id, since, wallet_version, at,
                        CASE WHEN to_account = user_id THEN amount ELSE -amount END AS amount
                    FROM UNNEST($1::BIGINT[], $2::BIGINT[]) AS asked (wallet, since)
                    JOIN ledger ON user_id = wallet AND wallet_version > since AND kind <> 'usage'
                    ORDER BY wallet_version",
                sqlite: "SELECT DISTINCT user_id, since, wallet_version, at,
                        CASE WHEN to_account = user_id THEN amount ELSE -amount END AS amount
                    FROM (SELECT value ->> 0 AS wallet, value ->> 1 AS since FROM json_each($1))
                    JOIN ledger ON user_id = wallet AND wallet_version > since AND kind <> 'usage'
                    ORDER BY wallet_version",
            },
            &[wanted],
        )
        .await?;
    let mut changes: HashMap<_, Vec<BalanceChange>> = HashMap::new();
    for row in rows {
        let asked = (UserId::new(row.user_id)?, WalletVersion::new(row.since));
        changes.entry(asked).or_default().push(BalanceChange {
            at: UnixMillis::new(row.at)?,
            amount: CreditsChange::try_from(row.amount)?,
        });
    }
    Ok(changes)
}

/// When these users' sessions ended that they stopped after `since` and that cost nothing, newest
/// first.
///
/// The index is by start. Sessions in one slot follow each other, so of those that started before
/// `since` only the last one can have ended after it.
async fn unpaid_ends(
    connection: &mut Connection,
    users: Vec<i64>,
    since: UnixMillis,
) -> Result<HashMap<UserId, Vec<UnixMillis>>, StoreError> {
    let rows: Vec<(i64, i64)> = connection
        .rows(
            Sql {
                postgres: "SELECT wallet, unpaid.end_time
                    FROM (SELECT DISTINCT UNNEST($1::BIGINT[]) AS wallet) AS asked CROSS JOIN LATERAL
                    (SELECT * FROM sessions WHERE user_id = wallet AND start_time >= COALESCE(
                            (SELECT before.start_time FROM sessions AS before
                             WHERE before.user_id = wallet AND before.start_time < $2
                             ORDER BY before.start_time DESC, before.id DESC LIMIT 1), $2)
                        AND end_time > $2 AND end_reason = 'user' AND credits_consumed = 0 OFFSET 0) AS unpaid
                    ORDER BY unpaid.start_time DESC, unpaid.id DESC",
                sqlite: "SELECT wallet, end_time FROM (SELECT DISTINCT value AS wallet FROM json_each($1))
                    CROSS JOIN sessions ON user_id = wallet AND start_time >= COALESCE(
                            (SELECT before.start_time FROM sessions AS before
                             WHERE before.user_id = wallet AND before.start_time < $2
                             ORDER BY before.start_time DESC, before.id DESC LIMIT 1), $2)
                    WHERE end_time > $2 AND end_reason = 'user' AND credits_consumed = 0
                    ORDER BY start_time DESC, id DESC",
            },
            &[Value::Ints(users), since.get().into()],
        )
        .await?;
    let mut ends: HashMap<UserId, Vec<UnixMillis>> = HashMap::new();
    for (user, end) in rows {
        let own = ends.entry(UserId::new(user)?).or_default();
        own.push(UnixMillis::new(end)?);
    }
    Ok(ends)
}

/// Up to `limit` wallets with a live session of `node`, after `after`. Three statements, however many
/// there are.
pub(in crate::store) async fn live_wallets(
    connection: &mut Connection,
    node: NodeName,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<WalletRecord>, StoreError> {
    let rows: Vec<WalletRow> = connection
        .rows(
            "SELECT id, version, credits, last_instant, closing_at IS NOT NULL AS is_closing FROM users
             WHERE id IN (SELECT DISTINCT user_id FROM sessions
                WHERE node = $1 AND end_time IS NULL AND user_id > $2 ORDER BY user_id LIMIT $3)
             ORDER BY id",
            &[
                node.as_str().into(),
                after.map_or(0, UserId::get).into(),
                limit.into(),
            ],
        )
        .await?;
    with_live_sessions(connection, rows).await
}

/// The wallets of these rows, in their order, with their live sessions and no changes.
async fn with_live_sessions(
    connection: &mut Connection,
    rows: Vec<WalletRow>,
) -> Result<Vec<WalletRecord>, StoreError> {
    let users: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let sessions: Vec<LiveRow> = connection
        .rows(
            Sql {
                // The OFFSET keeps the planner from walking through all sessions, see `postgres`.
                postgres: "SELECT live.* FROM UNNEST($1::BIGINT[]) AS asked (wallet) CROSS JOIN LATERAL
                    (SELECT id, user_id, slot, node, start_time, credits_consumed, settled_seq, settled_at,
                        served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at, wallet_version
                     FROM sessions WHERE end_time IS NULL AND user_id = wallet OFFSET 0) AS live ORDER BY id",
                sqlite: "SELECT id, user_id, slot, node, start_time, credits_consumed, settled_seq, settled_at,
                        served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at, wallet_version
                    FROM sessions INDEXED BY sessions_live
                    WHERE end_time IS NULL AND user_id IN (SELECT value FROM json_each($1)) ORDER BY id",
            },
            &[Value::Ints(users)],
        )
        .await?;
    let mut pauses = pauses(
        connection,
        sessions.iter().map(|session| session.id).collect(),
    )
    .await?;
    let mut changes = since_checkpoints(connection, &rows, &sessions).await?;
    let mut live: HashMap<i64, Vec<LiveSession>> = HashMap::new();
    for session in sessions {
        let pauses = pauses.remove(&session.id).unwrap_or_default();
        live.entry(session.user_id)
            .or_default()
            .push(session.into_live(pauses)?);
    }
    let wallets = rows.into_iter().map(|row| {
        let live = live.remove(&row.id).unwrap_or_default();
        let changes = changes.remove(&row.id).unwrap_or_default();
        row.into_record(live, changes)
    });
    wallets.collect()
}

impl WalletRow {
    fn into_record(
        self,
        live: Vec<LiveSession>,
        since_checkpoints: Vec<BalanceChange>,
    ) -> Result<WalletRecord, StoreError> {
        Ok(WalletRecord {
            user: UserId::new(self.id)?,
            version: WalletVersion::new(self.version),
            credits: Credits::new(self.credits)?,
            last_instant: UnixMillis::new(self.last_instant)?,
            is_closing: self.is_closing,
            live,
            since_checkpoints,
            changes: Vec::new(),
        })
    }
}

/// What others changed of each of these users' balances since the last settlement of any session, or
/// the start of a live one, in the order of the wallets' versions.
///
/// The versions tell what came since, and no instant does: whoever wrote it may have had a clock that was
/// hours ahead of the session's node, or behind it.
async fn since_checkpoints(
    connection: &mut Connection,
    users: &[WalletRow],
    sessions: &[LiveRow],
) -> Result<HashMap<i64, Vec<BalanceChange>>, StoreError> {
    let mut latest: HashMap<i64, i64> = HashMap::new();
    for session in sessions {
        let version = session.wallet_version.ok_or_else(|| {
            let id = session.id;
            StoreError::Corrupt(format!("session {id} is live, of no version of its wallet"))
        })?;
        let since = latest.entry(session.user_id).or_insert(version);
        *since = (*since).max(version);
    }
    // Of most wallets nothing was recorded since, and the ledger need not be asked.
    let is_changed = |user: &&WalletRow| {
        latest
            .get(&user.id)
            .is_some_and(|since| user.version > *since)
    };
    let changed: Vec<i64> = users
        .iter()
        .filter(is_changed)
        .map(|user| user.id)
        .collect();
    if changed.is_empty() {
        return Ok(HashMap::new());
    }
    let since = changed.iter().map(|user| latest[user]).collect();
    let rows: Vec<ChangedRow> = connection
        .rows(
            Sql {
                postgres: "SELECT user_id, at, kind = 'usage' AS is_usage,
                        CASE WHEN to_account = user_id THEN amount ELSE -amount END AS amount
                    FROM UNNEST($1::BIGINT[], $2::BIGINT[]) AS changed (wallet, since)
                    JOIN ledger ON user_id = wallet AND wallet_version > since ORDER BY user_id, wallet_version",
                sqlite: "SELECT user_id, at, kind = 'usage' AS is_usage,
                        CASE WHEN to_account = user_id THEN amount ELSE -amount END AS amount
                    FROM (SELECT value ->> 0 AS wallet, value ->> 1 AS since FROM json_each($1))
                    JOIN ledger ON user_id = wallet AND wallet_version > since ORDER BY user_id, wallet_version",
            },
            &[Value::Rows(vec![Column::Ints(changed), Column::Ints(since)])],
        )
        .await?;
    let mut by_user: HashMap<i64, Vec<BalanceChange>> = HashMap::new();
    for row in rows {
        let own = by_user.entry(row.user_id).or_default();
        if row.is_usage {
            // What was settled then had taken all that came before into account.
            own.clear();
        } else {
            own.push(BalanceChange {
                at: UnixMillis::new(row.at)?,
                amount: CreditsChange::try_from(row.amount)?,
            });
        }
    }
    Ok(by_user)
}

/// The pauses of live sessions since their checkpoints, by session, in order.
async fn pauses(
    connection: &mut Connection,
    sessions: Vec<i64>,
) -> Result<HashMap<i64, Vec<Span>>, StoreError> {
    if sessions.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(i64, i64, Option<i64>)> = connection
        .rows(
            Sql {
                postgres: "SELECT p.session_id, p.from_time, p.to_time
                    FROM session_pauses p JOIN sessions s ON s.id = p.session_id
                    WHERE p.session_id = ANY($1) AND (p.to_time IS NULL OR p.to_time > s.settled_at)
                    ORDER BY p.session_id, p.from_time",
                sqlite: "SELECT p.session_id, p.from_time, p.to_time
                    FROM session_pauses p JOIN sessions s ON s.id = p.session_id
                    WHERE p.session_id IN (SELECT value FROM json_each($1))
                        AND (p.to_time IS NULL OR p.to_time > s.settled_at)
                    ORDER BY p.session_id, p.from_time",
            },
            &[Value::Ints(sessions)],
        )
        .await?;
    let mut pauses: HashMap<i64, Vec<Span>> = HashMap::new();
    for (session, from, to) in rows {
        let to = to.map_or(Ok(UnixMillis::MAX), UnixMillis::new)?;
        pauses.entry(session).or_default().push(Span {
            from: UnixMillis::new(from)?,
            to,
        });
    }
    Ok(pauses)
}

impl LiveRow {
    fn into_live(self, pauses: Vec<Span>) -> Result<LiveSession, StoreError> {
        let charged_at = ChargedAt::from_name(&self.tariff_charged_at)
            .ok_or_else(|| StoreError::Corrupt("a tariff charged at no known time".to_owned()))?;
        let (price, interval) = (
            Credits::new(self.tariff_credits)?,
            Millis::new(self.tariff_interval_ms)?,
        );
        let session = RecordedSession {
            id: SessionId::new(self.id)?,
            slot: SlotNumber::new(self.slot),
            tariff: Tariff::new(price, interval, charged_at)?,
            started_at: UnixMillis::new(self.start_time)?,
            settled: Settled {
                seq: self.settled_seq,
                total: Credits::new(self.credits_consumed)?,
            },
            checkpoint: Checkpoint {
                at: UnixMillis::new(self.settled_at)?,
                served: Millis::new(self.served_ms)?,
            },
            pauses,
        };
        Ok(LiveSession {
            node: NodeName::new(&self.node)?,
            session,
        })
    }
}

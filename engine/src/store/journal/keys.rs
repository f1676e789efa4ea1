//! Idempotency keys: kept and forgotten by the journal's transactions, read and deleted by others.
//!
//! Whoever writes a key holds the lock of its user's row, so that what is found under that lock is so
//! until the transaction ends. A row that is too old counts as absent, and is replaced.

use std::collections::{HashMap, HashSet};

use schema::{Credits, SessionId, UnixMillis, UserId, session::EndReason};

use super::super::{
    StoreError,
    connection::{Column, Connection, Sql, Value},
};
use crate::{
    engine::{Started, Stopped},
    facts::{Fact, Recording},
    keys::{self, Answer, Fingerprint, IdempotencyKey, KEPT_FOR, KeptAnswer},
};

const START: &str = "start";
const STOP: &str = "stop";

/// The keys in use, by user, each with the session and the operation that it is in use for.
pub(super) type UsedKeys = HashMap<(i64, String), (i64, String)>;

/// What a fact's keys are kept for: the session, and what was done with it. An interim settlement
/// answers nobody.
pub(super) fn answered(fact: &Fact) -> Option<(SessionId, &'static str)> {
    match fact {
        Fact::Opening(opening) => Some((opening.session, START)),
        Fact::Settlement(settlement) => settlement.end.map(|_| (settlement.session, STOP)),
    }
}

/// Whether one of the recording's keys is in use for anything but its own fact.
pub(super) fn is_used_elsewhere(recording: &Recording, in_use: &UsedKeys) -> bool {
    let user = recording.fact.user().get();
    let own = answered(&recording.fact);
    recording.keys.iter().any(|request| {
        in_use
            .get(&(user, request.key.as_str().to_owned()))
            .is_some_and(|(session, operation)| {
                own.is_none_or(|own| (own.0.get(), own.1) != (*session, operation))
            })
    })
}

/// Which keys of `recordings` are in use.
pub(super) async fn used(
    connection: &mut Connection,
    recordings: &[Recording],
) -> Result<UsedKeys, StoreError> {
    let (mut users, mut names, mut expired) = (Vec::new(), Vec::new(), Vec::new());
    for recording in recordings {
        for request in &recording.keys {
            users.push(recording.fact.user().get());
            names.push(request.key.as_str().to_owned());
            expired.push(keys::expired_at(recording.at).get());
        }
    }
    if names.is_empty() {
        return Ok(UsedKeys::new());
    }
    let rows = Value::Rows(vec![
        Column::Ints(users),
        Column::Texts(names),
        Column::Ints(expired),
    ]);
    let found: Vec<(i64, String, i64, String)> = connection
        .rows(
            Sql {
                postgres: "SELECT user_id, key, session_id, operation FROM idempotency_keys
                    JOIN UNNEST($1::BIGINT[], $2::TEXT[], $3::BIGINT[]) AS wanted (wallet, name, expired_at)
                        ON user_id = wallet AND key = name
                    WHERE created_at > expired_at",
                // A cross join keeps its order: each key is looked up.
                sqlite: "SELECT kept.user_id, kept.key, kept.session_id, kept.operation
                    FROM json_each($1) AS wanted CROSS JOIN idempotency_keys AS kept
                    WHERE kept.user_id = wanted.value ->> 0 AND kept.key = wanted.value ->> 1
                        AND kept.created_at > wanted.value ->> 2",
            },
            &[rows],
        )
        .await?;
    Ok(found
        .into_iter()
        .map(|(user, name, session, operation)| ((user, name), (session, operation)))
        .collect())
}

/// Keeps the keys of `recordings`, whose facts are recorded.
///
/// What a stop left in the wallet is what the ledger says at that version of it: so it comes out the
/// same if the key is kept later than the fact.
pub(super) async fn keep(
    connection: &mut Connection,
    recordings: &[&Recording],
) -> Result<(), StoreError> {
    let mut seen = HashSet::new();
    let (mut users, mut names, mut digests) = (Vec::new(), Vec::new(), Vec::new());
    let (mut operations, mut sessions) = (Vec::new(), Vec::new());
    let (mut versions, mut instants) = (Vec::new(), Vec::new());
    for recording in recordings {
        let Some((session, operation)) = answered(&recording.fact) else {
            continue;
        };
        for request in &recording.keys {
            if !seen.insert((recording.fact.user(), &request.key)) {
                continue;
            }
            users.push(recording.fact.user().get());
            names.push(request.key.as_str().to_owned());
            digests.push(request.fingerprint.to_hex());
            operations.push(Some(operation));
            sessions.push(session.get());
            versions.push(recording.fact.version().next().get());
            instants.push(recording.at.get());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let rows = Value::Rows(vec![
        Column::Ints(users),
        Column::Texts(names),
        Column::Texts(digests),
        Column::Names(operations),
        Column::Ints(sessions),
        Column::Ints(versions),
        Column::Ints(instants),
    ]);
    let sql = Sql {
        postgres: "INSERT INTO idempotency_keys AS kept
                (user_id, key, fingerprint, operation, session_id, final_credits, created_at)
            SELECT wallet, name, decode(digest, 'hex'), done, session,
                CASE done WHEN 'stop' THEN COALESCE((SELECT balance_after FROM ledger
                    WHERE ledger.user_id = wallet AND wallet_version <= version
                    ORDER BY wallet_version DESC LIMIT 1), 0) END,
                at
            FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[])
                AS fact (wallet, name, digest, done, session, version, at)
            ON CONFLICT (user_id, key) DO UPDATE SET fingerprint = excluded.fingerprint,
                operation = excluded.operation, session_id = excluded.session_id,
                final_credits = excluded.final_credits, created_at = excluded.created_at
            WHERE kept.created_at <= excluded.created_at - $8",
        sqlite: "INSERT INTO idempotency_keys AS kept
                (user_id, key, fingerprint, operation, session_id, final_credits, created_at)
            SELECT fact.value ->> 0, fact.value ->> 1, unhex(fact.value ->> 2), fact.value ->> 3, fact.value ->> 4,
                CASE fact.value ->> 3 WHEN 'stop' THEN COALESCE((SELECT balance_after FROM ledger
                    WHERE ledger.user_id = fact.value ->> 0 AND wallet_version <= fact.value ->> 5
                    ORDER BY wallet_version DESC LIMIT 1), 0) END,
                fact.value ->> 6
            FROM json_each($1) AS fact WHERE TRUE
            ON CONFLICT (user_id, key) DO UPDATE SET fingerprint = excluded.fingerprint,
                operation = excluded.operation, session_id = excluded.session_id,
                final_credits = excluded.final_credits, created_at = excluded.created_at
            WHERE kept.created_at <= excluded.created_at - $2",
    };
    connection
        .execute(sql, &[rows, KEPT_FOR.get().into()])
        .await
        .map(drop)
}

/// Deletes the keys that `recordings` forget, whose facts are recorded.
pub(super) async fn forget(
    connection: &mut Connection,
    recordings: &[&Recording],
) -> Result<(), StoreError> {
    let (mut users, mut names, mut sessions) = (Vec::new(), Vec::new(), Vec::new());
    for recording in recordings {
        let (Some(key), Some((session, _))) = (&recording.forgotten, answered(&recording.fact))
        else {
            continue;
        };
        users.push(recording.fact.user().get());
        names.push(key.as_str().to_owned());
        sessions.push(session.get());
    }
    if names.is_empty() {
        return Ok(());
    }
    let rows = Value::Rows(vec![
        Column::Ints(users),
        Column::Texts(names),
        Column::Ints(sessions),
    ]);
    let sql = Sql {
        postgres: "DELETE FROM idempotency_keys
            USING UNNEST($1::BIGINT[], $2::TEXT[], $3::BIGINT[]) AS fact (wallet, name, session)
            WHERE user_id = wallet AND key = name AND session_id = session",
        sqlite: "DELETE FROM idempotency_keys WHERE (user_id, key, session_id) IN
            (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1))",
    };
    connection.execute(sql, &[rows]).await.map(drop)
}

/// A key's row, with the session's.
#[derive(sqlx::FromRow)]
struct KeptRow {
    fingerprint: Vec<u8>,
    operation: String,
    session_id: i64,
    final_credits: Option<i64>,
    start_time: i64,
    end_time: Option<i64>,
    end_reason: Option<String>,
    credits_consumed: i64,
}

/// What is kept under the user's key, unless it is too old at `now`.
pub(in super::super) async fn kept_answer(
    connection: &mut Connection,
    user: UserId,
    key: IdempotencyKey,
    now: UnixMillis,
) -> Result<Option<KeptAnswer>, StoreError> {
    let row: Option<KeptRow> = connection
        .row(
            "SELECT kept.fingerprint, kept.operation, kept.session_id, kept.final_credits, sessions.start_time,
                sessions.end_time, sessions.end_reason, sessions.credits_consumed
             FROM idempotency_keys AS kept JOIN sessions ON sessions.id = kept.session_id
             WHERE kept.user_id = $1 AND kept.key = $2 AND kept.created_at > $3",
            &[
                user.get().into(),
                key.as_str().into(),
                keys::expired_at(now).get().into(),
            ],
        )
        .await?;
    row.map(KeptRow::into_answer).transpose()
}

/// Deletes up to `limit` keys that were kept at `expired_at` or before, and tells how many.
pub(in super::super) async fn purge(
    connection: &mut Connection,
    expired_at: UnixMillis,
    limit: u32,
) -> Result<u64, StoreError> {
    let sql = Sql {
        // A row that the journal is about to replace is left to it: waiting for it could deadlock.
        postgres: "DELETE FROM idempotency_keys WHERE (user_id, key) IN
            (SELECT user_id, key FROM idempotency_keys WHERE created_at <= $1
             ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        sqlite: "DELETE FROM idempotency_keys WHERE (user_id, key) IN
            (SELECT user_id, key FROM idempotency_keys WHERE created_at <= $1 ORDER BY created_at LIMIT $2)",
    };
    connection
        .execute(sql, &[expired_at.get().into(), limit.into()])
        .await
}

impl KeptRow {
    fn into_answer(self) -> Result<KeptAnswer, StoreError> {
        let corrupt = || {
            StoreError::Corrupt(format!(
                "an idempotency key for session {} that can't be read",
                self.session_id
            ))
        };
        let digest: [u8; 32] = self
            .fingerprint
            .as_slice()
            .try_into()
            .map_err(|_| corrupt())?;
        let session = SessionId::new(self.session_id)?;
        let answer = match (self.operation.as_str(), self.final_credits) {
            (START, None) => Answer::Started(Started {
                session,
                started_at: UnixMillis::new(self.start_time)?,
            }),
            (STOP, Some(final_credits)) => {
                let reason = self.end_reason.as_deref().and_then(EndReason::from_name);
                let (Some(ended_at), Some(reason)) = (self.end_time, reason) else {
                    return Err(corrupt());
                };
                Answer::Stopped(Stopped {
                    session,
                    ended_at: UnixMillis::new(ended_at)?,
                    reason,
                    consumed: Credits::new(self.credits_consumed)?,
                    final_credits: Credits::new(final_credits)?,
                })
            }
            _ => return Err(corrupt()),
        };
        Ok(KeptAnswer {
            fingerprint: Fingerprint::new(digest),
            answer,
        })
    }
}

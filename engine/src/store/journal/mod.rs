//! The journal's batches: what sessions decided, written in one transaction.
//!
//! There are two ways. On Postgres a batch is one statement first ([`at_once`]), which writes the facts that
//! can be written as they are: nearly all, nearly always. The general way, which SQLite takes with every
//! fact, is for those of which more has to be found out. It takes a fixed number of statements, however many
//! facts there are, and two or three more if any of them has a key. It locks the lane's row, then the users'
//! rows in the order of their ids, reads what the facts are about, and lets [`verdict`] decide what becomes of
//! each. What is to be written carries the same conditions once more in its WHERE, and only what RETURNING
//! names was recorded.

pub(super) mod at_once;
pub(super) mod keys;
mod verdict;

use std::{collections::HashSet, ops::Range, sync::Arc};

use billing::Opening;
use schema::{MAX_SAFE_INTEGER, SessionId, session::EndReason};

use self::verdict::{Found, FoundSession, FoundUser, Settling, Verdict};
use super::{
    StoreError,
    connection::{Column, Connection, Sql, Value},
    runs,
    setbacks::Known,
};
use crate::facts::{Fact, FactOutcome, NodeName, NodeRun, Recording, Refusal};

/// Takes a block of `count` session ids.
pub(super) async fn take_session_ids(
    connection: &mut Connection,
    count: u32,
) -> Result<Range<i64>, StoreError> {
    let row: Option<(i64,)> = connection
        .row(
            "INSERT INTO id_blocks (name, next) VALUES ('sessions', 1 + $1)
             ON CONFLICT (name) DO UPDATE SET next = id_blocks.next + $1 RETURNING next",
            &[count.into()],
        )
        .await?;
    let (end,) =
        row.ok_or_else(|| StoreError::Corrupt("no block of session ids was given".to_owned()))?;
    if end > MAX_SAFE_INTEGER + 1 {
        return Err(StoreError::Corrupt(
            "the session ids are used up".to_owned(),
        ));
    }
    Ok(end - i64::from(count)..end)
}

/// Records the facts of `recordings`, with their keys, in `lane`. Fails if the lane's row is older than
/// `known`.
pub(super) async fn record(
    connection: &mut Connection,
    run: NodeRun,
    lane: usize,
    recordings: Arc<[Recording]>,
    known: Known,
) -> Result<Vec<FactOutcome>, StoreError> {
    let last_instant = recordings.iter().map(|recording| recording.fact.at()).max();
    let Some(last_instant) = last_instant else {
        return Ok(Vec::new());
    };
    runs::hold(connection, &run, lane, last_instant, &known).await?;
    let found = find(connection, &recordings).await?;
    let verdicts = verdict::decide(&run.node, &recordings, &found);

    let openings: Vec<Opening> = verdicts.iter().filter_map(Verdict::opening).collect();
    let settlings: Vec<Settling> = verdicts.iter().filter_map(Verdict::settling).collect();
    let mut written = insert_sessions(connection, &run.node, &openings).await?;
    written.extend(settle_sessions(connection, &run.node, &settlings).await?);

    let is_written = |session: SessionId| written.contains(&session.get());
    let settlings: Vec<Settling> = settlings
        .into_iter()
        .filter(|settling| is_written(settling.settlement.session))
        .collect();
    insert_usage(connection, &settlings).await?;
    let openings = openings
        .into_iter()
        .filter(|opening| is_written(opening.session))
        .collect();
    write_users(connection, openings, &settlings).await?;

    let outcome = |verdict: Verdict| match verdict {
        Verdict::Told(outcome) => outcome,
        Verdict::Open(Opening { session, .. }) if is_written(session) => FactOutcome::Recorded,
        Verdict::Settle(settling) if is_written(settling.settlement.session) => {
            FactOutcome::Recorded
        }
        // The rows were locked and looked right, and still nothing could be written.
        Verdict::Open(_) | Verdict::Settle(_) => FactOutcome::Refused(Refusal::Contradiction),
    };
    let outcomes: Vec<FactOutcome> = verdicts.into_iter().map(outcome).collect();
    let recorded = recordings.iter().zip(&outcomes);
    let recorded: Vec<&Recording> = recorded
        .filter(|(_, outcome)| **outcome == FactOutcome::Recorded)
        .map(|(recording, _)| recording)
        .collect();
    keys::keep(connection, &recorded).await?;
    keys::forget(connection, &recorded).await?;
    Ok(outcomes)
}

/// Locks the users that the facts are about, and reads them, their sessions and the keys.
async fn find(connection: &mut Connection, recordings: &[Recording]) -> Result<Found, StoreError> {
    let facts = recordings.iter().map(|recording| &recording.fact);
    let users: Vec<i64> = facts.clone().map(|fact| fact.user().get()).collect();
    let sessions: Vec<i64> = facts.map(|fact| fact.session().get()).collect();
    // Whose slots have to be free.
    let starting = recordings
        .iter()
        .filter_map(|recording| match &recording.fact {
            Fact::Opening(opening) => Some(opening.user.get()),
            Fact::Settlement(_) => None,
        });
    let starting: Vec<i64> = starting.collect();
    let users_found: Vec<FoundUser> = connection
        .rows(
            Sql {
                postgres: "SELECT id, version, credits FROM users WHERE id = ANY($1) ORDER BY id FOR UPDATE",
                sqlite: "SELECT id, version, credits FROM users WHERE id IN (SELECT value FROM json_each($1))",
            },
            &[Value::Ints(users)],
        )
        .await?;
    // A statement of its own: it must see what whoever held the locks before has written.
    let sessions_found: Vec<FoundSession> = connection
        .rows(
            Sql {
                // Each OFFSET keeps the planner from walking through all sessions, see `postgres`.
                postgres: "SELECT found.* FROM UNNEST($1::BIGINT[]) AS asked (session) CROSS JOIN LATERAL
                    (SELECT id, user_id, slot, node, start_time, end_reason, credits_consumed, settled_seq,
                        settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at
                     FROM sessions WHERE id = session OFFSET 0) AS found
                    UNION ALL
                    SELECT found.* FROM UNNEST($2::BIGINT[]) AS asked (wallet) CROSS JOIN LATERAL
                    (SELECT id, user_id, slot, node, start_time, end_reason, credits_consumed, settled_seq,
                        settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at
                     FROM sessions WHERE user_id = wallet AND end_time IS NULL OFFSET 0) AS found",
                sqlite: "SELECT id, user_id, slot, node, start_time, end_reason, credits_consumed, settled_seq,
                        settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at
                    FROM sessions WHERE id IN (SELECT value FROM json_each($1))
                    UNION ALL
                    SELECT id, user_id, slot, node, start_time, end_reason, credits_consumed, settled_seq,
                        settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at
                    FROM sessions INDEXED BY sessions_live
                    WHERE user_id IN (SELECT value FROM json_each($2)) AND end_time IS NULL",
            },
            &[Value::Ints(sessions), Value::Ints(starting)],
        )
        .await?;
    let used_keys = keys::used(connection, recordings).await?;
    Ok(Found::new(users_found, sessions_found, used_keys))
}

/// Inserts the sessions that start, and returns the ids of those that could be.
async fn insert_sessions(
    connection: &mut Connection,
    node: &NodeName,
    openings: &[Opening],
) -> Result<HashSet<i64>, StoreError> {
    if openings.is_empty() {
        return Ok(HashSet::new());
    }
    let ints = |of: fn(&Opening) -> i64| Column::Ints(openings.iter().map(of).collect());
    let rows = Value::Rows(vec![
        ints(|opening| opening.session.get()),
        ints(|opening| opening.user.get()),
        ints(|opening| opening.slot.get().into()),
        ints(|opening| opening.started_at.get()),
        ints(|opening| opening.tariff.price().get()),
        ints(|opening| opening.tariff.interval().get()),
        Column::Names(
            openings
                .iter()
                .map(|opening| Some(opening.tariff.charged_at().as_str()))
                .collect(),
        ),
        ints(|opening| opening.version.next().get()),
    ]);
    let inserted: Vec<(i64,)> = connection
        .rows(
            Sql {
                postgres: "INSERT INTO sessions (id, user_id, slot, node, start_time, credits_consumed, settled_seq,
                        settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at, created_at,
                        wallet_version)
                    SELECT id, user_id, slot, $1, start_time, 0, 0, start_time, 0, price, interval_ms, charged_at,
                        start_time, version
                    FROM UNNEST($2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[],
                        $8::TEXT[], $9::BIGINT[])
                        AS fact (id, user_id, slot, start_time, price, interval_ms, charged_at, version)
                    ON CONFLICT DO NOTHING RETURNING id",
                sqlite: "INSERT INTO sessions (id, user_id, slot, node, start_time, credits_consumed, settled_seq,
                        settled_at, served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at, created_at,
                        wallet_version)
                    SELECT value ->> 0, value ->> 1, value ->> 2, $1, value ->> 3, 0, 0, value ->> 3, 0, value ->> 4,
                        value ->> 5, value ->> 6, value ->> 3, value ->> 7
                    FROM json_each($2) WHERE TRUE
                    ON CONFLICT DO NOTHING RETURNING id",
            },
            &[node.as_str().into(), rows],
        )
        .await?;
    Ok(inserted.into_iter().map(|(id,)| id).collect())
}

/// Writes the settlements to their sessions, and returns the ids of those that could be.
///
/// The guards are written so that no index can serve them and no planner can guess how many rows they
/// leave: a session is found by its id. With such a guess both databases would rather walk through all
/// live sessions of the node, once for each settlement.
async fn settle_sessions(
    connection: &mut Connection,
    node: &NodeName,
    settlings: &[Settling],
) -> Result<HashSet<i64>, StoreError> {
    if settlings.is_empty() {
        return Ok(HashSet::new());
    }
    let ints = |of: fn(&Settling) -> i64| Column::Ints(settlings.iter().map(of).collect());
    let rows = Value::Rows(vec![
        ints(|settling| settling.settlement.session.get()),
        ints(|settling| settling.settlement.user.get()),
        ints(|settling| settling.settlement.seq),
        ints(|settling| settling.settlement.total.get()),
        ints(|settling| settling.settlement.served.get()),
        ints(|settling| settling.settlement.at.get()),
        ints(|settling| settling.difference.get()),
        Column::Names(
            settlings
                .iter()
                .map(|settling| settling.settlement.end.map(EndReason::as_str))
                .collect(),
        ),
        ints(|settling| settling.settlement.version.next().get()),
    ]);
    let settled: Vec<(i64,)> = connection
        .rows(
            Sql {
                postgres: "UPDATE sessions SET credits_consumed = total, settled_seq = seq, settled_at = at,
                        served_ms = served, end_reason = reason, end_time = CASE WHEN reason IS NOT NULL THEN at END,
                        wallet_version = version
                    FROM UNNEST($2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[],
                        $8::BIGINT[], $9::TEXT[], $10::BIGINT[])
                        AS fact (session, wallet, seq, total, served, at, difference, reason, version)
                    WHERE id = session AND CASE WHEN user_id = wallet AND node = $1 AND settled_seq = seq - 1
                        AND credits_consumed = total - difference THEN end_time IS NULL ELSE FALSE END
                    RETURNING id",
                sqlite: "UPDATE sessions SET credits_consumed = total, settled_seq = seq, settled_at = at,
                        served_ms = served, end_reason = reason, end_time = CASE WHEN reason IS NOT NULL THEN at END,
                        wallet_version = version
                    FROM (SELECT value ->> 0 AS session, value ->> 1 AS wallet, value ->> 2 AS seq,
                            value ->> 3 AS total, value ->> 4 AS served, value ->> 5 AS at,
                            value ->> 6 AS difference, value ->> 7 AS reason, value ->> 8 AS version
                            FROM json_each($2)) AS fact
                    WHERE id = session AND +user_id = wallet AND +node = $1 AND +settled_seq = seq - 1
                        AND +credits_consumed = total - difference AND +end_time IS NULL
                    RETURNING id",
            },
            &[node.as_str().into(), rows],
        )
        .await?;
    Ok(settled.into_iter().map(|(id,)| id).collect())
}

/// Writes the ledger entries of the settlements that move anything.
async fn insert_usage(
    connection: &mut Connection,
    settlings: &[Settling],
) -> Result<(), StoreError> {
    let moving: Vec<&Settling> = settlings
        .iter()
        .filter(|settling| !settling.difference.is_zero())
        .collect();
    if moving.is_empty() {
        return Ok(());
    }
    let ints = |of: fn(&Settling) -> i64| {
        Column::Ints(moving.iter().map(|settling| of(settling)).collect())
    };
    let rows = Value::Rows(vec![
        ints(|settling| settling.settlement.user.get()),
        ints(|settling| settling.settlement.at.get()),
        ints(|settling| settling.difference.get()),
        ints(|settling| settling.settlement.session.get()),
        ints(|settling| settling.settlement.version.next().get()),
        ints(|settling| settling.balance_after.get()),
    ]);
    let sql = Sql {
        postgres: "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id,
                wallet_version, balance_after, created_at)
            SELECT wallet, at, 'usage', wallet, -2, amount, session, version, balance, at
            FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[])
                AS fact (wallet, at, amount, session, version, balance)",
        sqlite: "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id,
                wallet_version, balance_after, created_at)
            SELECT value ->> 0, value ->> 1, 'usage', value ->> 0, -2, value ->> 2, value ->> 3,
                value ->> 4, value ->> 5, value ->> 1
            FROM json_each($1)",
    };
    let inserted = connection.execute(sql, &[rows]).await?;
    all_written("ledger entries", inserted, moving.len())
}

/// Bumps the users' versions and takes from their balances what was settled.
async fn write_users(
    connection: &mut Connection,
    openings: Vec<Opening>,
    settlings: &[Settling],
) -> Result<(), StoreError> {
    // User, version, instant, difference.
    let opened = openings
        .into_iter()
        .map(|opening| (opening.user, opening.version, opening.started_at.get(), 0));
    let settled = settlings.iter().map(
        |Settling {
             settlement,
             difference,
             ..
         }| {
            (
                settlement.user,
                settlement.version,
                settlement.at.get(),
                difference.get(),
            )
        },
    );
    let mut writes: Vec<_> = opened.chain(settled).collect();
    if writes.is_empty() {
        return Ok(());
    }
    writes.sort_unstable_by_key(|(user, ..)| *user);
    let rows = Value::Rows(vec![
        Column::Ints(writes.iter().map(|write| write.0.get()).collect()),
        Column::Ints(writes.iter().map(|write| write.1.get()).collect()),
        Column::Ints(writes.iter().map(|write| write.2).collect()),
        Column::Ints(writes.iter().map(|write| write.3).collect()),
    ]);
    let sql = Sql {
        postgres: "UPDATE users SET version = version + 1, credits = credits - difference,
                last_instant = GREATEST(last_instant, at), updated_at = GREATEST(updated_at, at)
            FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[])
                AS fact (wallet, decided_from, at, difference)
            WHERE id = wallet AND version = decided_from AND credits >= difference",
        sqlite: "UPDATE users SET version = version + 1, credits = credits - difference,
                last_instant = max(last_instant, at), updated_at = max(updated_at, at)
            FROM (SELECT value ->> 0 AS wallet, value ->> 1 AS decided_from, value ->> 2 AS at,
                    value ->> 3 AS difference FROM json_each($1)) AS fact
            WHERE id = wallet AND version = decided_from AND credits >= difference",
    };
    let written = connection.execute(sql, &[rows]).await?;
    all_written("wallets", written, writes.len())
}

/// A half of a double entry without the other must not become durable.
fn all_written(what: &str, written: u64, expected: usize) -> Result<(), StoreError> {
    if u64::try_from(expected) == Ok(written) {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "{written} {what} were written instead of {expected}"
    )))
}

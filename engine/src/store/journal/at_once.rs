//! A batch in one statement, for Postgres: a round trip to the server costs as much as the work that it
//! asks for, and a small batch of the general way has nine.
//!
//! The statement locks the lane's row and the users' rows, and writes those facts of which nothing needs
//! to be told but that they are recorded: it finds them as the wallet's decider saw them, under the
//! conditions of [`super::verdict`]. It leaves every other fact alone, without saying why; what becomes
//! of those is for the general way to find out, in a transaction of its own.
//!
//! One snapshot is enough for all of it. Whoever writes to a wallet, or to a session of it, raises the
//! wallet's version; so if the version is the expected one when the user's row is locked, then nothing
//! that the snapshot shows of the wallet has changed since.

use std::collections::HashSet;

use schema::{UnixMillis, session::EndReason};

use super::{
    super::{
        StoreError,
        connection::{Column, Connection, Value},
        runs::lane_number,
        setbacks::{self, Known},
    },
    keys,
};
use crate::{
    facts::{Fact, NodeRun, Recording},
    keys::KEPT_FOR,
};

/// Whether the statement can write the fact: it has room for one key and forgets none.
fn suits(recording: &Recording) -> bool {
    let has_room = recording.keys.is_empty()
        || (recording.keys.len() == 1 && keys::answered(&recording.fact).is_some());
    has_room && recording.forgotten.is_none()
}

/// Writes those of `recordings` that can be written as they are in `lane`, and returns their positions.
/// Fails if the lane's row is older than `known`, and with an outcome that is unknown where the statement
/// has no answer.
pub(in super::super) async fn record(
    connection: &mut Connection,
    run: &NodeRun,
    lane: usize,
    recordings: &[Recording],
    known: &Known,
) -> Result<HashSet<usize>, StoreError> {
    let last_instant = recordings.iter().map(|recording| recording.fact.at()).max();
    let mut users = HashSet::new();
    // Of two facts of one user, the second was decided without knowing of the first.
    let suited = recordings
        .iter()
        .enumerate()
        .filter(|(_, recording)| users.insert(recording.fact.user()) && suits(recording));
    let mut facts: Vec<(usize, &Recording)> = suited.collect();
    // Rows are locked in this order, by every batch.
    facts.sort_unstable_by_key(|(_, recording)| recording.fact.user());
    let values = [
        run.node.as_str().into(),
        run.epoch.into(),
        lane_number(lane).into(),
        last_instant.map_or(0, UnixMillis::get).into(),
        KEPT_FOR.get().into(),
        known.last_instant(lane).get().into(),
        Columns::of(facts.iter().map(|(_, recording)| *recording)).into_value(),
    ];
    let rows = connection.rows(RECORD, &values).await;
    // It commits by itself: an answer that never came may be that it did.
    let rows: Vec<(i64, Option<i64>)> = rows.map_err(StoreError::of_lone_write)?;
    if rows.is_empty() {
        return Err(setbacks::shut_out(connection, run, known).await);
    }
    let written = rows.into_iter().filter_map(|(_, row)| row).map(|row| {
        // The statement numbers from 1 what it is given.
        usize::try_from(row - 1)
            .ok()
            .and_then(|row| facts.get(row))
            .map(|(position, _)| *position)
            .ok_or_else(|| {
                StoreError::Corrupt(format!("a fact that was not given, {row}, was written"))
            })
    });
    written.collect()
}

/// The facts as columns, in the order in which the statement unnests them.
#[derive(Default)]
struct Columns {
    wallet: Vec<i64>,
    decided_from: Vec<i64>,
    session: Vec<i64>,
    at: Vec<i64>,
    // Of an opening alone.
    slot: Vec<Option<i64>>,
    price: Vec<Option<i64>>,
    interval_ms: Vec<Option<i64>>,
    charged_at: Vec<Option<&'static str>>,
    // Of a settlement alone.
    seq: Vec<Option<i64>>,
    total: Vec<Option<i64>>,
    served_ms: Vec<Option<i64>>,
    end_reason: Vec<Option<&'static str>>,
    // Of a fact with a key alone.
    key: Vec<Option<String>>,
    digest: Vec<Option<String>>,
    operation: Vec<Option<&'static str>>,
    asked_at: Vec<i64>,
}

impl Columns {
    fn of<'a>(recordings: impl Iterator<Item = &'a Recording>) -> Self {
        let mut columns = Self::default();
        for recording in recordings {
            columns.add(recording);
        }
        columns
    }

    fn add(&mut self, recording: &Recording) {
        let fact = &recording.fact;
        let (opening, settlement) = match fact {
            Fact::Opening(opening) => (Some(opening), None),
            Fact::Settlement(settlement) => (None, Some(settlement)),
        };
        self.wallet.push(fact.user().get());
        self.decided_from.push(fact.version().get());
        self.session.push(fact.session().get());
        self.at.push(fact.at().get());
        self.slot
            .push(opening.map(|opening| opening.slot.get().into()));
        self.price
            .push(opening.map(|opening| opening.tariff.price().get()));
        self.interval_ms
            .push(opening.map(|opening| opening.tariff.interval().get()));
        self.charged_at
            .push(opening.map(|opening| opening.tariff.charged_at().as_str()));
        self.seq.push(settlement.map(|settlement| settlement.seq));
        self.total
            .push(settlement.map(|settlement| settlement.total.get()));
        self.served_ms
            .push(settlement.map(|settlement| settlement.served.get()));
        let end = settlement.and_then(|settlement| settlement.end);
        self.end_reason.push(end.map(EndReason::as_str));
        let request = recording.keys.first();
        self.key
            .push(request.map(|request| request.key.as_str().to_owned()));
        self.digest
            .push(request.map(|request| request.fingerprint.to_hex()));
        self.operation
            .push(keys::answered(fact).map(|(_, operation)| operation));
        self.asked_at.push(recording.at.get());
    }

    fn into_value(self) -> Value {
        Value::Rows(vec![
            Column::Ints(self.wallet),
            Column::Ints(self.decided_from),
            Column::Ints(self.session),
            Column::Ints(self.at),
            Column::OptionalInts(self.slot),
            Column::OptionalInts(self.price),
            Column::OptionalInts(self.interval_ms),
            Column::Names(self.charged_at),
            Column::OptionalInts(self.seq),
            Column::OptionalInts(self.total),
            Column::OptionalInts(self.served_ms),
            Column::Names(self.end_reason),
            Column::OptionalTexts(self.key),
            Column::OptionalTexts(self.digest),
            Column::Names(self.operation),
            Column::Ints(self.asked_at),
        ])
    }
}

/// The statement. Its parts run in the order in which they read each other.
///
/// - `run` is empty, and so is everything after it, if the run is over, or the lane's row went back.
/// - `fact` adds to each fact the session that is recorded under its id.
/// - `wallet` writes the users' rows, if the facts can be recorded. Each condition stands in
///   [`super::verdict`] too. An opening finds no session under its id, and no live one in its slot; a
///   settlement finds its session as it was decided from.
/// - `opened`, `settled`, `entered` and `kept` write what follows from a wallet's change.
///
/// The division by zero fails the whole statement if a half of what belongs together was not written,
/// which no state of the database should be able to cause.
const RECORD: &str = "
    WITH run AS (
        UPDATE node_lanes SET last_instant = GREATEST(last_instant, $4)
        WHERE node = $1 AND lane = $3 AND epoch = $2 AND last_instant >= $6
        RETURNING epoch
    ),
    wallet AS (
        UPDATE users SET version = version + 1, credits = credits - fact.difference,
            last_instant = GREATEST(last_instant, fact.at), updated_at = GREATEST(updated_at, fact.at)
        FROM run CROSS JOIN LATERAL (
            SELECT given.*, found.*, live, used_at, CASE WHEN given.seq IS NULL THEN 0 ELSE given.total - found.charged END AS difference
            FROM UNNEST($7::BIGINT[], $8::BIGINT[], $9::BIGINT[], $10::BIGINT[], $11::BIGINT[], $12::BIGINT[],
                $13::BIGINT[], $14::TEXT[], $15::BIGINT[], $16::BIGINT[], $17::BIGINT[], $18::TEXT[],
                $19::TEXT[], $20::TEXT[], $21::TEXT[], $22::BIGINT[]) WITH ORDINALITY
                AS given (wallet, decided_from, session, at, slot, price, interval_ms, charged_at,
                    seq, total, served, reason, key, digest, operation, asked_at, position)
            LEFT JOIN LATERAL (
                SELECT user_id AS owner, node AS server, start_time AS begun, end_reason AS ended, credits_consumed AS charged,
                    settled_seq AS seq_before, settled_at AS at_before, served_ms AS served_before
                FROM sessions WHERE id = given.session OFFSET 0
            ) AS found ON TRUE
            LEFT JOIN LATERAL (
                SELECT id AS live FROM sessions
                WHERE user_id = given.wallet AND sessions.slot = given.slot AND end_time IS NULL OFFSET 0
            ) AS taken ON TRUE
            LEFT JOIN LATERAL (
                SELECT used.created_at AS used_at FROM idempotency_keys AS used
                WHERE used.user_id = given.wallet AND used.key = given.key
                    AND used.created_at > given.asked_at - $5 OFFSET 0
            ) AS used ON TRUE
            OFFSET 0
        ) AS fact
        WHERE id = fact.wallet AND version = fact.decided_from
            AND fact.used_at IS NULL
            AND CASE WHEN fact.seq IS NULL THEN
                fact.owner IS NULL AND fact.live IS NULL
            ELSE
                fact.owner = fact.wallet AND fact.server = $1 AND fact.ended IS NULL
                AND fact.seq = fact.seq_before + 1 AND fact.at >= fact.at_before
                AND fact.served BETWEEN fact.served_before AND fact.at - fact.begun
                AND fact.difference BETWEEN 0 AND credits
            END
        RETURNING version AS version_after, credits AS balance_after, fact.*
    ),
    opened AS (
        INSERT INTO sessions (id, user_id, slot, node, start_time, credits_consumed, settled_seq, settled_at,
            served_ms, tariff_credits, tariff_interval_ms, tariff_charged_at, created_at, wallet_version)
        SELECT session, wallet, slot, $1, at, 0, 0, at, 0, price, interval_ms, charged_at, at, version_after
        FROM wallet WHERE seq IS NULL RETURNING id
    ),
    settled AS (
        UPDATE sessions SET credits_consumed = total, settled_seq = seq, settled_at = at, served_ms = served,
            end_reason = reason, end_time = CASE WHEN reason IS NOT NULL THEN at END,
            wallet_version = version_after
        FROM wallet WHERE id = session AND seq IS NOT NULL RETURNING id
    ),
    entered AS (
        INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
            balance_after, created_at)
        SELECT wallet, at, 'usage', wallet, -2, difference, session, version_after, balance_after, at
        FROM wallet WHERE difference > 0 RETURNING id
    ),
    kept AS (
        INSERT INTO idempotency_keys AS old (user_id, key, fingerprint, operation, session_id, final_credits, created_at)
        SELECT wallet, key, decode(digest, 'hex'), operation, session,
            CASE operation WHEN 'stop' THEN balance_after END, asked_at
        FROM wallet WHERE key IS NOT NULL
        ON CONFLICT (user_id, key) DO UPDATE SET fingerprint = excluded.fingerprint,
            operation = excluded.operation, session_id = excluded.session_id,
            final_credits = excluded.final_credits, created_at = excluded.created_at
        WHERE old.created_at <= excluded.created_at - $5 RETURNING key
    ),
    complete AS (
        SELECT 1 / CASE WHEN (SELECT count(*) FROM wallet)
                = (SELECT count(*) FROM opened) + (SELECT count(*) FROM settled)
            AND (SELECT count(*) FROM wallet WHERE difference > 0) = (SELECT count(*) FROM entered)
            AND (SELECT count(key) FROM wallet) = (SELECT count(*) FROM kept) THEN 1 ELSE 0 END AS is_complete
    )
    SELECT is_complete::BIGINT, position FROM run CROSS JOIN complete LEFT JOIN wallet ON TRUE";

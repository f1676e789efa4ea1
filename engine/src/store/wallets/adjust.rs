//! Changing a balance from outside the engine (law 7): by a process that may not be the one that
//! serves the wallet's sessions, and must not take what they have used or hold.

use std::collections::HashMap;

use billing::{Run, Session, Wallet, WalletVersion};
use schema::{Credits, EntryId, UnixMillis, ledger::EntryKind};

use super::{leave_notice, wallet};
use crate::{
    facts::WalletRecord,
    store::{
        AdjustError, Adjusted, Adjustment, StoreError,
        connection::{Connection, Sql, Value},
        runs::{self, RunRow},
    },
};

/// The house's account that credits are issued from and taken back to.
const ISSUANCE: i64 = -1;
/// The house's account that takes in what is used.
const REVENUE: i64 = -2;

/// An adjustment in the database.
#[derive(sqlx::FromRow)]
struct RepeatRow {
    id: i64,
    at: i64,
    kind: String,
    amount: i64,
    balance_after: i64,
}

/// Changes a balance, and leaves a notice for the wallet's owner.
pub(in crate::store) async fn adjust(
    connection: &mut Connection,
    adjustment: Adjustment,
) -> Result<Adjusted, AdjustError> {
    let (house, is_incoming) = direction(adjustment.kind).ok_or(AdjustError::OutOfRange)?;
    if adjustment.amount.get() == 0 || (adjustment.amount.get() > 0) != is_incoming {
        return Err(AdjustError::OutOfRange);
    }
    lock_user(connection, &adjustment).await?;
    if let Some(repeat) = repeat(connection, &adjustment).await? {
        return repeat;
    }
    let Some(wallet) = wallet(connection, adjustment.user, WalletVersion::new(i64::MAX)).await?
    else {
        return Err(AdjustError::UserUnknown);
    };
    let runs = runs_of(connection, &wallet).await?;
    let at = instant(&adjustment, &wallet, &runs);
    let balance_after = wallet
        .credits
        .checked_change(adjustment.amount)
        .ok_or(AdjustError::OutOfRange)?;
    if !is_incoming
        && free(&wallet, &runs, at)
            .checked_change(adjustment.amount)
            .is_none()
    {
        return Err(AdjustError::OutOfRange);
    }

    connection
        .execute(
            "UPDATE users SET credits = $2, version = version + 1, last_instant = $3,
                updated_at = CASE WHEN updated_at < $3 THEN $3 ELSE updated_at END
             WHERE id = $1",
            &[
                adjustment.user.get().into(),
                balance_after.get().into(),
                at.get().into(),
            ],
        )
        .await?;
    let wallet_account = adjustment.user.get();
    let (from, to) = if is_incoming {
        (house, wallet_account)
    } else {
        (wallet_account, house)
    };
    let values: [Value; 11] = [
        adjustment.user.get().into(),
        at.get().into(),
        adjustment.kind.as_str().into(),
        from.into(),
        to.into(),
        adjustment.amount.get().abs().into(),
        wallet.version.next().get().into(),
        balance_after.get().into(),
        adjustment.reason.as_str().into(),
        adjustment.operator.as_str().into(),
        adjustment.idempotency_key.as_str().into(),
    ];
    let entry: Option<(i64,)> = connection
        .row(
            "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, wallet_version, balance_after,
                reason, operator, idempotency_key, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $2) RETURNING id",
            &values,
        )
        .await?;
    let (entry,) =
        entry.ok_or_else(|| StoreError::Corrupt("a ledger entry was not written".to_owned()))?;
    leave_notice(connection, adjustment.user, adjustment.at).await?;
    let entry = EntryId::new(entry).map_err(StoreError::from)?;
    Ok(Adjusted {
        entry,
        at,
        balance_after,
        is_repeat: false,
    })
}

/// The house's account that an entry of this kind moves from or to, and whether the wallet gains; or
/// nothing where an operator can't make such an entry.
const fn direction(kind: EntryKind) -> Option<(i64, bool)> {
    match kind {
        EntryKind::SignupGrant | EntryKind::Grant => Some((ISSUANCE, true)),
        EntryKind::Refund => Some((REVENUE, true)),
        EntryKind::Revoke => Some((ISSUANCE, false)),
        _ => None,
    }
}

async fn lock_user(
    connection: &mut Connection,
    adjustment: &Adjustment,
) -> Result<(), AdjustError> {
    let sql = Sql {
        postgres: "SELECT id FROM users WHERE id = $1 FOR UPDATE",
        sqlite: "SELECT id FROM users WHERE id = $1",
    };
    let locked: Option<(i64,)> = connection.row(sql, &[adjustment.user.get().into()]).await?;
    locked.map(drop).ok_or(AdjustError::UserUnknown)
}

/// What was made under the adjustment's key before, if anything was.
async fn repeat(
    connection: &mut Connection,
    adjustment: &Adjustment,
) -> Result<Option<Result<Adjusted, AdjustError>>, StoreError> {
    let row: Option<RepeatRow> = connection
        .row(
            "SELECT id, at, kind, CASE WHEN to_account = user_id THEN amount ELSE -amount END AS amount, balance_after
             FROM ledger WHERE user_id = $1 AND idempotency_key = $2",
            &[adjustment.user.get().into(), adjustment.idempotency_key.as_str().into()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.kind != adjustment.kind.as_str() || row.amount != adjustment.amount.get() {
        return Ok(Some(Err(AdjustError::KeyConflict)));
    }
    Ok(Some(Ok(Adjusted {
        entry: EntryId::new(row.id)?,
        at: UnixMillis::new(row.at)?,
        balance_after: Credits::new(row.balance_after)?,
        is_repeat: true,
    })))
}

/// The runs, in order, of each node that serves the wallet.
async fn runs_of(
    connection: &mut Connection,
    wallet: &WalletRecord,
) -> Result<HashMap<String, Vec<Run>>, StoreError> {
    let mut runs: HashMap<String, Vec<Run>> = HashMap::new();
    for session in &wallet.live {
        let node = &session.node;
        if !runs.contains_key(node.as_str()) {
            let all = runs::all(connection, node).await?;
            let all = all.iter().map(RunRow::run).collect::<Result<_, _>>()?;
            runs.insert(node.as_str().to_owned(), all);
        }
    }
    Ok(runs)
}

/// The instant from which the adjustment counts: none that a node which serves the wallet has passed.
fn instant(
    adjustment: &Adjustment,
    wallet: &WalletRecord,
    runs: &HashMap<String, Vec<Run>>,
) -> UnixMillis {
    let alive_at = runs.values().flatten().map(|run| run.to);
    alive_at.fold(adjustment.at.max(wallet.last_instant), UnixMillis::max)
}

/// What the wallet has at `at` that its sessions have neither used nor hold, if they run on until
/// then.
fn free(record: &WalletRecord, runs: &HashMap<String, Vec<Run>>, at: UnixMillis) -> Credits {
    let mut sessions: Vec<Session> = Vec::with_capacity(record.live.len());
    for (node, runs) in runs {
        let recorded = record.live.iter().filter(|live| live.node.as_str() == node);
        let recorded: Vec<_> = recorded.map(|live| live.session.clone()).collect();
        let mut runs = runs.clone();
        if let Some(current) = runs.last_mut() {
            current.to = UnixMillis::MAX;
        }
        let (user, version, credits) = (record.user, record.version, record.credits);
        let wallet = Wallet::recovered(user, version, credits, &recorded, &runs);
        sessions.extend(wallet.sessions());
    }
    let (user, version, credits) = (record.user, record.version, record.credits);
    let mut wallet = Wallet::new(user, version, credits, UnixMillis::EPOCH, sessions);
    wallet.advance(at);
    wallet.free()
}

//! Changing a balance from outside the engine (law 7): by a process that may not be the one that
//! serves the wallet's sessions, and must not take what they have used or hold.

use std::collections::HashMap;

use billing::{Run, Session, Wallet, WalletVersion};
use schema::{Credits, CreditsChange, EntryId, SessionId, UnixMillis, UserId, ledger::EntryKind};

use super::{leave_notice, wallet};
use crate::{
    facts::WalletRecord,
    store::{
        AdjustError, Adjusted, Adjustment, Shortfall, Standing, StoreError,
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
    session_id: Option<i64>,
    balance_after: i64,
}

/// Changes a balance, and leaves a notice for the wallet's owner.
pub(in crate::store) async fn adjust(
    connection: &mut Connection,
    adjustment: Adjustment,
) -> Result<Adjusted, AdjustError> {
    let house = house_account(&adjustment).ok_or(AdjustError::Nonsense)?;
    lock_user(connection, &adjustment).await?;
    if let Some(repeat) = repeat(connection, &adjustment).await? {
        return repeat;
    }
    let Some(wallet) = wallet(connection, adjustment.user).await? else {
        return Err(AdjustError::UserUnknown);
    };
    let runs = runs_of(connection, &wallet).await?;
    let at = instant(connection, adjustment.at, &wallet, &runs).await?;
    let amount = match adjustment.kind {
        EntryKind::Revoke => {
            let standing = standing(wallet.clone(), &runs, at)?;
            takeable(&adjustment, standing.free)?
        }
        EntryKind::Refund => {
            refuse_beyond_cost(connection, &adjustment).await?;
            adjustment.amount
        }
        _ => adjustment.amount,
    };
    let balance = wallet.credits;
    let balance_after = balance
        .checked_change(amount)
        .ok_or(AdjustError::MoreThanFits { balance })?;

    connection
        .execute(
            "UPDATE users SET credits = $2, version = version + 1,
                last_instant = CASE WHEN last_instant < $3 THEN $3 ELSE last_instant END,
                updated_at = CASE WHEN updated_at < $3 THEN $3 ELSE updated_at END
             WHERE id = $1",
            &[
                adjustment.user.get().into(),
                balance_after.get().into(),
                at.get().into(),
            ],
        )
        .await?;
    let version = wallet.version.next();
    let entry = insert_entry(
        connection,
        &adjustment,
        house,
        amount,
        at,
        (version, balance_after),
    )
    .await?;
    leave_notice(connection, adjustment.user, adjustment.at).await?;
    Ok(Adjusted {
        entry,
        at,
        amount,
        balance_after,
        is_repeat: false,
    })
}

/// The user's wallet as it stands at what the node of its live session has proved, else at `now`.
pub(in crate::store) async fn standing_of(
    connection: &mut Connection,
    user: UserId,
    now: UnixMillis,
) -> Result<Option<Standing>, StoreError> {
    let Some(wallet) = wallet(connection, user).await? else {
        return Ok(None);
    };
    let runs = runs_of(connection, &wallet).await?;
    let at = proved_by(&runs).unwrap_or(now);
    standing(wallet, &runs, at).map(Some)
}

/// The house's account that the adjustment moves from or to; nothing where no operator can make it.
fn house_account(adjustment: &Adjustment) -> Option<i64> {
    let amount = adjustment.amount.get();
    let (house, is_incoming) = match adjustment.kind {
        EntryKind::SignupGrant | EntryKind::Grant => (ISSUANCE, true),
        EntryKind::Refund => (REVENUE, true),
        EntryKind::Revoke => (ISSUANCE, false),
        _ => return None,
    };
    let is_for_session = adjustment.kind == EntryKind::Refund;
    let makes_sense = amount != 0
        && (amount > 0) == is_incoming
        && adjustment.session.is_some() == is_for_session;
    makes_sense.then_some(house)
}

/// What a revoke takes where `free` credits are free.
fn takeable(adjustment: &Adjustment, free: Credits) -> Result<CreditsChange, AdjustError> {
    let is_enough = free.checked_change(adjustment.amount).is_some();
    match adjustment.shortfall {
        _ if is_enough => Ok(adjustment.amount),
        Shortfall::TakeWhatIsFree if !free.is_zero() => Ok(CreditsChange::outgoing(free)),
        Shortfall::TakeWhatIsFree | Shortfall::Refuse => Err(AdjustError::MoreThanFree { free }),
    }
}

/// Refuses a refund of a session that isn't the user's, and one by which all its refunds would
/// exceed what it has cost. Two refunds at once are of one user, whose lock the caller holds.
async fn refuse_beyond_cost(
    connection: &mut Connection,
    adjustment: &Adjustment,
) -> Result<(), AdjustError> {
    let session = adjustment.session.map(SessionId::get);
    let spent: Option<(i64,)> = connection
        .row(
            "SELECT credits_consumed FROM sessions WHERE id = $1 AND user_id = $2",
            &[session.into(), adjustment.user.get().into()],
        )
        .await?;
    let (spent,) = spent.ok_or(AdjustError::SessionUnknown)?;
    let refunded: Option<(i64,)> = connection
        .row(
            "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM ledger
             WHERE user_id = $2 AND session_id = $1 AND kind = 'refund'",
            &[session.into(), adjustment.user.get().into()],
        )
        .await?;
    let (refunded,) = refunded.ok_or_else(|| StoreError::Corrupt("a sum is missing".to_owned()))?;
    let refunded = Credits::new(refunded).map_err(StoreError::from)?;
    let spent = Credits::new(spent).map_err(StoreError::from)?;
    refunded
        .checked_change(adjustment.amount)
        .filter(|sum| *sum <= spent)
        .map(drop)
        .ok_or(AdjustError::MoreThanSpent { spent, refunded })
}

async fn insert_entry(
    connection: &mut Connection,
    adjustment: &Adjustment,
    house: i64,
    amount: CreditsChange,
    at: UnixMillis,
    (version, balance_after): (WalletVersion, Credits),
) -> Result<EntryId, StoreError> {
    let wallet_account = adjustment.user.get();
    let (from, to) = if amount.get() > 0 {
        (house, wallet_account)
    } else {
        (wallet_account, house)
    };
    let values: [Value; 13] = [
        adjustment.user.get().into(),
        at.get().into(),
        adjustment.kind.as_str().into(),
        from.into(),
        to.into(),
        amount.get().abs().into(),
        adjustment.session.map(SessionId::get).into(),
        version.get().into(),
        balance_after.get().into(),
        adjustment.reason.as_str().into(),
        adjustment.operator.as_str().into(),
        adjustment.idempotency_key.as_str().into(),
        adjustment.at.get().into(),
    ];
    let entry: Option<(i64,)> = connection
        .row(
            "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, session_id, wallet_version,
                balance_after, reason, operator, idempotency_key, created_at, recorded_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $2, $13) RETURNING id",
            &values,
        )
        .await?;
    let (entry,) =
        entry.ok_or_else(|| StoreError::Corrupt("a ledger entry was not written".to_owned()))?;
    Ok(EntryId::new(entry)?)
}

async fn lock_user(
    connection: &mut Connection,
    adjustment: &Adjustment,
) -> Result<(), AdjustError> {
    let sql = Sql {
        postgres: "SELECT id FROM users WHERE id = $1 AND erased_at IS NULL FOR UPDATE",
        sqlite: "SELECT id FROM users WHERE id = $1 AND erased_at IS NULL",
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
            "SELECT id, at, kind, CASE WHEN to_account = user_id THEN amount ELSE -amount END AS amount, session_id,
                balance_after
             FROM ledger WHERE user_id = $1 AND idempotency_key = $2",
            &[adjustment.user.get().into(), adjustment.idempotency_key.as_str().into()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let asked = adjustment.amount.get();
    let is_same_amount = row.amount == asked
        || (adjustment.shortfall == Shortfall::TakeWhatIsFree && row.amount > asked);
    let is_same = row.kind == adjustment.kind.as_str()
        && row.session_id == adjustment.session.map(SessionId::get)
        && is_same_amount;
    if !is_same {
        return Ok(Some(Err(AdjustError::KeyConflict)));
    }
    Ok(Some(Ok(Adjusted {
        entry: EntryId::new(row.id)?,
        at: UnixMillis::new(row.at)?,
        amount: CreditsChange::try_from(row.amount)?,
        balance_after: Credits::new(row.balance_after)?,
        is_repeat: true,
    })))
}

/// A node that serves a wallet, as its runs tell.
struct Serving {
    /// Its runs, in order.
    runs: Vec<Run>,
    /// The latest instant that they prove.
    proved: UnixMillis,
}

/// The nodes that serve the wallet, by name.
async fn runs_of(
    connection: &mut Connection,
    wallet: &WalletRecord,
) -> Result<HashMap<String, Serving>, StoreError> {
    let mut serving: HashMap<String, Serving> = HashMap::new();
    for session in &wallet.live {
        let node = &session.node;
        if serving.contains_key(node.as_str()) {
            continue;
        }
        // In this order: a run that begins in between counts from after what is proved by now.
        let recorded = runs::node_time(connection, node).await?;
        let runs = runs::since(connection, node, UnixMillis::EPOCH).await?;
        let runs = runs.iter().map(RunRow::run).collect::<Result<_, _>>()?;
        let recorded = recorded.ok_or_else(|| {
            let (node, session) = (node.as_str(), session.session.id);
            StoreError::Corrupt(format!(
                "node {node} serves session {session} and never ran"
            ))
        })?;
        let proved = recorded.latest;
        serving.insert(node.as_str().to_owned(), Serving { runs, proved });
    }
    Ok(serving)
}

/// The latest instant that the nodes which serve a wallet have proved; `None` if no node serves it.
fn proved_by(serving: &HashMap<String, Serving>) -> Option<UnixMillis> {
    serving.values().map(|node| node.proved).max()
}

/// The instant from which counts what a writer does at `now` by its own clock.
///
/// Where a node serves the wallet that is the latest instant that the node has proved: whatever the
/// writer's clock says, no session is charged for time that its node has not told of, and nothing that
/// was recorded is decided anew. Else it only places the entry among the wallet's others, since no
/// session's cost follows from it.
async fn instant(
    connection: &mut Connection,
    now: UnixMillis,
    wallet: &WalletRecord,
    serving: &HashMap<String, Serving>,
) -> Result<UnixMillis, StoreError> {
    if let Some(proved) = proved_by(serving) {
        return Ok(proved);
    }
    let proved = runs::proved(connection).await?.unwrap_or(UnixMillis::EPOCH);
    Ok(now.max(wallet.last_instant).min(proved))
}

/// The wallet as it stands at `at`, if its sessions run on until then.
fn standing(
    record: WalletRecord,
    serving: &HashMap<String, Serving>,
    at: UnixMillis,
) -> Result<Standing, StoreError> {
    let mut sessions: Vec<Session> = Vec::with_capacity(record.live.len());
    let (user, version, credits) = (record.user, record.version, record.credits);
    for (node, Serving { runs, .. }) in serving {
        let recorded = record.live.iter().filter(|live| live.node.as_str() == node);
        let recorded: Vec<_> = recorded.map(|live| live.session.clone()).collect();
        let mut runs = runs.clone();
        if let Some(current) = runs.last_mut() {
            current.to = UnixMillis::MAX;
        }
        let changes = &record.since_checkpoints;
        let wallet = Wallet::recovered(user, version, credits, &recorded, changes, &runs, at);
        sessions.extend(wallet.sessions());
    }
    let mut wallet = Wallet::new(user, version, credits, UnixMillis::EPOCH, sessions);
    wallet.advance(at);
    let mut consumed = Vec::with_capacity(wallet.sessions().len());
    for session in wallet.sessions() {
        let charge = session.charge(at).ok_or_else(|| {
            let id = session.id;
            StoreError::Corrupt(format!("session {id} has cost more than a wallet can hold"))
        })?;
        consumed.push((session.id, charge));
    }
    Ok(Standing {
        at,
        balance: wallet.balance(),
        free: wallet.free(),
        consumed,
        record,
    })
}

//! Erasing users: the person goes, and the wallet's row and history stay, since the ledger refers to them.
//!
//! What is left of the credits goes back where it came from, as one more ledger entry. So the wallet
//! is empty, and a start that was on its way meanwhile finds nothing to begin with.

use schema::{Credits, CreditsChange, UnixMillis, UserId, ledger::EntryKind};

use super::{
    AdjustError, Adjustment, EraseError, Erasure, Shortfall, StoreError, TokenGeneration,
    connection::{Connection, Sql},
    runs,
    wallets::{adjust, leave_notice},
};

/// The key of the ledger entry that an erasure makes. There is one at most.
const KEY: &str = "minute-credit erasure";

/// Lets no session of the user start any more, and has those end that are live; or lets them again.
pub(super) async fn set_closing(
    connection: &mut Connection,
    user: UserId,
    since: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<bool, StoreError> {
    let since = match since {
        Some(since) => Some(runs::within_proved(connection, since).await?),
        None => None,
    };
    let changed = connection
        .execute(
            "UPDATE users SET closing_at = $2 WHERE id = $1 AND erased_at IS NULL",
            &[user.get().into(), since.map(UnixMillis::get).into()],
        )
        .await?;
    if changed == 0 {
        return Ok(false);
    }
    leave_notice(connection, user, now).await?;
    Ok(true)
}

/// Erases a user who has no live session.
pub(super) async fn erase(connection: &mut Connection, erasure: Erasure) -> Result<(), EraseError> {
    let user = erasure.user;
    let sql = Sql {
        postgres: "SELECT credits, token_generation, erased_at IS NOT NULL FROM users WHERE id = $1 FOR UPDATE",
        sqlite: "SELECT credits, token_generation, erased_at IS NOT NULL FROM users WHERE id = $1",
    };
    let row: Option<(i64, i64, bool)> = connection.row(sql, &[user.get().into()]).await?;
    let (credits, generation, is_erased) = row.ok_or(EraseError::UserUnknown)?;
    if is_erased {
        return Ok(());
    }
    let generation = TokenGeneration::new(generation);
    if erasure
        .decided_in
        .is_some_and(|decided_in| decided_in != generation)
    {
        return Err(EraseError::Changed);
    }
    let sql = "SELECT id FROM sessions WHERE user_id = $1 AND end_time IS NULL LIMIT 1";
    let live: Option<(i64,)> = connection.row(sql, &[user.get().into()]).await?;
    if live.is_some() {
        return Err(EraseError::SessionLive);
    }
    let credits = Credits::new(credits).map_err(StoreError::from)?;
    if !credits.is_zero() {
        take_back(connection, &erasure, credits).await?;
    }
    let at = runs::within_proved(connection, erasure.at).await?;
    connection
        .execute(
            "UPDATE users SET email = 'erased-' || id, password = NULL, kept_token = NULL,
                token_generation = token_generation + 1, closing_at = COALESCE(closing_at, $2), erased_at = $2,
                updated_at = CASE WHEN updated_at < $2 THEN $2 ELSE updated_at END
             WHERE id = $1",
            &[user.get().into(), at.get().into()],
        )
        .await?;
    for sql in [
        "DELETE FROM idempotency_keys WHERE user_id = $1",
        "DELETE FROM revoked_tokens WHERE user_id = $1",
    ] {
        connection.execute(sql, &[user.get().into()]).await?;
    }
    Ok(leave_notice(connection, user, at).await?)
}

async fn take_back(
    connection: &mut Connection,
    erasure: &Erasure,
    credits: Credits,
) -> Result<(), EraseError> {
    let adjustment = Adjustment {
        user: erasure.user,
        kind: EntryKind::Revoke,
        amount: CreditsChange::outgoing(credits),
        session: None,
        shortfall: Shortfall::Refuse,
        at: erasure.at,
        reason: "the account was erased".to_owned(),
        operator: erasure.operator.clone(),
        idempotency_key: KEY.to_owned(),
    };
    match adjust(connection, adjustment).await {
        Ok(_) => Ok(()),
        Err(AdjustError::Store(error)) => Err(error.into()),
        Err(refused) => Err(StoreError::Corrupt(format!(
            "the credits of user {} could not be taken back: {refused}",
            erasure.user
        ))
        .into()),
    }
}

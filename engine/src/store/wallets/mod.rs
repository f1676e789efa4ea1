//! Wallets as recorded: read by sessions and by recovery, and changed from outside by operators.

mod adjust;
mod read;

pub(super) use adjust::{adjust, standing_of};
pub(super) use read::{at_first_sight, balances, live_wallets, wallets};

use read::wallet;

use schema::{UnixMillis, UserId};

use super::{Notice, StoreError, connection::Connection, runs};

/// Up to `limit` notices after the one numbered `after`.
pub(super) async fn notices(
    connection: &mut Connection,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<Notice>, StoreError> {
    let rows: Vec<(i64, i64)> = connection
        .rows(
            "SELECT id, user_id FROM wallet_notices WHERE id > $1 ORDER BY id LIMIT $2",
            &[after.unwrap_or(0).into(), limit.into()],
        )
        .await?;
    rows.into_iter()
        .map(|(id, user)| {
            Ok(Notice {
                id,
                user: UserId::new(user)?,
            })
        })
        .collect()
}

/// The newest notice's number. It is never forgotten: only older ones are purged.
pub(super) async fn latest_notice(connection: &mut Connection) -> Result<i64, StoreError> {
    let row: Option<(Option<i64>,)> = connection
        .row("SELECT max(id) FROM wallet_notices", &[])
        .await?;
    Ok(row.and_then(|(id,)| id).unwrap_or(0))
}

/// Leaves word that the user's row was written, at an instant at which the nodes may not have forgotten
/// it, however far ahead the clock of the writer is.
pub(super) async fn leave_notice(
    connection: &mut Connection,
    user: UserId,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let now = runs::within_proved(connection, now).await?;
    connection
        .execute(
            "INSERT INTO wallet_notices (user_id, created_at) VALUES ($1, $2)",
            &[user.get().into(), now.get().into()],
        )
        .await
        .map(drop)
}

//! Passwords, and which tokens are valid.
//!
//! Every change leaves a notice: each process remembers which tokens of a user are valid.

use std::collections::{HashMap, hash_map::Entry};

use schema::{UnixMillis, UserId};

use super::{
    AccountKey, NewPassword, RevokedToken, StoreError, TokenGeneration, TokenStanding,
    connection::{Connection, Sql, Value},
    runs,
    wallets::leave_notice,
};

/// Sets the user's password hash, and voids all tokens but the one to be kept.
pub(super) async fn set_password(
    connection: &mut Connection,
    password: NewPassword,
) -> Result<bool, StoreError> {
    let user = password.user;
    let at = runs::within_proved(connection, password.at).await?;
    let values: [Value; 5] = [
        user.get().into(),
        password.hash.into(),
        password.kept_token.into(),
        at.get().into(),
        password.decided_in.map(TokenGeneration::get).into(),
    ];
    let changed = connection
        .execute(
            "UPDATE users SET password = $2, token_generation = token_generation + 1, kept_token = $3,
                updated_at = CASE WHEN updated_at < $4 THEN $4 ELSE updated_at END
             WHERE id = $1 AND erased_at IS NULL AND token_generation = COALESCE($5, token_generation)",
            &values,
        )
        .await?;
    noticed(connection, user, at, changed).await
}

/// Voids all tokens of the user.
pub(super) async fn void(
    connection: &mut Connection,
    user: UserId,
    now: UnixMillis,
) -> Result<bool, StoreError> {
    let now = runs::within_proved(connection, now).await?;
    let changed = connection
        .execute(
            "UPDATE users SET token_generation = token_generation + 1, kept_token = NULL,
                updated_at = CASE WHEN updated_at < $2 THEN $2 ELSE updated_at END
             WHERE id = $1 AND erased_at IS NULL",
            &[user.get().into(), now.get().into()],
        )
        .await?;
    noticed(connection, user, now, changed).await
}

/// Leaves a notice if a row was changed, and tells whether one was.
async fn noticed(
    connection: &mut Connection,
    user: UserId,
    now: UnixMillis,
    changed: u64,
) -> Result<bool, StoreError> {
    if changed == 0 {
        return Ok(false);
    }
    leave_notice(connection, user, now).await?;
    Ok(true)
}

/// Revokes a token of the user.
pub(super) async fn revoke(
    connection: &mut Connection,
    user: UserId,
    token: RevokedToken,
    now: UnixMillis,
) -> Result<(), StoreError> {
    connection
        .execute(
            "INSERT INTO revoked_tokens (token_id, expires_at, user_id) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
            &[
                token.token_id.into(),
                token.expires_at.get().into(),
                user.get().into(),
            ],
        )
        .await?;
    leave_notice(connection, user, now).await
}

/// Whether the token was revoked.
pub(super) async fn is_revoked(
    connection: &mut Connection,
    token_id: String,
) -> Result<bool, StoreError> {
    let sql = "SELECT expires_at FROM revoked_tokens WHERE token_id = $1";
    let row: Option<(i64,)> = connection.row(sql, &[token_id.into()]).await?;
    Ok(row.is_some())
}

/// A user's tokens in the database, once for each that is revoked.
#[derive(sqlx::FromRow)]
struct StandingRow {
    id: i64,
    token_generation: i64,
    kept_token: Option<String>,
    account_key: String,
    created_at: i64,
    token_id: Option<String>,
    expires_at: Option<i64>,
}

/// Which tokens of each of these users are valid, in their order.
pub(super) async fn standings(
    connection: &mut Connection,
    users: Vec<UserId>,
    now: UnixMillis,
) -> Result<Vec<Option<TokenStanding>>, StoreError> {
    let ids = Value::Ints(users.iter().map(|user| user.get()).collect());
    // Tokens without a user were revoked before it was noted whose they are.
    let sql = Sql {
        postgres: "SELECT owner.*, revoked.token_id, revoked.expires_at
            FROM (SELECT DISTINCT UNNEST($1::BIGINT[]) AS asked) AS asked
            CROSS JOIN LATERAL (
                SELECT id, token_generation, kept_token, account_key, created_at FROM users
                WHERE id = asked AND erased_at IS NULL OFFSET 0
            ) AS owner
            LEFT JOIN LATERAL (
                SELECT token_id, expires_at FROM revoked_tokens WHERE user_id = asked AND expires_at > $2
                UNION ALL
                SELECT token_id, expires_at FROM revoked_tokens WHERE user_id IS NULL AND expires_at > $2
                OFFSET 0
            ) AS revoked ON TRUE
            ORDER BY revoked.token_id",
        sqlite: "SELECT id, token_generation, kept_token, account_key, created_at, token_id, expires_at
            FROM users LEFT JOIN revoked_tokens
                ON (revoked_tokens.user_id = users.id OR revoked_tokens.user_id IS NULL) AND expires_at > $2
            WHERE id IN (SELECT value FROM json_each($1)) AND erased_at IS NULL
            ORDER BY token_id",
    };
    let rows: Vec<StandingRow> = connection.rows(sql, &[ids, now.get().into()]).await?;
    let mut standings: HashMap<i64, TokenStanding> = HashMap::new();
    for row in rows {
        let standing = match standings.entry(row.id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(TokenStanding {
                generation: TokenGeneration::new(row.token_generation),
                kept: row.kept_token,
                revoked: Vec::new(),
                account_key: AccountKey::read(&row.account_key)?,
                created_at: UnixMillis::new(row.created_at)?,
            }),
        };
        if let (Some(token_id), Some(expires_at)) = (row.token_id, row.expires_at) {
            standing.revoked.push(RevokedToken {
                token_id,
                expires_at: UnixMillis::new(expires_at)?,
            });
        }
    }
    let standing_of = |user: UserId| standings.get(&user.get()).cloned();
    Ok(users.into_iter().map(standing_of).collect())
}

/// Deletes up to `limit` revoked tokens that expired at `expired_at` or before.
pub(super) async fn purge_revoked(
    connection: &mut Connection,
    expired_at: UnixMillis,
    limit: u32,
) -> Result<u64, StoreError> {
    let sql = Sql {
        postgres: "DELETE FROM revoked_tokens WHERE token_id IN
            (SELECT token_id FROM revoked_tokens WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2
             FOR UPDATE SKIP LOCKED)",
        sqlite: "DELETE FROM revoked_tokens WHERE token_id IN
            (SELECT token_id FROM revoked_tokens WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)",
    };
    connection
        .execute(sql, &[expired_at.get().into(), limit.into()])
        .await
}

//! Users: their accounts. Passwords and tokens are in `tokens`.
//!
//! Two emails are the same if they differ in the case of ASCII letters only, in both databases alike.

use schema::{Credits, UnixMillis, UserId};

use super::{
    AccountKey, CreateUserError, NewUser, StoreError, TokenGeneration, UserRecord,
    connection::{Connection, Sql, Value},
    runs,
};

/// How many fixture users one transaction makes at most, so that each ends well within a call's time.
pub(super) const FIXTURE_BATCH_MAX: u32 = 5_000;

/// A user in the database.
#[derive(sqlx::FromRow)]
struct UserRow {
    id: i64,
    email: String,
    password: Option<String>,
    credits: i64,
    created_at: i64,
    token_generation: i64,
    account_key: String,
}

/// Creates a user with the signup grant as a ledger entry.
pub(super) async fn create(
    connection: &mut Connection,
    user: NewUser,
) -> Result<UserRecord, CreateUserError> {
    let signup = Signup::at(connection, user.created_at).await?;
    let account_key = AccountKey::random();
    let values: [Value; 6] = [
        user.email.as_str().into(),
        user.password_hash.clone().into(),
        user.grant.get().into(),
        signup.created.get().into(),
        signup.granted.get().into(),
        account_key.to_string().into(),
    ];
    // Only the email's index says that somebody has it.
    let sql = Sql {
        postgres: "INSERT INTO users (email, password, credits, version, created_at, updated_at, last_instant,
                account_key)
             VALUES ($1, $2, $3, CASE WHEN $3 > 0 THEN 1 ELSE 0 END, $4, $4, $5, $6)
             ON CONFLICT (lower(email COLLATE \"C\")) DO NOTHING RETURNING id",
        sqlite: "INSERT INTO users (email, password, credits, version, created_at, updated_at, last_instant,
                account_key)
             VALUES ($1, $2, $3, CASE WHEN $3 > 0 THEN 1 ELSE 0 END, $4, $4, $5, $6)
             ON CONFLICT (lower(email)) DO NOTHING RETURNING id",
    };
    let row: Option<(i64,)> = connection.row(sql, &values).await?;
    let Some((id,)) = row else {
        return Err(CreateUserError::EmailTaken);
    };
    grant_signup(connection, &[id], user.grant, &signup).await?;
    Ok(UserRecord {
        id: UserId::new(id).map_err(StoreError::from)?,
        email: user.email,
        password_hash: user.password_hash,
        credits: user.grant,
        created_at: signup.created,
        token_generation: TokenGeneration::default(),
        account_key,
    })
}

/// Creates `count` users without a password, with fresh emails.
pub(super) async fn create_fixtures(
    connection: &mut Connection,
    count: u32,
    grant: Credits,
    now: UnixMillis,
) -> Result<Vec<UserId>, StoreError> {
    let random = Sql {
        postgres: "SELECT gen_random_uuid()::TEXT",
        sqlite: "SELECT lower(hex(randomblob(16)))",
    };
    let (random,): (String,) = connection
        .row(random, &[])
        .await?
        .ok_or_else(|| StoreError::Corrupt("no random text was given".to_owned()))?;
    let signup = Signup::at(connection, now).await?;
    let values: [Value; 5] = [
        random.into(),
        count.into(),
        grant.get().into(),
        signup.created.get().into(),
        signup.granted.get().into(),
    ];
    let sql = Sql {
        postgres: "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $2)
             INSERT INTO users (email, credits, version, created_at, updated_at, last_instant, account_key)
             SELECT 'fixture-' || $1 || '-' || n || '@example.invalid', $3, CASE WHEN $3 > 0 THEN 1 ELSE 0 END,
                $4, $4, $5, md5(gen_random_uuid()::TEXT || gen_random_uuid()::TEXT) FROM numbers
             RETURNING id",
        sqlite: "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $2)
             INSERT INTO users (email, credits, version, created_at, updated_at, last_instant, account_key)
             SELECT 'fixture-' || $1 || '-' || n || '@example.invalid', $3, CASE WHEN $3 > 0 THEN 1 ELSE 0 END,
                $4, $4, $5, lower(hex(randomblob(16))) FROM numbers
             RETURNING id",
    };
    let rows: Vec<(i64,)> = connection.rows(sql, &values).await?;
    let mut ids: Vec<i64> = rows.into_iter().map(|(id,)| id).collect();
    ids.sort_unstable();
    grant_signup(connection, &ids, grant, &signup).await?;
    ids.into_iter().map(|id| Ok(UserId::new(id)?)).collect()
}

/// When a user is created.
struct Signup {
    /// What the creator's clock says, for people to read.
    told: UnixMillis,
    /// The same, but no later than what a run has proved, once there was one.
    created: UnixMillis,
    /// From when the first credits count: no later than what a run has proved. Before the first run
    /// nothing is.
    granted: UnixMillis,
}

impl Signup {
    async fn at(connection: &mut Connection, now: UnixMillis) -> Result<Self, StoreError> {
        let proved = runs::proved(connection).await?;
        Ok(Self {
            told: now,
            created: proved.map_or(now, |proved| now.min(proved)),
            granted: now.min(proved.unwrap_or(UnixMillis::EPOCH)),
        })
    }
}

/// Writes the ledger entries of the credits that these new users were created with.
async fn grant_signup(
    connection: &mut Connection,
    users: &[i64],
    grant: Credits,
    signup: &Signup,
) -> Result<(), StoreError> {
    if grant.is_zero() {
        return Ok(());
    }
    let sql = Sql {
        postgres: "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, wallet_version,
                balance_after, idempotency_key, created_at, recorded_at)
            SELECT id, $3, 'signup_grant', -1, id, $2, 1, $2, 'signup', $3, $4
            FROM UNNEST($1::BIGINT[]) AS new_user (id)",
        sqlite: "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount, wallet_version,
                balance_after, idempotency_key, created_at, recorded_at)
            SELECT value, $3, 'signup_grant', -1, value, $2, 1, $2, 'signup', $3, $4 FROM json_each($1)",
    };
    connection
        .execute(
            sql,
            &[
                Value::Ints(users.to_vec()),
                grant.get().into(),
                signup.granted.get().into(),
                signup.told.get().into(),
            ],
        )
        .await?;
    Ok(())
}

/// The user with this email.
pub(super) async fn by_email(
    connection: &mut Connection,
    email: String,
) -> Result<Option<UserRecord>, StoreError> {
    let sql = Sql {
        postgres: "SELECT id, email, password, credits, created_at, token_generation, account_key FROM users
            WHERE lower(email COLLATE \"C\") = lower($1 COLLATE \"C\") AND erased_at IS NULL",
        sqlite: "SELECT id, email, password, credits, created_at, token_generation, account_key FROM users
            WHERE lower(email) = lower($1) AND erased_at IS NULL",
    };
    connection
        .row::<UserRow>(sql, &[email.into()])
        .await?
        .map(UserRow::into_record)
        .transpose()
}

/// The user with this id.
pub(super) async fn by_id(
    connection: &mut Connection,
    user: UserId,
) -> Result<Option<UserRecord>, StoreError> {
    let sql =
        "SELECT id, email, password, credits, created_at, token_generation, account_key FROM users
        WHERE id = $1 AND erased_at IS NULL";
    connection
        .row::<UserRow>(sql, &[user.get().into()])
        .await?
        .map(UserRow::into_record)
        .transpose()
}

/// How many users there are, with those who were erased.
pub(super) async fn count(connection: &mut Connection) -> Result<u64, StoreError> {
    let row: Option<(i64,)> = connection.row("SELECT count(*) FROM users", &[]).await?;
    let (count,) = row.ok_or_else(|| StoreError::Corrupt("users can't be counted".to_owned()))?;
    u64::try_from(count).map_err(|_| StoreError::Corrupt(format!("there are {count} users")))
}

/// Up to `limit` users with ids after `after`, in order.
pub(super) async fn page(
    connection: &mut Connection,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<UserRecord>, StoreError> {
    let sql =
        "SELECT id, email, password, credits, created_at, token_generation, account_key FROM users
        WHERE id > $1 AND erased_at IS NULL ORDER BY id LIMIT $2";
    let rows: Vec<UserRow> = connection
        .rows(sql, &[after.map_or(0, UserId::get).into(), limit.into()])
        .await?;
    rows.into_iter().map(UserRow::into_record).collect()
}

/// Up to `limit` users with ids after `after`, in order, whose email begins with `prefix`.
pub(super) async fn find(
    connection: &mut Connection,
    prefix: String,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<UserRecord>, StoreError> {
    // Compared and not matched, so that every sign means itself, and by the index of emails.
    let sql = Sql {
        postgres: "SELECT id, email, password, credits, created_at, token_generation, account_key FROM users
            WHERE lower(email COLLATE \"C\") >= lower($3 COLLATE \"C\")
                AND lower(email COLLATE \"C\") <= lower($3 COLLATE \"C\") || chr(1114111)
                AND id > $1 AND erased_at IS NULL ORDER BY id LIMIT $2",
        sqlite: "SELECT id, email, password, credits, created_at, token_generation, account_key FROM users
            WHERE lower(email) >= lower($3) AND lower(email) <= lower($3) || char(1114111)
                AND id > $1 AND erased_at IS NULL ORDER BY id LIMIT $2",
    };
    let values: [Value; 3] = [
        after.map_or(0, UserId::get).into(),
        limit.into(),
        prefix.into(),
    ];
    let rows: Vec<UserRow> = connection.rows(sql, &values).await?;
    rows.into_iter().map(UserRow::into_record).collect()
}

impl UserRow {
    fn into_record(self) -> Result<UserRecord, StoreError> {
        Ok(UserRecord {
            id: UserId::new(self.id)?,
            email: self.email,
            password_hash: self.password,
            credits: Credits::new(self.credits)?,
            created_at: UnixMillis::new(self.created_at)?,
            token_generation: TokenGeneration::new(self.token_generation),
            account_key: AccountKey::read(&self.account_key)?,
        })
    }
}

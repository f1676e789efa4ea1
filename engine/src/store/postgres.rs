//! Postgres: how to connect to it, and how to tell what its errors mean.

mod address;
mod servers;

pub use self::address::{InvalidAddress, PostgresAddress};
pub(super) use self::servers::{Lease, PostgresPool};

use std::{sync::Arc, time::Duration};

use sqlx::{Connection as _, Row as _, migrate::Migration, postgres::PgConnection};
use tokio::time::timeout;

use self::servers::Servers;
use super::{StoreError, StoreSettings, errors::Blame, migrations};

/// The migrations, oldest first. One that was released is never changed.
pub(super) fn own_migrations() -> Vec<Migration> {
    vec![
        migrations::simple(
            1,
            "wallets, sessions, ledger",
            include_str!("../../../schema/migrations/postgres/0001_wallets_sessions_ledger.sql"),
        ),
        migrations::simple(
            2,
            "runs in place",
            include_str!("../../../schema/migrations/postgres/0002_runs_in_place.sql"),
        ),
        migrations::simple(
            3,
            "idempotency keys",
            include_str!("../../../schema/migrations/postgres/0003_idempotency_keys.sql"),
        ),
        migrations::simple(
            4,
            "tokens erasure retention",
            include_str!("../../../schema/migrations/postgres/0004_tokens_erasure_retention.sql"),
        ),
        migrations::simple(
            5,
            "retention",
            include_str!("../../../schema/migrations/postgres/0005_retention.sql"),
        ),
        migrations::simple(
            6,
            "clocks",
            include_str!("../../../schema/migrations/postgres/0006_clocks.sql"),
        ),
        migrations::simple(
            7,
            "setbacks",
            include_str!("../../../schema/migrations/postgres/0007_setbacks.sql"),
        ),
        migrations::simple(
            8,
            "plans",
            include_str!("../../../schema/migrations/postgres/0008_plans.sql"),
        ),
        migrations::simple(
            9,
            "lanes",
            include_str!("../../../schema/migrations/postgres/0009_lanes.sql"),
        ),
    ]
}

/// The oldest release of Postgres that this program is made for.
const VERSION_MIN: i32 = 14;

/// How often two connections are compared to find out whether they share their server processes.
const POOLER_ROUNDS: usize = 8;

/// Checks whether the server will do, brings the schema up to date, and opens the pool.
pub(super) async fn open(
    address: &str,
    settings: &StoreSettings,
) -> Result<PostgresPool, StoreError> {
    let address = PostgresAddress::parse(address)?;
    let servers = Arc::new(Servers::new(&address, settings.connect_timeout));
    let mut connection = servers.connect_in_order().await?;
    // A server may fall silent right after it was reached, and no statement ends by itself.
    let patience = settings.call_timeout.max(settings.connect_timeout);
    let checks = async {
        check_fitness(&mut connection).await?;
        refuse_shared_sessions(&mut connection, &servers).await?;
        is_up_to_date(&mut connection).await
    };
    let checked = timeout(patience, checks).await;
    if !checked.map_err(|_| StoreError::TimedOut(patience))?? {
        tracing::info!("bringing the database's schema up to date, once no other process does");
        migrate(&mut connection).await?;
    }
    connection.close().await?;

    PostgresPool::new(servers, settings.connections_max, settings.call_timeout)
}

/// Refuses a database that would not keep every text, and a server that is too old.
async fn check_fitness(connection: &mut PgConnection) -> Result<(), StoreError> {
    let sql = "SELECT current_setting('server_encoding'), current_setting('server_version_num'),
                current_setting('server_version')";
    let row = sqlx::raw_sql(sql).fetch_one(&mut *connection).await?;
    let (encoding, number): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let version: String = row.try_get(2)?;
    if encoding != "UTF8" {
        return Err(StoreError::Unfit(format!(
            "its encoding is {encoding}, and must be UTF8: make another one with \
             CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move the data there"
        )));
    }
    let is_new_enough = number
        .parse::<i32>()
        .is_ok_and(|number| number >= VERSION_MIN * 10_000);
    if !is_new_enough {
        return Err(StoreError::Unfit(format!(
            "its server is Postgres {version}, and must be {VERSION_MIN} or newer"
        )));
    }
    Ok(())
}

/// Refuses a pooler that gives a connection another server process for each transaction, before
/// anything is left in one of them: settings, prepared statements and locks of ours would be others'.
///
/// Two connections of such a pooler are seen to use the same process while neither is in a
/// transaction, or one of them to use two in turn. Of any other kind, each has a process of its own.
async fn refuse_shared_sessions(
    connection: &mut PgConnection,
    servers: &Servers,
) -> Result<(), StoreError> {
    // A server that has room for one connection only can't be compared, nor share.
    let Ok(mut other) = servers.connect_again().await else {
        return Ok(());
    };
    let (own, mut others) = (process_of(connection).await?, None);
    for _ in 0..POOLER_ROUNDS {
        let Ok(other) = timeout(servers.patience(), process_of(&mut other)).await else {
            return Ok(());
        };
        let (other, again) = (other?, process_of(connection).await?);
        if other == own || again != own || others.is_some_and(|before| before != other) {
            return Err(StoreError::Unfit(
                "it is reached through a pooler that shares connections between transactions, such as \
                 PgBouncer with pool_mode = transaction: set pool_mode = session there, or go to \
                 Postgres itself"
                    .to_owned(),
            ));
        }
        others = Some(other);
    }
    // It has served its purpose.
    let _ = other.close().await;
    Ok(())
}

/// The server process that a statement runs in just now. The simple protocol leaves nothing in it.
async fn process_of(connection: &mut PgConnection) -> Result<String, StoreError> {
    let sql = "SELECT pg_backend_pid()::TEXT";
    let row = sqlx::raw_sql(sql).fetch_one(&mut *connection).await?;
    Ok(row.try_get(0)?)
}

/// Whether the database has tables of ours.
pub(super) async fn exists(address: &str, settings: &StoreSettings) -> Result<bool, StoreError> {
    let address = PostgresAddress::parse(address)?;
    let servers = Servers::new(&address, settings.connect_timeout);
    let mut connection = servers.connect_in_order().await?;
    // A pooler may hand the connection on, so the statement gets no name.
    let sql = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    let exists = sqlx::query_scalar(sql)
        .persistent(false)
        .fetch_one(&mut connection);
    let exists = timeout(settings.call_timeout, exists).await;
    let exists = exists.map_err(|_| StoreError::TimedOut(settings.call_timeout))??;
    connection.close().await?;
    Ok(exists)
}

/// Lets the server give up what we have given up: a statement that takes too long, and a transaction
/// whose process was suspended or has lost its network. Its locks would keep others from taking over.
///
/// And has it look for rows by index only, as every statement of ours can but the audits': left to
/// itself it would walk through tables that were nearly empty when it made its plan. A batch of a
/// thousand settlements then took over 5 s. An index is followed in its order, so that a page ends with its
/// last row: a bitmap would be made of all that there are. For the same reason a lookup of many sessions is a
/// lateral subquery with an `OFFSET 0`, which it has to run once for each. So a plan needs to know nothing
/// of the values either, and is made once: making one takes longer than running it.
///
/// Tells whether the server takes writes.
async fn limit(connection: &mut PgConnection, call_timeout: Duration) -> Result<bool, sqlx::Error> {
    let row = sqlx::query(
        "SELECT set_config('statement_timeout', $1, FALSE),
                set_config('idle_in_transaction_session_timeout', $1, FALSE),
                set_config('enable_seqscan', 'off', FALSE), set_config('enable_hashjoin', 'off', FALSE),
                set_config('enable_mergejoin', 'off', FALSE), set_config('enable_bitmapscan', 'off', FALSE),
                set_config('jit', 'off', FALSE),
                set_config('random_page_cost', '1.1', FALSE),
                set_config('plan_cache_mode', 'force_generic_plan', FALSE), current_setting('transaction_read_only') = 'off'",
    )
    .bind(call_timeout.as_millis().to_string())
    .fetch_one(connection)
    .await?;
    row.try_get(row.len() - 1)
}

/// Whether the database can be written to, and there is nothing to migrate.
async fn is_up_to_date(connection: &mut PgConnection) -> Result<bool, StoreError> {
    // `to_regclass` would be told the same in the transaction that migrates, whoever does so meanwhile.
    let sql = "SELECT current_setting('transaction_read_only') = 'off' AND EXISTS
                (SELECT FROM pg_class WHERE relname = '_sqlx_migrations' AND pg_table_is_visible(oid))";
    if !sqlx::query_scalar(sql).fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    let sql = "SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version";
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(sql).fetch_all(&mut *connection).await?;
    let own = own_migrations();
    Ok(applied.len() == own.len()
        && own.iter().zip(&applied).all(|(own, (version, checksum))| {
            own.version == *version && *own.checksum == checksum[..]
        }))
}

/// One transaction around the lock, the check and the migrations: two processes don't both migrate, and
/// whatever happens, the lock goes with the transaction.
async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    let mut migrator = migrations::migrator(own_migrations());
    migrator.set_locking(false);
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql("SELECT pg_advisory_xact_lock(hashtextextended('minute-credit migrations', 0))")
        .execute(&mut *transaction)
        .await?;
    let (has_migrations, has_tables): (bool, bool) = sqlx::query_as(
        "SELECT to_regclass('_sqlx_migrations') IS NOT NULL,
                to_regclass('users') IS NOT NULL OR to_regclass('sessions') IS NOT NULL
                OR to_regclass('ledger') IS NOT NULL",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !has_migrations && has_tables {
        return Err(migrations::not_ours());
    }
    migrator
        .run_direct(None, &mut *transaction, false)
        .await
        .map_err(|error| migrations::explain(error, &migrator))?;
    Ok(transaction.commit().await?)
}

/// The SQLSTATE of a statement that took longer than `statement_timeout`, or that an operator ended.
pub(super) const QUERY_CANCELED: &str = "57014";

/// What an error of this SQLSTATE is about.
/// See <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn blame(sqlstate: &str) -> Blame {
    if sqlstate.len() != 5 {
        return Blame::Database;
    }
    match (sqlstate.get(..2), sqlstate) {
        // Data that a column or a function can't take, and broken constraints.
        (Some("22" | "23"), _) => Blame::Call,
        // Serialization failure, deadlock.
        (_, "40001" | "40P01") => Blame::Conflict,
        // Broken connections, a connection in another state than it should be in or to a server that
        // takes no writes any more, and a server that starts or stops.
        (Some("08" | "25"), _) | (_, "57P01" | "57P02" | "57P03" | "57P04" | "57P05") => {
            Blame::Connection
        }
        _ => Blame::Database,
    }
}

/// The primary keys whose values the database gives by itself, from a sequence.
const GIVEN_KEYS: [&str; 3] = ["users_pkey", "ledger_pkey", "wallet_notices_pkey"];

/// The key of which a sequence gave a value that is in use, if that is what the error says.
pub(super) fn repeated_key(error: &sqlx::Error) -> Option<&'static str> {
    let refusal = error.as_database_error()?;
    let constraint = refusal
        .constraint()
        .filter(|_| refusal.is_unique_violation())?;
    GIVEN_KEYS.into_iter().find(|key| *key == constraint)
}

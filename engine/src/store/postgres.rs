//! Postgres: how to connect to it, and how to tell what its errors mean.

use std::str::FromStr;

use sqlx::{
    Connection as _, PgPool,
    migrate::Migration,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions},
};

use super::{StoreError, StoreSettings, migrations};

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
    ]
}

/// Brings the schema up to date, and opens the pool.
pub(super) async fn open(address: &str, settings: &StoreSettings) -> Result<PgPool, StoreError> {
    let options = PgConnectOptions::from_str(address)?.application_name("minute-credit");
    let connecting = tokio::time::timeout(
        settings.connect_timeout,
        PgConnection::connect_with(&options),
    );
    let mut connection = connecting
        .await
        .map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))??;
    // The migrator keeps its advisory lock when it fails: the lock goes with the connection.
    migrate(&mut connection).await?;
    connection.close().await?;

    let patience_ms = settings.call_timeout.as_millis().to_string();
    Ok(PgPoolOptions::new()
        .max_connections(settings.connections_max.max(1))
        .acquire_timeout(settings.connect_timeout)
        .after_connect(move |connection, _| {
            let patience_ms = patience_ms.clone();
            Box::pin(async move { limit(connection, &patience_ms).await })
        })
        .connect_lazy_with(options))
}

/// Whether the database has tables of ours.
pub(super) async fn exists(address: &str, settings: &StoreSettings) -> Result<bool, StoreError> {
    let options = PgConnectOptions::from_str(address)?.application_name("minute-credit");
    let connecting = tokio::time::timeout(
        settings.connect_timeout,
        PgConnection::connect_with(&options),
    );
    let mut connection = connecting
        .await
        .map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))??;
    let exists = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(exists)
}

/// Lets the server give up what we have given up: a statement that takes too long, and a transaction
/// whose process was suspended or has lost its network. Its locks would keep others from taking over.
///
/// And has it look for rows by index only, as every statement of ours can but the audits': left to
/// itself it would walk through tables that were nearly empty when it made its plan. A batch of a
/// thousand settlements then took over 5 s. For the same reason a lookup of many sessions is a
/// lateral subquery with an `OFFSET 0`, which it has to run once for each.
async fn limit(connection: &mut PgConnection, patience_ms: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT set_config('statement_timeout', $1, FALSE),
                set_config('idle_in_transaction_session_timeout', $1, FALSE),
                set_config('enable_seqscan', 'off', FALSE), set_config('enable_hashjoin', 'off', FALSE),
                set_config('enable_mergejoin', 'off', FALSE), set_config('jit', 'off', FALSE),
                set_config('random_page_cost', '1.1', FALSE)",
    )
    .bind(patience_ms)
    .execute(connection)
    .await?;
    Ok(())
}

async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    let migrator = migrations::migrator(own_migrations());
    let (has_migrations, has_tables): (bool, bool) = sqlx::query_as(
        "SELECT to_regclass('_sqlx_migrations') IS NOT NULL,
                to_regclass('users') IS NOT NULL OR to_regclass('sessions') IS NOT NULL
                OR to_regclass('ledger') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !has_migrations && has_tables {
        return Err(migrations::not_ours());
    }
    migrator
        .run_direct(None, connection, false)
        .await
        .map_err(|error| migrations::explain(error, &migrator))
}

/// Whether an error of this SQLSTATE can pass by itself: broken connections, conflicts between
/// transactions, a server that starts, stops, is full or takes no writes just now.
/// See <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn is_passing(sqlstate: &str) -> bool {
    let class = sqlstate.get(..2).unwrap_or_default();
    matches!(class, "08" | "40" | "53" | "58")
        || matches!(
            sqlstate,
            "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "25P03" | "25P04" | "55P03"
        )
}

//! Real runs whose data is tampered with before the audit: it must see it.
//!
//! They need the server's program beside this crate's own, as `cargo build --workspace` leaves it.

#![allow(
    clippy::unwrap_used,
    reason = "this is a test, in which any surprise is a failure"
)]

use std::path::Path;

use clap::Parser;
use crash::{checker::Kind, options::Options, run, setup::Data};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

/// A short run. With the server down, `sql` is run on its data, and must change as many rows.
async fn run(changes: u64, sql: &str) -> Vec<Kind> {
    let program = Path::new(env!("CARGO_BIN_EXE_crash")).with_file_name("minute-credit");
    assert!(
        program.exists(),
        "these tests run minute-credit: cargo build --package gateway first"
    );
    let options = Options::parse_from([
        "crash",
        "--program",
        program.to_str().unwrap(),
        "--rounds=2",
        "--users=4",
        "--round-ms=500",
        "--suspend-every=0",
        "--seed=1",
    ]);
    let tamper = async |data: &Data| {
        let Data::Sqlite(file) = data else {
            anyhow::bail!("this is not SQLite");
        };
        // Whoever tampers doesn't mind the schema.
        let file = SqliteConnectOptions::new()
            .filename(file)
            .foreign_keys(false);
        let mut database = SqliteConnection::connect_with(&file).await?;
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut database)
            .await?;
        assert_eq!(done.rows_affected(), changes, "{sql}");
        database.close().await?;
        Ok(())
    };
    let outcome = run::run(&options, tamper).await.unwrap();
    if let Some(kept) = outcome.kept {
        std::fs::remove_dir_all(kept).unwrap();
    }
    let violations = outcome.report.verdict.violations.iter();
    violations.map(|violation| violation.kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn untouched_data_passes() {
    let violations = run(0, "").await;
    assert!(violations.is_empty(), "{violations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_vanished_is_lost() {
    let sql = "DELETE FROM sessions WHERE id = (SELECT max(id) FROM sessions)";
    let violations = run(1, sql).await;
    assert!(violations.contains(&Kind::Lost), "{violations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_moved_is_lost() {
    let sql = "UPDATE sessions SET end_time = end_time + 1, settled_at = settled_at + 1
               WHERE id = (SELECT max(id) FROM sessions)";
    let violations = run(1, sql).await;
    assert!(violations.contains(&Kind::Lost), "{violations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_rose_is_an_overcharge() {
    let sql = "UPDATE sessions SET credits_consumed = credits_consumed + 1
               WHERE id = (SELECT max(id) FROM sessions)";
    let violations = run(1, sql).await;
    assert!(violations.contains(&Kind::Overcharged), "{violations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_nobody_made_is_doubled() {
    let sql = "INSERT INTO ledger (user_id, at, kind, from_account, to_account, amount,
                   wallet_version, balance_after, reason, operator, idempotency_key, created_at)
               SELECT user_id, at, 'grant', -1, user_id, 5,
                   wallet_version + 1000000, balance_after + 5, 'twice', 'x', 'x', created_at
               FROM ledger WHERE id = (SELECT max(id) FROM ledger);";
    let violations = run(1, sql).await;
    assert!(violations.contains(&Kind::Doubled), "{violations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_rose_does_not_add_up() {
    let sql = "UPDATE users SET credits = credits + 1 WHERE id = (SELECT max(id) FROM users)";
    let violations = run(1, sql).await;
    assert!(violations.contains(&Kind::Unbalanced), "{violations:?}");
}

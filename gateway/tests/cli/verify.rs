//! `minute-credit verify`, and what it repairs.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::program::Program;

/// Runs SQL on the program's database, as another hand would.
fn execute(program: &Program, sql: &str) {
    let options = SqliteConnectOptions::new()
        .filename(program.dir().join("data/minute-credit.db"))
        .foreign_keys(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
}

/// What makes the trigger that refuses changes of the ledger, as it stands in the migration.
fn trigger() -> &'static str {
    let migration =
        include_str!("../../../schema/migrations/sqlite/0001_wallets_sessions_ledger.sql");
    let begin = migration
        .find("CREATE TRIGGER ledger_refuses_update")
        .unwrap();
    let end = "END;";
    let length = migration[begin..].find(end).unwrap() + end.len();
    &migration[begin..begin + length]
}

#[test]
fn wrong_caches_are_named_and_mended() {
    let program = Program::new();
    let fixture = ["fixture", "--users", "5", "--credits", "7", "--tokens", "t"];
    program.run(&fixture).ok();
    let out = program.run(&["verify"]).ok();
    assert!(
        out.contains("credits: 35 issued, 0 revoked, 0 used, 0 refunded, 35 in wallets"),
        "{out}"
    );
    execute(&program, "UPDATE users SET credits = 9 WHERE id IN (2, 4)");

    let verify = |arguments: &[&str], code: i32, words: &[&str]| {
        let left = program.run(&[&["verify"], arguments].concat());
        assert_eq!(left.code, Some(code), "{left:?}");
        for word in words {
            assert!(left.out.contains(word), "{word}: {left:?}");
        }
    };
    let wrong = [
        "law 5, users 2: the balance is 9, and the ledger's sum 7",
        "law 5, users 4: the balance is 9, and the ledger's sum 7",
        "not verified: 5 users, 0 sessions, 5 ledger entries, 2 violations",
    ];
    verify(&[], 1, &wrong);
    let listed = [
        "user 4: the balance can be set from 9 to 7",
        "2 users can be repaired: do it with --repair --yes",
    ];
    verify(&["--repair"], 1, &listed);
    verify(&[], 1, &wrong);

    // What no cache explains is left as it is, and the exit code says so.
    execute(
        &program,
        "DROP TRIGGER ledger_refuses_update; PRAGMA ignore_check_constraints = ON;
         UPDATE ledger SET amount = 8 WHERE user_id = 4",
    );
    let mended = [
        "user 2: the balance was set from 9 to 7",
        "user 4: left alone, its rows contradict each other: entry 4 leaves a balance of 7, not 8",
        "auditing again",
        "law 5, ledger trigger ledger_refuses_update: it is missing",
        "3 violations",
    ];
    verify(&["--repair", "--yes"], 1, &mended);
    execute(
        &program,
        &format!(
            "UPDATE ledger SET amount = 7 WHERE user_id = 4; {}",
            trigger()
        ),
    );
    let mended = ["user 4: the balance was set from 9 to 7", "no violation"];
    verify(&["--repair", "--yes"], 0, &mended);
    verify(&["--repair", "--yes"], 0, &["no violation"]);
    program.run(&["verify", "--yes"]).fails_usage();
}

/// A server that has read a wallet is told when it is repaired.
#[test]
fn a_repaired_balance_is_what_the_server_goes_by() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    execute(&program, "UPDATE users SET credits = 5");
    serving.ask("POST", "/api/sessions/start", &token, "");
    let left = program.run(&["verify", "--repair", "--yes"]);
    assert_eq!(left.code, Some(1));
    assert!(
        left.out.contains("user 1: left alone, session 1 is live"),
        "{left:?}"
    );
    serving.ask("POST", "/api/sessions/stop", &token, "");
    program.run(&["verify", "--repair", "--yes"]).ok();
    let credits = serving.ask("GET", "/api/sessions/credits", &token, "");
    assert!(credits.contains(r#""credits":100"#), "{credits}");
    let started = serving.ask("POST", "/api/sessions/start", &token, "");
    assert!(started.contains("sessionId"), "{started}");
    let stopped = serving.ask("POST", "/api/sessions/stop", &token, "");
    assert!(stopped.contains(r#""finalCredits":100"#), "{stopped}");
    program.run(&["verify"]).ok();
}

//! A database that is not what it was: it lacks what it had acknowledged, or its file is gone.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::program::Program;

async fn execute(program: &Program, sql: &str) {
    let options = SqliteConnectOptions::new()
        .filename(program.dir().join("data/minute-credit.db"))
        .foreign_keys(false);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_database_that_went_back_is_left_alone_until_it_was_restored() {
    let program = Program::new();
    let serving = program.serve();
    serving.sign_up("ada@example.com");
    // As on a standby that lacks the last minute.
    execute(
        &program,
        "UPDATE node_runs SET alive_at = alive_at - 60000, started_at = started_at - 60000",
    )
    .await;
    let (code, log) = serving.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("older than what it had acknowledged"), "{log}");
    assert!(log.contains("minute-credit restored"), "{log}");

    let again = program.run(&["serve"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("minute-credit restored"), "{again:?}");
    program.run(&["restored"]).ok();
    let serving = program.serve();
    assert!(serving.ask("GET", "/readyz", "", "").contains("ready"));
}

#[tokio::test]
async fn a_run_that_is_not_there_any_more_is_a_database_that_went_back() {
    let program = Program::new();
    let serving = program.serve();
    execute(&program, "DELETE FROM node_runs").await;
    let (code, log) = serving.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("older than what it had acknowledged"), "{log}");
}

#[test]
fn a_file_that_was_deleted_makes_the_server_unready() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    std::fs::remove_file(program.dir().join("data/minute-credit.db")).unwrap();
    while !serving.ask("GET", "/readyz", "", "").contains(" 503 ") {
        std::thread::sleep(Duration::from_millis(50));
    }
    let start = serving.ask("POST", "/api/sessions/start", &token, "");
    assert!(start.contains(" 503 "), "{start}");
    let body = r#"{"email":"eve@example.com","password":"correct horse"}"#;
    let sign_up = serving.ask("POST", "/api/auth/signup", "", body);
    assert!(
        sign_up.contains(" 503 ") && sign_up.contains("retry-after"),
        "{sign_up}"
    );
}

/// The id of a user who was lost is given again: the lost one's token opens nothing.
#[tokio::test]
async fn a_token_of_a_lost_user_opens_no_other_account() {
    let program = Program::new();
    let serve = || {
        let mut command = program.command(&["serve"]);
        command.env("MINUTE_CREDIT__SIGNUP__CREDITS", "0");
        crate::program::Serving::start(command)
    };
    let serving = serve();
    let lost = serving.sign_up("ada@example.com");
    let me = serving.ask("GET", "/api/auth/me", &lost, "");
    assert!(me.contains(r#""id":1,"#), "{me}");
    drop(serving);
    execute(&program, "DELETE FROM users; DELETE FROM sqlite_sequence").await;
    let serving = serve();
    let next = serving.sign_up("eve@example.com");
    let me = serving.ask("GET", "/api/auth/me", &next, "");
    assert!(
        me.contains(r#""id":1,"#) && me.contains("eve@example.com"),
        "{me}"
    );
    let me = serving.ask("GET", "/api/auth/me", &lost, "");
    assert!(
        me.contains(" 401 ") && !me.contains("eve@example.com"),
        "{me}"
    );
}

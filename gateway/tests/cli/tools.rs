//! `migrate`, `verify`, `fixture`, `user` and `credits`.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::program::Program;

#[test]
fn tools_need_a_database() {
    let program = Program::new();
    for arguments in [
        &["verify"][..],
        &["user", "list"],
        &["user", "set-password", "a@b.c"],
        &["credits", "grant", "a@b.c", "5", "--reason", "x"],
    ] {
        program.run(arguments).fails(
            1,
            &["there is no database at data/minute-credit.db", "migrate"],
        );
    }
    assert!(program.run(&["migrate"]).ok().contains("up to date"));
    assert!(program.run(&["migrate"]).ok().contains("up to date"));
    assert!(program.run(&["verify"]).ok().contains("verified: 0 users"));
}

#[test]
fn fixture_users_can_be_used() {
    let program = Program::new();
    let out = program
        .run(&[
            "fixture",
            "--users",
            "1001",
            "--credits",
            "7",
            "--tokens",
            "tokens.txt",
        ])
        .ok();
    assert!(
        out.contains("created 1001 users with 7 credits each"),
        "{out}"
    );
    let file = program.dir().join("tokens.txt");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let tokens = fs::read_to_string(&file).unwrap();
    assert_eq!(tokens.lines().count(), 1_001);
    assert!(
        program
            .run(&["verify"])
            .ok()
            .contains("verified: 1001 users, 0 sessions")
    );

    let serving = program.serve();
    for token in [
        tokens.lines().next().unwrap(),
        tokens.lines().last().unwrap(),
    ] {
        assert!(
            serving
                .ask("GET", "/api/sessions/credits", token, "")
                .contains(r#""credits":7"#)
        );
    }
    program
        .run(&["fixture", "--users", "0", "--credits", "7", "--tokens", "x"])
        .fails_usage();
    program
        .run(&[
            "fixture",
            "--users",
            "1",
            "--credits",
            "-7",
            "--tokens",
            "x",
        ])
        .fails_usage();
    program
        .run(&[
            "fixture",
            "--users",
            "1",
            "--credits",
            "7",
            "--tokens",
            "no/such/x",
        ])
        .fails(1, &["no/such/x"]);
}

#[test]
fn fixture_sessions_live_on_in_a_server() {
    let program = Program::new();
    let fixture = |credits: &'static str| {
        let users = ["fixture", "--users", "50", "--tokens", "tokens.txt"];
        let live = ["--live-spread-ms", "100", "--credits", credits];
        program.run(&[&users[..], &live].concat())
    };
    fixture("0").fails(1, &["0 credits pay for no interval"]);
    let out = fixture("7").ok();
    assert!(out.contains("each has a live session"), "{out}");
    let audited = program.run(&["verify"]).ok();
    assert!(audited.contains("50 users, 50 sessions"), "{audited}");

    let tokens = fs::read_to_string(program.dir().join("tokens.txt")).unwrap();
    let starts: Vec<i64> = {
        let serving = program.serve();
        let start_of = |token| {
            let answer = serving.ask("GET", "/api/sessions/active", token, "");
            let (_, start) = answer.split_once(r#""startedAt":"#).unwrap();
            start.split(',').next().unwrap().parse().unwrap()
        };
        let starts = tokens.lines().map(start_of).collect();
        let first = tokens.lines().next().unwrap();
        let stopped = serving.ask("POST", "/api/sessions/stop", first, "");
        assert!(stopped.contains(r#""finalCredits":7"#), "{stopped}");
        starts
    };
    let expected: Vec<i64> = (0..50).map(|number| starts[0] + number * 2).collect();
    assert_eq!(starts, expected);
    program.run(&["verify"]).ok();
}

#[test]
fn a_fixture_can_have_a_past() {
    let program = Program::new();
    let fixture = |users: &'static str, more: &[&'static str]| {
        let usual = ["fixture", "--tokens", "tokens.txt", "--credits", "50"];
        program.run(&[&usual[..], &["--users", users], more].concat())
    };
    fixture("5", &["--history", "0"]).fails_usage();
    let out = fixture("300", &["--history", "3000", "--live-spread-ms", "100"]).ok();
    assert!(out.contains("created 300 users with 50 credits"), "{out}");
    assert!(out.contains("their past has 3000 sessions"), "{out}");
    assert!(out.contains("each has a live session"), "{out}");
    let audited = program.run(&["verify"]).ok();
    assert!(
        audited.contains("verified: 300 users, 3300 sessions"),
        "{audited}"
    );
    assert!(audited.contains("15000 in wallets"), "{audited}");
    fixture("5", &["--history", "5"]).fails(
        1,
        &["--history wants an unused database", "node main has run"],
    );
    // Others may come all the same.
    fixture("5", &[]).ok();

    let first = fs::read_to_string(program.dir().join("tokens.txt")).unwrap();
    let serving = program.serve();
    let token = first.lines().next().unwrap();
    let start = serving.ask("POST", "/api/sessions/start", token, "");
    assert!(start.contains(r#""startedAt":"#), "{start}");
    drop(serving);
    program.run(&["verify"]).ok();
}

#[test]
fn a_past_is_not_for_a_database_of_real_users() {
    let program = Program::new();
    let serving = program.serve();
    let account = r#"{"email":"ada@example.com","password":"correct horse battery"}"#;
    serving.ask("POST", "/api/auth/signup", "", account);
    drop(serving);
    let words = "fixture --users 5 --credits 5 --tokens t --history 5";
    let words: Vec<&str> = words.split(' ').collect();
    program
        .run(&words)
        .fails(1, &["--history wants an unused database"]);
    let audited = program.run(&["verify"]).ok();
    assert!(audited.contains("0 sessions"), "{audited}");
}

#[test]
fn credits_are_granted_once_for_each_key() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    let grant = [
        "credits",
        "grant",
        "ADA@example.com",
        "50",
        "--reason",
        "case 17",
        "--key",
        "case-17",
    ];
    let first = program.run(&grant).ok();
    assert!(
        first.contains("50 credits to ada@example.com: granted"),
        "{first}"
    );
    assert!(
        first.contains("key case-17") && first.contains("balance 150"),
        "{first}"
    );
    let again = program.run(&grant).ok();
    assert!(
        again.contains("nothing changed") && again.contains("balance 150"),
        "{again}"
    );
    let other = [
        "credits",
        "grant",
        "ada@example.com",
        "51",
        "--reason",
        "case 17",
        "--key",
        "case-17",
    ];
    program
        .run(&other)
        .fails(1, &["no credits were granted", "idempotency key"]);
    let unkeyed = program
        .run(&["credits", "grant", "ada@example.com", "1", "--reason", "x"])
        .ok();
    assert!(
        unkeyed.contains("balance 151") && unkeyed.contains("key cli-"),
        "{unkeyed}"
    );
    program
        .run(&["credits", "grant", "bob@example.com", "1", "--reason", "x"])
        .fails(1, &["bob@example.com"]);

    assert!(
        serving
            .ask("GET", "/api/auth/me", &token, "")
            .contains(r#""credits":151"#)
    );
    assert!(
        program
            .run(&["verify"])
            .ok()
            .contains("verified: 1 users, 0 sessions, 3 ledger entries")
    );
}

#[test]
fn a_password_is_set_from_standard_input() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    let listed = program.run(&["user", "list"]).ok();
    assert!(listed.contains("\tada@example.com\t100\t20"), "{listed}");

    let set = ["user", "set-password", "ada@example.com"];
    program
        .run_with_input(&set, "short\n")
        .fails(1, &["at least 8 characters"]);
    program
        .run_with_input(
            &["user", "set-password", "bob@example.com"],
            "long enough\n",
        )
        .fails(1, &["bob@example.com"]);
    assert!(
        program
            .run_with_input(&set, "a new password\n")
            .ok()
            .contains("is set")
    );

    let log_in = |password: &str| {
        let body = format!(r#"{{"email":"ada@example.com","password":"{password}"}}"#);
        serving.ask("POST", "/api/auth/login", "", &body)
    };
    assert!(log_in("correct horse").starts_with("HTTP/1.1 401 "));
    assert!(log_in("a new password").starts_with("HTTP/1.1 200 "));
    while serving
        .ask("GET", "/api/auth/me", &token, "")
        .starts_with("HTTP/1.1 200 ")
    {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_user_is_erased_by_email_or_id() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    let started = serving.ask("POST", "/api/sessions/start", &token, "");
    assert!(started.starts_with("HTTP/1.1 200 "), "{started}");

    let erase = |user: &str| program.run(&["user", "erase", user, "--yes"]);
    erase("bob@example.com").fails(1, &["bob@example.com"]);
    erase("77").fails(1, &["no user 77"]);
    erase("-1").fails_usage();
    let unasked = program.run(&["user", "erase", "ada@example.com"]);
    unasked.fails(1, &["no terminal", "--yes"]);
    let me = serving.ask("GET", "/api/auth/me", &token, "");
    assert!(me.starts_with("HTTP/1.1 200 "), "{me}");

    // The server ends the session, since its user goes.
    assert_eq!(
        erase("ADA@example.com").ok(),
        "user 1 is erased; the ledger stays\n"
    );
    assert_eq!(erase("1").ok(), "user 1 is erased; the ledger stays\n");
    erase("ada@example.com").fails(1, &["nobody has the email"]);
    while serving
        .ask("GET", "/api/auth/me", &token, "")
        .starts_with("HTTP/1.1 200 ")
    {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(program.run(&["user", "list"]).ok(), "");
    let again = serving.sign_up("ada@example.com");
    assert!(
        serving
            .ask("GET", "/api/auth/me", &again, "")
            .contains(r#""id":2"#)
    );
    let verified = program.run(&["verify"]).ok();
    assert!(
        verified.contains("verified: 2 users, 1 sessions, 3 ledger entries"),
        "{verified}"
    );
}

//! `minute-credit credits` as a second writer beside a running server.

use crate::program::{Program, Serving};

/// The number behind `"name":` in an answer.
fn number(answer: &str, name: &str) -> i64 {
    let (_, rest) = answer
        .split_once(&format!("\"{name}\":"))
        .unwrap_or_else(|| panic!("no {name} in {answer}"));
    let end = rest
        .find(|c: char| c != '-' && !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().unwrap()
}

/// A server with intervals of so many milliseconds, which settles every so many.
fn serve(program: &Program, interval_ms: &str, settle_every_ms: &str) -> Serving {
    let mut command = program.command(&["serve"]);
    command
        .env("MINUTE_CREDIT__TARIFF__INTERVAL_MS", interval_ms)
        .env("MINUTE_CREDIT__SETTLEMENT__EVERY_MS", settle_every_ms);
    Serving::start(command)
}

fn credits(serving: &Serving, token: &str) -> String {
    serving.ask("GET", "/api/sessions/credits", token, "")
}

/// Asks until the session is to end `millis` after its start.
fn wait_for_end_after(serving: &Serving, token: &str, millis: i64) {
    loop {
        let answer = credits(serving, token);
        if number(&answer, "depletesAt") - number(&answer, "startedAt") == millis {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_running_session_ends_sooner_or_later_by_what_an_operator_does() {
    let program = Program::new();
    // An interval that doesn't end while the test runs.
    let serving = serve(&program, "600000", "900000");
    let token = serving.sign_up("ada@example.com");
    serving.ask("POST", "/api/sessions/start", &token, "");
    wait_for_end_after(&serving, &token, 60_000_000);

    let say = |words: &[&str]| {
        let mut arguments = vec!["credits"];
        arguments.extend(words);
        arguments.extend(["--reason", "a test"]);
        program.run(&arguments)
    };
    let ada = "ada@example.com";
    let out = say(&["revoke", ada, "40", "--key", "r"]).ok();
    assert!(
        out.contains("40 credits of ada@example.com: revoked (key r,"),
        "{out}"
    );
    wait_for_end_after(&serving, &token, 36_000_000);
    assert!(
        say(&["revoke", ada, "40", "--key", "r"])
            .ok()
            .contains("had been revoked before, nothing changed")
    );
    say(&["revoke", ada, "60", "--key", "s"])
        .fails(1, &["no credits were revoked", "only 59", "--up-to"]);
    let out = say(&["revoke", ada, "60", "--key", "s", "--up-to"]).ok();
    assert!(
        out.contains("59 credits of") && out.contains("balance 1)"),
        "{out}"
    );
    wait_for_end_after(&serving, &token, 600_000);
    say(&["grant", ada, "9"]).ok();
    wait_for_end_after(&serving, &token, 6_000_000);

    let shown = program.run(&["credits", "show", ada]).ok();
    for words in [
        "balance  10",
        "free     9",
        "ledger   10",
        " is live since 20",
        "+100",
        "-59",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    program.run(&["verify"]).ok();
}

#[test]
fn what_a_session_cost_is_refunded_once() {
    let program = Program::new();
    let serving = serve(&program, "100", "900000");
    let token = serving.sign_up("ada@example.com");
    let ada = "ada@example.com";
    let start = serving.ask("POST", "/api/sessions/start", &token, "");
    let session = number(&start, "sessionId").to_string();
    let refund = |amount: i64, id: &str| {
        let amount = amount.to_string();
        program.run(&[
            "credits",
            "refund",
            ada,
            &amount,
            "--session",
            id,
            "--reason",
            "a test",
        ])
    };
    while number(&credits(&serving, &token), "credits") > 98 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // What is not settled is not in the ledger.
    refund(1, &session).fails(1, &["no credits were refunded", "has cost 0 so far"]);
    let stop = serving.ask("POST", "/api/sessions/stop", &token, "");
    let cost = number(&stop, "creditsConsumed");
    refund(cost + 1, &session).fails(1, &[&format!("has cost {cost} so far, and 0 of it")]);
    refund(1, "999").fails(1, &["no such session"]);
    let out = refund(cost, &session).ok();
    let words = format!("{cost} credits to {ada}: refunded for session {session} (key cli-");
    assert!(
        out.contains(&words) && out.contains("balance 100)"),
        "{out}"
    );
    refund(1, &session).fails(1, &[&format!("and {cost} of it is refunded")]);
    let shown = program
        .run(&["credits", "show", ada, "--entries", "1"])
        .ok();
    assert!(shown.contains("session  none is live"), "{shown}");
    assert!(
        shown.contains("refund") && !shown.contains("usage"),
        "{shown}"
    );
    program.run(&["verify"]).ok();
}

#[test]
fn a_revoke_never_makes_a_settlement_fail() {
    let program = Program::new();
    let serving = serve(&program, "50", "1000");
    let token = serving.sign_up("ada@example.com");
    let session = number(
        &serving.ask("POST", "/api/sessions/start", &token, ""),
        "sessionId",
    );
    let mut revoked = 0;
    loop {
        let left = program.run(&[
            "credits",
            "revoke",
            "ada@example.com",
            "3",
            "--up-to",
            "--reason",
            "a race",
        ]);
        if left.code != Some(0) {
            left.fails(1, &["only 0 credits are free"]);
            break;
        }
        revoked += left
            .out
            .split_whitespace()
            .next()
            .unwrap()
            .parse::<i64>()
            .unwrap();
    }
    assert!(revoked > 3, "{revoked}");
    let path = format!("/api/sessions/{session}");
    while serving
        .ask("GET", &path, &token, "")
        .contains(r#""endedAt":null"#)
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let ended = serving.ask("GET", &path, &token, "");
    assert_eq!(number(&ended, "creditsConsumed"), 100 - revoked, "{ended}");
    serving.signal("TERM");
    let (code, log) = serving.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("refused"), "{log}");
    program.run(&["verify"]).ok();
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let program = Program::new();
    program.run(&["migrate"]).ok();
    let long = "x".repeat(501);
    let reason = ["--reason", "x"];
    for (words, what) in [
        (
            vec!["grant", "a@b.c", "9007199254740992", "--reason", "x"],
            "must be from 1 to",
        ),
        (
            vec!["revoke", "a@b.c", "0", "--reason", "x"],
            "must be from 1 to",
        ),
        (vec!["revoke", "a@b.c", "5"], "--reason"),
        (
            vec!["revoke", "a@b.c", "5", "--reason", " "],
            "must not be empty",
        ),
        (
            vec!["grant", "a@b.c", "5", "--reason", &long],
            "500 characters at most",
        ),
        (vec!["grant", "a@b.c", "5", "--reason", "a\nb"], "one line"),
        (
            vec!["grant", "a@b.c", "5", reason[0], reason[1], "--key", ""],
            "must not be empty",
        ),
        (
            vec!["grant", "a@b.c", "5", reason[0], reason[1], "--key", &long],
            "100 characters at most",
        ),
        (
            vec![
                "grant",
                "a@b.c",
                "5",
                reason[0],
                reason[1],
                "--operator",
                "",
            ],
            "must not be empty",
        ),
        (
            vec![
                "grant",
                "a@b.c",
                "5",
                reason[0],
                reason[1],
                "--session",
                "1",
            ],
            "--session",
        ),
        (
            vec!["refund", "a@b.c", "5", reason[0], reason[1]],
            "--session",
        ),
        (
            vec![
                "refund",
                "a@b.c",
                "5",
                reason[0],
                reason[1],
                "--session",
                "0",
            ],
            "a session id",
        ),
    ] {
        let left = program.run(&[&["credits"], &words[..]].concat());
        left.fails_usage();
        assert!(left.err.contains(what), "{what}: {}", left.err);
    }
    for words in [
        &["show", "a@b.c"][..],
        &["revoke", "a@b.c", "5", "--reason", "x"],
    ] {
        program
            .run(&[&["credits"], words].concat())
            .fails(1, &["nobody has the email a@b.c"]);
    }
}

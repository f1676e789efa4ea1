//! Clocks that are wrong: of the operator who runs a command beside the server, and of the server itself.
//! They are set wrong for real, by libfaketime, which `scripts/test` installs.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::program::{Left, Program, Serving, left};

/// The length of an interval, which costs a credit.
const INTERVAL_MS: u64 = 100;

/// How far clocks are off.
const OFF_BY: [&str; 6] = ["+2h", "-2h", "+90s", "-90s", "+365d", "-365d"];

/// Where Debian puts the library.
fn libfaketime() -> String {
    let machines = std::fs::read_dir("/usr/lib").unwrap();
    let places = machines.map(|place| place.unwrap().path().join("faketime/libfaketime.so.1"));
    let mut found = places.filter(|path| path.exists());
    let path = found
        .next()
        .expect("faketime is to be installed, see scripts/test");
    path.display().to_string()
}

/// Has the program believe that the wall clock is off by so much.
fn with_clock<'c>(command: &'c mut Command, off_by: &str) -> &'c mut Command {
    command
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME", off_by)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

fn run_with_clock(program: &Program, off_by: &str, arguments: &[&str]) -> Left {
    let mut command = program.command(arguments);
    left(&with_clock(&mut command, off_by).output().unwrap())
}

fn serve_command(program: &Program) -> Command {
    let mut command = program.command(&["serve"]);
    command
        .env(
            "MINUTE_CREDIT__TARIFF__INTERVAL_MS",
            INTERVAL_MS.to_string(),
        )
        .env("MINUTE_CREDIT__SIGNUP__CREDITS", "1000000")
        .env("MINUTE_CREDIT__LIMITS__SIGNUPS_PER_ADDRESS_PER_HOUR", "0");
    command
}

/// The number behind `"name":` in an answer.
fn number(answer: &str, name: &str) -> u64 {
    let (_, rest) = answer
        .split_once(&format!("\"{name}\":"))
        .unwrap_or_else(|| panic!("no {name} in {answer}"));
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().unwrap()
}

#[track_caller]
fn done(answer: String) -> String {
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    answer
}

/// A user with a live session, and from when on it can have been served.
struct Live {
    email: String,
    token: String,
    began: Instant,
}

impl Live {
    fn start(serving: &Serving, email: &str) -> Self {
        let (email, token) = (email.to_owned(), serving.sign_up(email));
        Self::start_again(serving, email, token)
    }

    fn start_again(serving: &Serving, email: String, token: String) -> Self {
        let began = Instant::now();
        done(serving.ask("POST", "/api/sessions/start", &token, ""));
        Self {
            email,
            token,
            began,
        }
    }

    /// Stops it. It can't have cost more than has passed. Returns its id.
    #[track_caller]
    fn stop(&self, serving: &Serving, what: &str) -> String {
        let answer = serving.ask("POST", "/api/sessions/stop", &self.token, "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap();
        let consumed = number(&answer, "creditsConsumed");
        assert!(
            consumed * INTERVAL_MS <= passed,
            "{what}: {consumed} credits in {passed} ms"
        );
        number(&answer, "sessionId").to_string()
    }

    /// Returns once it has cost something that is recorded.
    fn wait_for_cost(&self, serving: &Serving) {
        loop {
            let answer = serving.ask("GET", "/api/sessions/credits", &self.token, "");
            if number(&answer, "credits") < 1_000_000 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Ends the server and starts it again.
fn restart(program: &Program, serving: Serving, signal: &str) -> Serving {
    serving.signal(signal);
    serving.wait();
    Serving::start(serve_command(program))
}

/// What operators do while a session is live, by clocks that are off, charges nobody: neither that session,
/// nor others, which go on after the server died and came back.
#[test]
fn no_operators_clock_charges_anybody() {
    let program = Program::new();
    let mut serving = Serving::start(serve_command(&program));
    let bystander = Live::start(&serving, "bystander@example.com");
    let mut number = 0;
    for off_by in OFF_BY {
        for verb in ["grant", "revoke", "refund"] {
            number += 1;
            let what = format!("{verb} {off_by}");
            let mut live = Live::start(&serving, &format!("user{number}@example.com"));
            let mut arguments = vec!["credits", verb, &live.email, "1", "--reason", "a test"];
            let session;
            if verb == "refund" {
                live.wait_for_cost(&serving);
                session = live.stop(&serving, &what);
                arguments.extend(["--session", &session]);
            }
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            if verb == "refund" {
                live = Live::start_again(&serving, live.email, live.token);
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run_with_clock(&program, off_by, &arguments).ok();
            let signal = if number % 2 == 0 { "KILL" } else { "TERM" };
            serving = restart(&program, serving, signal);
            live.wait_for_cost(&serving);
            live.stop(&serving, &what);
        }
    }
    bystander.stop(&serving, "a bystander");
    program.run(&["verify"]).ok();
}

/// What is granted to a wallet without a session, while the server runs or not, is there before the session
/// that starts next; which starts at the server's time.
#[test]
fn a_wallet_that_was_written_to_by_a_clock_ahead_is_served_from_now_on() {
    let program = Program::new();
    let mut serving = Serving::start(serve_command(&program));
    for (place, off_by) in OFF_BY.into_iter().enumerate() {
        let email = format!("user{place}@example.com");
        let token = serving.sign_up(&email);
        let empty = ["credits", "revoke", &email, "1000000", "--reason", "a test"];
        program.run(&empty).ok();
        let grant = ["credits", "grant", &email, "1000", "--reason", "a test"];
        if place % 2 == 0 {
            serving.signal("TERM");
            serving.wait();
            run_with_clock(&program, off_by, &grant).ok();
            serving = Serving::start(serve_command(&program));
        } else {
            run_with_clock(&program, off_by, &grant).ok();
        }
        let live = Live::start_again(&serving, email, token);
        live.wait_for_cost(&serving);
        serving = restart(&program, serving, "KILL");
        // It can go on only with what came before it.
        live.stop(&serving, off_by);
    }
    program.run(&["verify"]).ok();
}

/// The server's own clock was days ahead once. Whoever only reads is told everything; the server says what
/// to do, and serves once that was done.
#[test]
fn a_clock_that_was_days_ahead_once_locks_nobody_out() {
    let program = Program::new();
    let mut command = serve_command(&program);
    with_clock(&mut command, "+3d");
    let serving = Serving::start(command);
    let live = Live::start(&serving, "ada@example.com");
    live.wait_for_cost(&serving);
    live.stop(&serving, "ahead");
    serving.signal("TERM");
    assert_eq!(serving.wait().0, Some(0));

    for reading in [
        &["verify"][..],
        &["user", "list"],
        &["credits", "show", "ada@example.com"],
        &["migrate"],
    ] {
        program.run(reading).ok();
    }
    let refused = left(&serve_command(&program).output().unwrap());
    refused.fails(1, &["clock", "h behind", "minute-credit restored"]);

    program.run(&["restored"]).ok();
    for _ in 0..2 {
        let serving = Serving::start(serve_command(&program));
        assert!(serving.greeting.contains("clock"), "{}", serving.greeting);
        let live = Live::start(&serving, &format!("{}@example.com", serving.address.port()));
        live.wait_for_cost(&serving);
        live.stop(&serving, "after it");
        serving.signal("TERM");
        assert_eq!(serving.wait().0, Some(0));
    }
    program.run(&["verify"]).ok();
}

/// An hour ahead is told, and no more.
#[test]
fn a_clock_that_was_ahead_for_less_is_told() {
    let program = Program::new();
    let mut command = serve_command(&program);
    with_clock(&mut command, "+1h");
    let serving = Serving::start(command);
    assert!(!serving.greeting.contains("clock"), "{}", serving.greeting);
    serving.signal("TERM");
    serving.wait();
    let serving = Serving::start(serve_command(&program));
    assert!(serving.greeting.contains("clock"), "{}", serving.greeting);
    let metrics = serving.ask("GET", "/metrics", "", "");
    let lead = metrics
        .lines()
        .find_map(|line| line.strip_prefix("minute_credit_clock_lead_seconds "))
        .unwrap_or_else(|| panic!("{metrics}"));
    assert!(lead.trim().parse::<f64>().unwrap() > 3_500.0, "{lead}");
}

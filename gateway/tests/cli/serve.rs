//! `minute-credit serve`: starting, failing to start, and ending.

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use crate::program::{Program, Serving, left};

#[test]
fn it_says_where_it_is_and_ends_well() {
    let program = Program::new();
    for signal in ["TERM", "INT"] {
        let serving = program.serve();
        let expected = format!("Minute-Credit is ready at http://{}", serving.address);
        assert!(serving.greeting.contains(&expected), "{}", serving.greeting);
        assert!(
            serving
                .greeting
                .contains("(SQLite data/minute-credit.db, no mirror)"),
            "{}",
            serving.greeting
        );
        assert!(serving.ask("GET", "/readyz", "", "").contains("ready"));
        serving.signal(signal);
        let (code, log) = serving.wait();
        assert_eq!(code, Some(0), "{log}");
    }
    let key = fs::metadata(program.dir().join("data/token.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let program = Program::new();
    let mut serving = program.serve();
    // A request whose body never comes keeps it busy.
    let mut stream = TcpStream::connect(serving.address).unwrap();
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    serving.ask("GET", "/healthz", "", "");
    serving.signal("TERM");
    serving.wait_for_line("draining");
    // What comes within two seconds is the same stop, sent twice.
    std::thread::sleep(Duration::from_millis(2_100));
    serving.signal("TERM");
    let (code, log) = serving.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("ended at once"), "{log}");
}

#[test]
fn whoever_starts_under_the_name_takes_over() {
    let program = Program::new();
    let first = program.serve();
    let token = first.sign_up("ada@example.com");
    let started = first.ask("POST", "/api/sessions/start", &token, "");
    assert!(started.contains("Session started"), "{started}");
    let second = program.serve();
    let (code, log) = first.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("error: another process has taken over"),
        "{log}"
    );
    let stopped = second.ask("POST", "/api/sessions/stop", &token, "");
    assert!(stopped.contains("Session stopped"), "{stopped}");
}

/// A stopped process can't serve; it is free for the customer, and needs no restart.
#[test]
fn a_suspended_process_recovers_in_place() {
    let program = Program::new();
    let mut command = program.command(&["serve"]);
    command.env("MINUTE_CREDIT__TARIFF__INTERVAL_MS", "1000");
    let mut serving = Serving::start(command);
    let token = serving.sign_up("ada@example.com");
    serving.ask("POST", "/api/sessions/start", &token, "");
    serving.suspend();
    let asleep = Duration::from_secs(15);
    std::thread::sleep(asleep);
    serving.signal("CONT");
    serving.wait_for_line("time goes on in the next run");
    let stopped = serving.ask("POST", "/api/sessions/stop", &token, "");
    assert!(stopped.contains("Session stopped"), "{stopped}");
    let history = serving.ask("GET", "/api/sessions", &token, "");
    let number = |name: &str| -> u64 {
        let (_, rest) = history
            .split_once(&format!("\"{name}\":"))
            .unwrap_or_else(|| panic!("{history}"));
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse().unwrap()
    };
    let asleep_ms = u64::try_from(asleep.as_millis()).unwrap();
    let lasted_ms = number("endedAt") - number("startedAt");
    assert!(
        number("servedMs") + asleep_ms <= lasted_ms,
        "what it slept is not served: {history}"
    );
    serving.signal("TERM");
    assert_eq!(serving.wait().0, Some(0));
    program.run(&["verify"]).ok();
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let program = Program::new();
    let serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    assert!(
        serving
            .ask("POST", "/api/sessions/start", &token, "")
            .contains("Session started")
    );
    serving.signal("KILL");
    assert_eq!(serving.wait().0, None);

    let serving = program.serve();
    assert!(
        serving
            .ask("GET", "/api/sessions/active", &token, "")
            .contains(r#""active":true"#)
    );
    assert!(
        serving
            .ask("POST", "/api/sessions/stop", &token, "")
            .contains("Session stopped")
    );
    serving.signal("TERM");
    assert_eq!(serving.wait().0, Some(0));
    program.run(&["verify"]).ok();
}

#[test]
fn secrets_are_not_logged() {
    let program = Program::new();
    let mut command = program.command(&["serve"]);
    command
        .env("MINUTE_CREDIT__LOG__LEVEL", "trace")
        .env("MINUTE_CREDIT__LOG__FORMAT", "json");
    let serving = Serving::start(command);
    let token = serving.sign_up("ada@example.com");
    serving.ask("GET", &format!("/ws?token={token}"), &token, "");
    serving.ask(
        "POST",
        "/api/auth/login",
        "",
        r#"{"email":"ada@example.com","password":"wrong secret"}"#,
    );
    serving.signal("TERM");
    let log = serving.wait().1;
    assert!(log.contains(r#""path":"/api/auth/login""#), "{log}");
    for secret in [
        token.as_str(),
        "correct horse",
        "wrong secret",
        "ada@example.com",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn its_options_win() {
    let program = Program::new();
    let mut command = program.command(&["serve", "--host", "0.0.0.0", "--port", "0"]);
    command
        .env("PORT", "1")
        .env("MINUTE_CREDIT__HTTP__HOST", "::1");
    let serving = Serving::start(command);
    assert!(serving.address.ip().is_unspecified(), "{}", serving.address);
    drop(serving);
    for (option, value, words) in [
        ("--port", "70000", "http.port"),
        ("--port", "eighty", "from the option --port"),
        ("--host", "nowhere", "http.host"),
    ] {
        program.run(&["serve", option, value]).fails(2, &[words]);
    }
}

/// Container engines give a low soft limit of open files and a high hard one.
#[test]
fn the_limit_of_open_files_is_raised_or_compared() {
    let program = Program::new();
    let start = |limits: &str| {
        let command = program.command(&[]);
        let server = command.get_program().to_owned();
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &format!("{limits} && exec \"$0\" serve")])
            .arg(server)
            .current_dir(program.dir())
            .env_clear()
            .env("PORT", "0")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        Serving::start(shell)
    };
    let soft_limit = |serving: &Serving| -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", serving.id())).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    };
    let raised = start("ulimit -Sn 256 && ulimit -Hn 4096");
    assert_eq!(soft_limit(&raised), 4_096);
    assert!(
        raised.greeting.contains("http.connections_max"),
        "{}",
        raised.greeting
    );
    assert!(raised.greeting.contains("4096") && raised.greeting.contains("16000"));

    // What does not fit waits; who is in is served on.
    let tight = start("ulimit -n 128");
    assert!(
        tight.greeting.contains("open_files_max=128"),
        "{}",
        tight.greeting
    );
    let first = TcpStream::connect(tight.address).unwrap();
    let others: Vec<TcpStream> = (0..200)
        .filter_map(|_| TcpStream::connect(tight.address).ok())
        .collect();
    let mut first = first;
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut first, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(others);
    let answer = tight.ask("GET", "/readyz", "", "");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_port_in_use_costs_nothing() {
    let program = Program::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = program
        .command(&["serve"])
        .env("PORT", &port)
        .output()
        .unwrap();
    left(&output).fails(
        1,
        &[
            "can't listen on 127.0.0.1",
            &port,
            "another program listens there",
            "PORT",
        ],
    );
    assert!(
        !program.dir().join("data").exists(),
        "the database was not touched"
    );
}

#[test]
fn a_data_folder_that_cannot_be_used_is_named() {
    let program = Program::new();
    fs::write(program.dir().join("data"), "a file, not a folder").unwrap();
    program
        .run(&["serve"])
        .fails(1, &["can't make the folder data", "DATA_DIR"]);
    let absent = program
        .command(&["serve"])
        .env("DATA_DIR", "/proc/nowhere")
        .output()
        .unwrap();
    left(&absent).fails(1, &["/proc/nowhere"]);
}

#[test]
fn a_database_that_is_absent_or_foreign_is_named() {
    let program = Program::new();
    let serve = |url: &str| {
        let output = program
            .command(&["serve"])
            .env("DATABASE_URL", url)
            .output()
            .unwrap();
        left(&output)
    };
    let absent = serve("postgres://me:secret@127.0.0.1:1/credit");
    absent.fails(1, &["can't use the database Postgres 127.0.0.1:1/credit"]);
    assert!(!absent.err.contains("secret"), "{}", absent.err);

    fs::write(
        program.dir().join("notes.db"),
        "This is no database, but a text that is long enough.".repeat(20),
    )
    .unwrap();
    serve("sqlite://notes.db").fails(1, &["can't use the database SQLite notes.db"]);
}

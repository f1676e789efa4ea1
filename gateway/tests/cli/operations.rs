//! What an operator's scripts call: `backup`, `restored` and `healthcheck`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use crate::program::{Program, Serving, left};

#[test]
fn a_backup_can_be_served_after_it_is_restored() {
    let program = Program::new();
    program
        .run(&["backup", "copy.db"])
        .fails(1, &["there is no database"]);

    let serving = program.serve();
    let ada = serving.sign_up("ada@example.com");
    serving.ask("POST", "/api/sessions/start", &ada, "");
    let out = program.run(&["backup", "copy.db"]).ok();
    assert!(out.contains("backed up to copy.db"), "{out}");
    program
        .run(&["backup", "copy.db"])
        .fails(1, &["copy.db is there already"]);
    // What comes after the backup will be lost.
    let eve = serving.sign_up("eve@example.com");
    let started = serving.ask("POST", "/api/sessions/start", &eve, "");
    let lost = number_after(&started, "\"sessionId\":");
    serving.signal("TERM");
    assert_eq!(serving.wait().0, Some(0));

    for end in ["", "-wal", "-shm"] {
        // Which of them are there is for SQLite to know.
        let _ = fs::remove_file(program.dir().join(format!("data/minute-credit.db{end}")));
    }
    fs::copy(
        program.dir().join("copy.db"),
        program.dir().join("data/minute-credit.db"),
    )
    .unwrap();
    let out = program.run(&["restored"]).ok();
    assert!(out.contains("the tokens of 1 users are void"), "{out}");

    let serving = program.serve();
    for token in [&ada, &eve] {
        let answer = serving.ask("GET", "/api/sessions/active", token, "");
        assert!(answer.contains("invalid_token"), "{answer}");
    }
    let bob = serving.sign_up("bob@example.com");
    // The first newcomer is not who the lost user was.
    let answer = serving.ask("GET", "/api/sessions/active", &eve, "");
    assert!(answer.contains("invalid_token"), "{answer}");
    let started = serving.ask("POST", "/api/sessions/start", &bob, "");
    let id = number_after(&started, "\"sessionId\":");
    assert!(id > lost + 1_000_000, "{id} after {lost}");
    let body = r#"{"email":"ada@example.com","password":"correct horse"}"#;
    let answer = serving.ask("POST", "/api/auth/login", "", body);
    let ada = answer.split("\"token\":\"").nth(1).unwrap();
    let ada = ada.split('"').next().unwrap();
    let answer = serving.ask("GET", "/api/sessions/active", ada, "");
    assert!(answer.contains("\"active\":true"), "{answer}");
    assert!(program.run(&["verify"]).ok().contains("no violation"));
}

fn number_after(answer: &str, words: &str) -> i64 {
    let (_, rest) = answer.split_once(words).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn a_restored_database_shuts_a_running_server_out() {
    let program = Program::new();
    let serving = program.serve();
    program.run(&["restored", "--ids", "5"]).ok();
    let (code, log) = serving.wait();
    assert_eq!(code, Some(1), "{log}");
}

#[test]
fn only_the_embedded_database_is_backed_up_here() {
    let program = Program::new();
    let mut command = program.command(&["backup", "copy.db"]);
    command.env("DATABASE_URL", "postgres://nobody:secret@127.0.0.1:1/none");
    left(&command.output().unwrap()).fails(1, &["Postgres", "pg_dump"]);
    assert!(!program.dir().join("copy.db").exists());
}

#[test]
fn a_health_check_needs_a_server() {
    let program = Program::new();
    let check = |port: u16, arguments: &[&str]| {
        let mut command = program.command(arguments);
        command.env("PORT", port.to_string());
        left(&command.output().unwrap())
    };
    let serving = program.serve();
    let port = serving.address.port();
    for arguments in [&["healthcheck"][..], &["healthcheck", "--ready"]] {
        assert!(check(port, arguments).ok().contains("is well"));
    }
    serving.signal("TERM");
    serving.wait();
    check(port, &["healthcheck"]).fails(1, &["no answer from 127.0.0.1"]);

    // Whatever answers there is not well unless it says so.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let mut request = BufReader::new(&stream);
        request.read_line(&mut String::new()).unwrap();
        let answer = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nThe server is about to end.";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    check(port, &["healthcheck", "--ready"]).fails(1, &["is not well", "about to end"]);
    answering.join().unwrap();
}

#[test]
fn a_service_manager_is_told() {
    let check = |manager: &UnixDatagram, name: &str| {
        manager
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let expect = |message: &str| {
            let mut told = [0; 64];
            let length = manager.recv(&mut told).unwrap();
            assert_eq!(String::from_utf8_lossy(&told[..length]), message);
        };
        let program = Program::new();
        let mut command = program.command(&["serve"]);
        command.env("NOTIFY_SOCKET", name);
        let serving = Serving::start(command);
        expect("READY=1");
        serving.signal("TERM");
        expect("STOPPING=1");
        assert_eq!(serving.wait().0, Some(0));
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    check(&UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap());

    let name = format!("minute-credit-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    check(&manager, &format!("@{name}"));
}

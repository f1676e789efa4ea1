//! `user create` and `user list`, and what operators may not write.

use std::fs;

use crate::program::{Program, left};

#[test]
fn a_user_is_created_and_can_log_in() {
    let program = Program::new();
    program.run(&["migrate"]).ok();
    let create = |arguments: &[&str], input: &str| {
        program.run_with_input(&[&["user", "create"], arguments].concat(), input)
    };
    let out = create(&["Ada@example.com"], "battery staple\r\n").ok();
    assert_eq!(
        out,
        "user 1 is created: Ada@example.com, with 100 credits\n"
    );
    create(&["ada@example.com"], "battery staple\n")
        .fails(1, &["no user was created", "that email"]);
    create(&["not an email"], "battery staple\n").fails(1, &["not an email"]);
    create(&["bob@example.com"], "short\n").fails(1, &["at least 8 characters"]);
    create(&["bob@example.com"], "password123\n").fails(1, &["Many people use this password"]);
    create(&["bob@example.com"], "bob@example.com\n").fails(1, &["must not be your email"]);
    create(&["bob@example.com", "--credits", "1.5"], "").fails_usage();
    let out = create(&["bob@example.com", "--credits", "7", "--no-password"], "").ok();
    assert!(out.contains("with 7 credits"), "{out}");

    let serving = program.serve();
    let log_in = |email: &str| {
        let body = format!(r#"{{"email":"{email}","password":"battery staple"}}"#);
        serving.ask("POST", "/api/auth/login", "", &body)
    };
    assert!(log_in("ada@example.com").starts_with("HTTP/1.1 200 "));
    assert!(log_in("bob@example.com").starts_with("HTTP/1.1 401 "));
    assert!(
        program
            .run(&["verify"])
            .ok()
            .contains("2 users, 0 sessions, 2 ledger entries")
    );
}

#[test]
fn users_are_found_by_the_beginning_of_their_email() {
    let program = Program::new();
    program.run(&["migrate"]).ok();
    for email in [
        "a_1@x.org",
        "ab1@x.org",
        "A_2@x.org",
        "b%c@x.org",
        "bzc@x.org",
        "a_é@x.org",
    ] {
        program
            .run(&["user", "create", email, "--no-password"])
            .ok();
    }
    let list = |arguments: &[&str]| {
        let left = program.run(&[&["user", "list"], arguments].concat());
        let ids: Vec<i64> = left
            .out
            .lines()
            .map(|line| line.split('\t').next().unwrap().parse().unwrap())
            .collect();
        (ids, left.err)
    };
    let all = |ids: &[i64]| (ids.to_vec(), String::new());
    assert_eq!(list(&[]), all(&[1, 2, 3, 4, 5, 6]));
    // Every sign means itself.
    assert_eq!(list(&["--search", "a_"]), all(&[1, 3, 6]));
    assert_eq!(list(&["--search", "B%"]), all(&[4]));
    assert_eq!(list(&["--search", "a_é"]), all(&[6]));
    assert_eq!(list(&["--search", "%"]), all(&[]));
    assert_eq!(list(&["--search", "x.org"]), all(&[]));
    assert_eq!(
        list(&["--limit", "2"]),
        (vec![1, 2], "there may be more: --after 2\n".to_owned())
    );
    assert_eq!(list(&["--limit", "2", "--after", "4"]).0, [5, 6]);
    assert_eq!(list(&["--limit", "9", "--after", "4"]), all(&[5, 6]));
    let json = program
        .run(&["user", "list", "--limit", "1", "--json"])
        .ok();
    let user: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&user["email"], &user["ledger"]),
        (&"a_1@x.org".into(), &100.into())
    );
}

#[test]
fn what_an_operator_may_not_write_is_said() {
    let program = Program::new();
    program.run(&["migrate"]).ok();
    program
        .run(&["user", "create", "ada@example.com", "--no-password"])
        .ok();
    let grant = |arguments: &[&str]| {
        program.run(&[&["credits", "grant", "ada@example.com"], arguments].concat())
    };
    let check = |arguments: &[&str], words: &str| {
        let left = grant(arguments);
        assert_eq!(left.code, Some(2), "{left:?}");
        assert!(left.err.contains(words), "{}", left.err);
    };
    check(&["1.5", "--reason", "x"], "a whole number of credits");
    check(&["1e3", "--reason", "x"], "a whole number of credits");
    check(&["-5", "--reason", "x"], "must be from 1 to");
    check(&["5", "--reason", "a\u{202e}b"], "turn text around");
    check(&["5", "--reason", "x", "--operator", "a\u{200b}b"], "hide");
    check(
        &["5", "--reason", "x", "--key", "minute-credit erasure"],
        "for itself",
    );
    check(&["5", "--reason", &"x".repeat(501)], "500 characters");
    assert!(
        grant(&["5", "--reason", "Fälle 17–19"])
            .ok()
            .contains("balance 105")
    );
    let shown = program.run(&["credits", "show", "1", "--json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["balance"], &shown["entries"][0]["amount"]),
        (&105.into(), &5.into())
    );
    // The key that an erasure needs is free.
    program.run(&["user", "erase", "1", "--yes"]).ok();
}

/// In a container there is no USER, and the user may have no name.
#[test]
fn whoever_does_it_is_found_or_asked_for() {
    let program = Program::new();
    program.run(&["migrate"]).ok();
    program
        .run(&["user", "create", "ada@example.com", "--no-password"])
        .ok();
    let grant = ["credits", "grant", "ada@example.com", "5", "--reason", "x"];
    let mut command = program.command(&grant);
    let id = fs::metadata("/proc/self").unwrap();
    let id = std::os::unix::fs::MetadataExt::uid(&id);
    let known = fs::read_to_string("/etc/passwd").unwrap();
    let has_name = known
        .lines()
        .any(|line| line.split(':').nth(2) == Some(&id.to_string()));
    let left = left(&command.env_remove("USER").output().unwrap());
    if has_name {
        left.ok();
    } else {
        left.fails(1, &["--operator", &id.to_string()]);
    }
}

#[test]
fn nothing_is_made_by_a_slip_of_the_pen() {
    let program = Program::new();
    let typo = program.dir().join("typo/dir/x.db");
    let url = format!("sqlite://{}", typo.display());
    fs::write(program.dir().join("empty.db"), "").unwrap();
    let with = |url: &str, arguments: &[&str]| {
        let mut command = program.command(arguments);
        left(&command.env("DATABASE_URL", url).output().unwrap())
    };
    for arguments in [&["serve"][..], &["migrate"]] {
        with(&url, arguments).fails(1, &["typo/dir", "no such folder"]);
    }
    for arguments in [
        &["verify"][..],
        &["user", "list"],
        &["session", "list"],
        &["credits", "show", "a@b.c"],
        &["user", "create", "a@b.c", "--no-password"],
        &["backup", "copy.db"],
    ] {
        with(&url, arguments).fails(1, &["there is no database at", "typo/dir/x.db"]);
        if arguments[0] != "backup" {
            with("sqlite://empty.db", arguments).fails(1, &["nothing of Minute-Credit", "migrate"]);
        }
    }
    assert!(!program.dir().join("typo").exists());
    assert_eq!(
        fs::metadata(program.dir().join("empty.db")).unwrap().len(),
        0
    );
    let mut command = program.command(&["serve"]);
    command.env("MINUTE_CREDIT__TOKENS__KEY_FILE", "typo/token.key");
    left(&command.output().unwrap()).fails(1, &["typo/token.key", "folder does not exist"]);
    assert!(!program.dir().join("typo").exists());
}

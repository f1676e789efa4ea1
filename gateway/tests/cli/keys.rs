//! `key`: the keys of the tokens, changed while the server runs.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::program::{Program, Serving, left};

/// The ids that `key list` gives, in order.
fn ids(program: &Program) -> Vec<String> {
    let listed = program.run(&["key", "list"]).ok();
    let id = |line: &str| line.split('\t').next().unwrap().to_owned();
    listed.lines().map(id).collect()
}

/// What of a token tells the key that made it.
fn footer(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

fn is_valid(serving: &Serving, token: &str) -> bool {
    let answer = serving.ask("GET", "/api/auth/me", token, "");
    answer.starts_with("HTTP/1.1 200 ")
}

#[test]
fn a_key_takes_anothers_place_without_anybody_noticing() {
    let program = Program::new();
    let mut serving = program.serve();
    let old = serving.sign_up("ada@example.com");
    let first = ids(&program).remove(0);

    assert!(
        program
            .run(&["key", "add"])
            .ok()
            .contains("key use k4.lid.")
    );
    serving.wait_for_line("the keys of the tokens have changed");
    let second = ids(&program).remove(1);
    let made_meanwhile = serving.sign_up("bob@example.com");
    assert_eq!(
        footer(&made_meanwhile),
        footer(&old),
        "a new key only reads"
    );

    // A shortened id is enough.
    let used = program.run(&["key", "use", &second[..16]]).ok();
    assert!(used.contains(&format!("key retire {first}")), "{used}");
    serving.wait_for_line("the keys of the tokens have changed");
    let new = serving.sign_up("eve@example.com");
    assert_ne!(footer(&new), footer(&old));
    assert!(is_valid(&serving, &old) && is_valid(&serving, &new));
    assert_eq!(ids(&program), [second.clone(), first.clone()]);

    program
        .run(&["key", "retire", &second])
        .fails(1, &[&second, "key use"]);
    program.run(&["key", "retire", &first]).ok();
    serving.wait_for_line("the keys of the tokens have changed");
    assert!(!is_valid(&serving, &old) && is_valid(&serving, &new));
    let file = program.dir().join("data/token.key");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    drop(serving);
    assert!(
        is_valid(&program.serve(), &new),
        "the file says the same at a start"
    );
}

#[test]
fn a_broken_key_file_changes_nothing() {
    let program = Program::new();
    let mut serving = program.serve();
    let token = serving.sign_up("ada@example.com");
    let file = program.dir().join("data/token.key");
    let keys = fs::read_to_string(&file).unwrap();
    fs::write(&file, "k4.local.half\n").unwrap();
    serving.wait_for_line("the keys of the tokens stay as they are");
    assert!(is_valid(&serving, &token));
    for arguments in [&["list"][..], &["add"], &["use", "k4"], &["retire", "k4"]] {
        let command = program.run(&[&["key"], arguments].concat());
        command.fails(
            1,
            &[
                "data/token.key",
                "one key a line",
                "key 1 is not a PASERK key",
            ],
        );
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "k4.local.half\n");
    fs::write(&file, &keys).unwrap();
    assert!(program.run(&["key", "add"]).ok().contains("added"));
    serving.wait_for_line("the keys of the tokens have changed");
    assert!(is_valid(&serving, &token));
}

/// As Kubernetes and Docker mount one: root's, read-only, for our group or for everybody in the container.
#[test]
fn a_key_of_roots_may_be_read_by_our_group() {
    let program = Program::new();
    drop(program.serve());
    let mounted = program.dir().join("mounted.key");
    fs::copy(program.dir().join("data/token.key"), &mounted).unwrap();
    let mode = |mode: u32| fs::set_permissions(&mounted, fs::Permissions::from_mode(mode)).unwrap();
    let serve = || {
        let mut command = program.command(&["serve"]);
        command.env("MINUTE_CREDIT__TOKENS__KEY_FILE", "mounted.key");
        command
    };
    let is_roots = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&mounted).unwrap()) == 0;
    for (given, is_taken) in [
        (0o440, is_roots),
        (0o640, is_roots),
        (0o444, is_roots),
        (0o660, false),
    ] {
        mode(given);
        if is_taken {
            let serving = Serving::start(serve());
            let warned = serving.greeting.contains("everybody in this container");
            assert_eq!(warned, given == 0o444, "{}", serving.greeting);
        } else {
            left(&serve().output().unwrap()).fails(1, &["mounted.key", "by others", "chmod"]);
        }
    }
}

#[test]
fn keys_that_are_not_there_are_named() {
    let program = Program::new();
    program
        .run(&["key", "add"])
        .fails(1, &["data/token.key", "No such file"]);
    drop(program.serve());
    program
        .run(&["key", "retire", "k4.lid.nobody"])
        .fails(1, &["k4.lid.nobody", "key list"]);
    let key = fs::read_to_string(program.dir().join("data/token.key")).unwrap();
    let mut command = program.command(&["key", "add"]);
    let given = command.env("MINUTE_CREDIT__TOKENS__KEY", key.trim());
    left(&given.output().unwrap()).fails(1, &["tokens.key", "the first makes tokens"]);
    let mut command = program.command(&["serve"]);
    let given = command.env("MINUTE_CREDIT__TOKENS__KEY", format!("{} half", key.trim()));
    let left = left(&given.output().unwrap());
    left.fails(2, &["tokens.key", "key 2 is not a PASERK key"]);
    assert!(
        !left.err.contains("k4.local.c") && !left.err.contains("half"),
        "{}",
        left.err
    );
}

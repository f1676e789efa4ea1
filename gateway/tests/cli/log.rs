//! `log.format = "json"`: every line is an object, whatever there is to say.

use std::fs;

use crate::program::{Left, Program, Serving, left};

const JSON: (&str, &str) = ("MINUTE_CREDIT__LOG__FORMAT", " json ");

/// Asserts that each line is an object with a level and a message; gives the messages.
#[track_caller]
fn messages(log: &str) -> Vec<String> {
    let message = |line: &str| {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            object["level"].is_string() && object["timestamp"].is_string(),
            "{line}"
        );
        object["message"].as_str().unwrap().to_owned()
    };
    log.lines().map(message).collect()
}

#[test]
fn every_line_of_a_server_is_an_object() {
    let program = Program::new();
    for level in ["error", "info"] {
        let mut command = program.command(&["serve"]);
        command
            .env(JSON.0, JSON.1)
            .env("MINUTE_CREDIT__LOG__LEVEL", level);
        let mut serving = Serving::start(command);
        let told = messages(&serving.greeting);
        assert!(
            told.last()
                .unwrap()
                .starts_with("Minute-Credit is ready at http://127.0.0.1:")
        );
        serving.signal("TERM");
        if level == "info" {
            messages(&serving.wait_for_line("draining"));
        }
        let (code, rest) = serving.wait();
        assert_eq!(code, Some(0));
        messages(&rest);
    }
}

#[test]
fn what_keeps_a_server_from_starting_is_an_object() {
    let program = Program::new();
    let with = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = program.command(arguments);
        command.envs(variables.iter().copied());
        left(&command.output().unwrap())
    };
    let check = |left: &Left, code: i32, words: &str| {
        assert_eq!(left.code, Some(code), "{left:?}");
        assert_eq!(left.out, "");
        let told = messages(&left.err);
        assert!(told.last().unwrap().contains(words), "{told:?}");
        assert!(!told.last().unwrap().starts_with("error"), "{told:?}");
    };
    let absent = ("DATABASE_URL", "postgres://me:secret@127.0.0.1:1/credit");
    check(
        &with(&[JSON, absent], &["serve"]),
        1,
        "can't use the database",
    );
    check(
        &with(&[JSON, ("PORT", "eighty")], &["serve"]),
        2,
        "wrong settings: http.port",
    );
    check(
        &with(&[JSON], &["serve", "--prot", "1"]),
        2,
        "unexpected argument",
    );
    check(&with(&[JSON], &["serve", "--port"]), 2, "--port");
    check(
        &with(&[JSON], &["serve", "--config", "absent.toml"]),
        2,
        "absent.toml",
    );
    check(&with(&[JSON], &["dance"]), 2, "dance");
    check(
        &with(&[JSON, absent], &["migrate"]),
        1,
        "can't use the database",
    );
    // The file says it too, if it can be read that far.
    fs::write(
        program.dir().join("mine.toml"),
        "[log]\nformat = \"json\"\n",
    )
    .unwrap();
    let file = ["--config", "mine.toml", "serve"];
    check(&with(&[absent], &file), 1, "can't use the database");
    check(
        &with(&[("PORT", "eighty")], &file),
        2,
        "wrong settings: http.port",
    );
    // Help is for people.
    let help = with(&[JSON], &["serve", "--help"]);
    assert!(help.ok().contains("Usage: minute-credit serve"));
}

//! Wrong settings and wrong usage end with code 2 and one line that says what is wrong.

use std::fs;

use crate::program::{Program, left};

#[test]
fn wrong_settings_are_named_with_their_source() {
    let program = Program::new();
    fs::write(program.dir().join("typo.toml"), "[tariff]\ncredit = 2\n").unwrap();
    let with = |variable: &str, value: &str, arguments: &[&str]| {
        let mut command = program.command(arguments);
        left(&command.env(variable, value).output().unwrap())
    };
    with("PORT", "eighty", &["serve"])
        .fails(2, &["http.port", "from 0 to 65535", "\"eighty\"", "PORT"]);
    with("MINUTE_CREDIT__TARIFF__CREDITS", "0", &["serve"]).fails(2, &["tariff.credits", "from 1"]);
    with("MINUTE_CREDIT__TARIF__CREDITS", "1", &["serve"])
        .fails(2, &["no setting tarif.credits", "tariff.credits"]);
    with("DATABASE_URL", "mysql://root:secret@x/y", &["migrate"])
        .fails(2, &["database.url", "postgres://"]);
    with("REDIS_URL", "localhost:6379", &["serve"]).fails(2, &["redis.url", "redis://"]);
    with("LANG", "C", &["serve", "--config", "typo.toml"])
        .fails(2, &["tariff.credit ", "typo.toml", "tariff.credits"]);
    with("LANG", "C", &["serve", "--config", "absent.toml"])
        .fails(2, &["absent.toml", "No such file"]);
    assert!(
        fs::read_dir(program.dir()).unwrap().count() == 1,
        "nothing was made"
    );
}

#[test]
fn broken_toml_says_where() {
    let program = Program::new();
    fs::write(program.dir().join("broken.toml"), "[tariff\n").unwrap();
    let left = program.run(&["serve", "--config", "broken.toml"]);
    assert_eq!(left.code, Some(2));
    assert!(left.err.contains("broken.toml is not TOML"), "{}", left.err);
}

#[test]
fn every_command_has_help() {
    let program = Program::new();
    for command in [
        &["--help"][..],
        &["serve", "--help"],
        &["migrate", "--help"],
        &["verify", "--help"],
        &["fixture", "--help"],
        &["user", "--help"],
        &["user", "set-password", "--help"],
        &["credits", "show", "--help"],
        &["credits", "grant", "--help"],
        &["credits", "revoke", "--help"],
        &["credits", "refund", "--help"],
    ] {
        let help = program.run(command).ok();
        assert!(help.contains("Usage: minute-credit"), "{help}");
    }
    assert_eq!(program.run(&[]).code, Some(2));
    assert_eq!(program.run(&["dance"]).code, Some(2));
    assert_eq!(
        program
            .run(&["credits", "grant", "a@b.c", "0", "--reason", "x"])
            .code,
        Some(2)
    );
    assert_eq!(
        program
            .run(&["credits", "grant", "a@b.c", "-5", "--reason", "x"])
            .code,
        Some(2)
    );
}

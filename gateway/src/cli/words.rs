//! What operators write on the command line, and what they may not.

use std::{env, fs};

use anyhow::Context;
use rustix::process::getuid;
use schema::{Credits, Millis, SessionId};

/// The longest reason, in characters.
const REASON_MAX: usize = 500;
/// The longest operator's name or key, in characters.
const NAME_MAX: usize = 100;

/// The key that the program itself gives to the ledger entry of a signup grant.
const SIGNUP_KEY: &str = "signup";
/// What all its other keys begin with, the erasure's for one.
const RESERVED_PREFIX: &str = "minute-credit";

/// Credits, perhaps none.
pub(super) fn parse_credits(text: &str) -> Result<Credits, String> {
    whole(text, "credits", 0)
        .and_then(|credits| Credits::new(credits).map_err(|error| error.to_string()))
}

/// Credits to be moved: at least one.
pub(super) fn parse_amount(text: &str) -> Result<Credits, String> {
    whole(text, "credits", 1)
        .and_then(|credits| Credits::new(credits).map_err(|error| error.to_string()))
}

/// A length of time.
pub(super) fn parse_millis(text: &str) -> Result<Millis, String> {
    whole(text, "milliseconds", 0)
        .and_then(|millis| Millis::new(millis).map_err(|error| error.to_string()))
}

/// A session's id.
pub(super) fn parse_session(text: &str) -> Result<SessionId, String> {
    let id = text.parse::<i64>();
    let id = id.map_err(|_| "must be the number of a session".to_owned())?;
    SessionId::new(id).map_err(|error| error.to_string())
}

/// A whole number of `unit`, at least `min`.
fn whole(text: &str, unit: &str, min: i64) -> Result<i64, String> {
    let max = Credits::MAX.get();
    match text.trim().parse::<i64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) => Err(format!("must be from {min} to {max}")),
        Err(_) => Err(format!(
            "must be a whole number of {unit}, from {min} to {max}"
        )),
    }
}

/// Why something is done, for the ledger.
pub(super) fn parse_reason(text: &str) -> Result<String, String> {
    parse_words(text, REASON_MAX)
}

/// An operator's name.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    parse_words(text, NAME_MAX)
}

/// An idempotency key that the program doesn't use itself: its own entry would find it taken for ever.
pub(super) fn parse_key(text: &str) -> Result<String, String> {
    let key = parse_words(text, NAME_MAX)?;
    let small = key.to_ascii_lowercase();
    if small == SIGNUP_KEY || small.starts_with(RESERVED_PREFIX) {
        return Err(format!(
            "must not be \"{SIGNUP_KEY}\" nor begin with \"{RESERVED_PREFIX}\": the program keeps such keys for itself"
        ));
    }
    Ok(key)
}

/// A line of 1 to `max` characters, without space around it.
fn parse_words(text: &str, max: usize) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.chars().count() > max {
        return Err(format!("must have {max} characters at most"));
    }
    if text.chars().any(hides) {
        return Err(
            "must be one line without control characters, and without signs that hide or turn text around"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// Whether a character makes a line look other than it is: it ends it, turns its direction around, or
/// can't be seen. The two joiners are left alone, which some scripts and signs need.
fn hides(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Who does what is done: whoever is named, or else the user of this process. In a container there may be
/// no name for that.
pub(super) fn operator(named: Option<String>) -> anyhow::Result<String> {
    let from_environment = || {
        let variables = ["USER", "LOGNAME"].into_iter();
        variables
            .filter_map(|variable| env::var(variable).ok())
            .find_map(|name| parse_name(&name).ok())
    };
    let id = getuid().as_raw();
    named
        .or_else(from_environment)
        .or_else(|| name_of(id, &fs::read_to_string("/etc/passwd").ok()?))
        .with_context(|| {
            format!(
                "the ledger records who does this, and there is no name here (no USER, and none for the user id \
                 {id}): repeat with --operator NAME"
            )
        })
}

/// The name of the user with this id, as the system's list of users has it.
fn name_of(id: u32, list: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let is_it = fields.nth(1)?.parse() == Ok(id);
        is_it.then(|| parse_name(name).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole() {
        let check = |text: &str, expected: Option<i64>| {
            let amount = parse_amount(text).ok().map(Credits::get);
            assert_eq!(amount, expected, "{text:?}");
        };
        check("1", Some(1));
        check(" 500 ", Some(500));
        check("9007199254740991", Some(9_007_199_254_740_991));
        for wrong in [
            "",
            "0",
            "-5",
            "1.5",
            "1.0",
            "1,000",
            "1_000",
            "1e3",
            "5 000",
            "9007199254740992",
            "99999999999999999999",
            "all",
            "٥",
        ] {
            check(wrong, None);
            let told = parse_amount(wrong).unwrap_err();
            assert!(told.contains("from 1 to"), "{told}");
        }
    }

    #[test]
    fn a_line_shows_what_it_says() {
        for fine in [
            "case 17",
            "Erstattung, Fälle 17–19 (übrig)",
            "ریاست\u{200c}جمهوری",
            "👩\u{200d}🚀",
            "زر",
        ] {
            assert_eq!(parse_reason(fine).as_deref(), Ok(fine));
        }
        assert_eq!(parse_reason(" x ").as_deref(), Ok("x"));
        let long = "ä".repeat(REASON_MAX);
        assert!(parse_reason(&long).is_ok());
        assert!(parse_reason(&format!("{long}x")).is_err());
        assert!(parse_reason(" \n").is_err());
        for hidden in [
            "\n",
            "\r",
            "\0",
            "\u{1b}",
            "\u{7f}",
            "\u{85}",
            "\u{202e}",
            "\u{202a}",
            "\u{2066}",
            "\u{2069}",
            "\u{200e}",
            "\u{200f}",
            "\u{61c}",
            "\u{200b}",
            "\u{2028}",
            "\u{2029}",
            "\u{feff}",
            "\u{ad}",
            "\u{2060}",
            "\u{e0041}",
        ] {
            for parse in [parse_reason, parse_name, parse_key] {
                let text = format!("a{hidden}b");
                assert!(parse(&text).is_err(), "{text:?}");
            }
        }
    }

    #[test]
    fn keys_of_the_program_are_its_own() {
        for reserved in [
            "minute-credit erasure",
            "Minute-Credit erasure",
            "minute-credit",
            " minute-credit x",
            "signup",
            "SIGNUP",
        ] {
            assert!(
                parse_key(reserved).unwrap_err().contains("for itself"),
                "{reserved}"
            );
        }
        for fine in [
            "case-17",
            "cli-00ff",
            "signup-bonus",
            "payment minute-credit",
        ] {
            assert_eq!(parse_key(fine).as_deref(), Ok(fine));
        }
    }

    #[test]
    fn a_user_of_the_system_has_a_name() {
        let list = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:10001:10001::/:\n";
        assert_eq!(name_of(0, list).as_deref(), Some("root"));
        assert_eq!(name_of(10_001, list).as_deref(), Some("ada"));
        assert_eq!(name_of(7, list), None);
    }
}

//! What an error says together with all that caused it, as one line.

use std::error::Error;

/// `error` and its causes, each after a colon. A cause that the line tells already is left out: not
/// every library leaves it to its reader to follow the causes.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = told(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let text = told(cause);
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    // A library's message may have line ends of its own.
    line.split('\n')
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
}

/// What an error says, without the line of Postgres's own source that it adds.
fn told(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((told, line)) if line.bytes().all(|byte| byte.is_ascii_digit()) => told.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        #[source]
        cause: Option<Box<Link>>,
    }

    #[test]
    fn every_cause_is_told_once() {
        let link = |text, cause: Option<Link>| Link {
            text,
            cause: cause.map(Box::new),
        };
        let refused = link("refused\nby peer", None);
        let talkative = link("can't connect: refused\nby peer", Some(refused));
        let error = link("no database", Some(talkative));
        assert_eq!(chain(&error), "no database: can't connect: refused by peer");
    }

    #[test]
    fn lines_of_others_sources_are_not_told() {
        let check = |text: &'static str, expected: &str| {
            assert_eq!(chain(&Link { text, cause: None }), expected);
        };
        check("no such role at line 768", "no such role");
        check(
            "TOML error at line 3, column 5",
            "TOML error at line 3, column 5",
        );
        let cause = Link {
            text: "no such role at line 768",
            cause: None,
        };
        let error = Link {
            text: "refused: no such role at line 768",
            cause: Some(Box::new(cause)),
        };
        assert_eq!(chain(&error), "refused: no such role");
    }
}

//! What an error says together with all that caused it, as one line.

use std::error::Error;

/// `error` and its causes, each after a colon. A cause that the line tells already is left out: not
/// every library leaves it to its reader to follow the causes.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
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
}

//! How many files the system lets this process have open. Each connection is one.
//!
//! Container engines and systemd give a low soft limit and a high hard one, for the sake of old programs.
//! The soft limit is raised, and what doesn't fit even then waits to be accepted: else a server that is
//! out of files could not even say that it is well.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::settings::Settings;

/// What is open besides connections of clients and of the database: the log, the key, the page's
/// listener, Redis, the collector of traces, and what the runtime needs.
const OTHERS: usize = 64;
/// How many files one connection to SQLite has open: the database, its log and the index of that.
const FILES_OF_SQLITE: usize = 3;

/// Raises the limit as far as the system lets us, and takes no more connections at once than fit into it.
pub fn make_room(settings: &mut Settings) {
    let limit = raised();
    let connections_of_database = settings.store.connections_max as usize + 1;
    let reserved = OTHERS + FILES_OF_SQLITE * connections_of_database;
    let asked = settings.http.connections_max;
    let fitting = fitting(asked, reserved, limit);
    if fitting < asked {
        tracing::warn!(
            open_files_max = limit,
            connections_max = asked,
            "the limit of open files leaves room for {fitting} connections, not for the {asked} of \
             http.connections_max; the others wait: raise LimitNOFILE in the unit, --ulimit nofile of the \
             container, or ulimit -n"
        );
        settings.http.connections_max = fitting;
    }
}

/// Raises the soft limit to the hard one, and returns what holds now; nothing if there is no limit.
fn raised() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => {
            tracing::debug!(
                from = current,
                to = maximum,
                "the limit of open files is raised"
            );
            maximum
        }
        Err(error) => {
            tracing::debug!(%error, "the limit of open files can't be raised");
            current
        }
    }
}

/// How many of `asked` connections there is room for, beside `reserved` other files; at least one.
fn fitting(asked: usize, reserved: usize, limit: Option<u64>) -> usize {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    limit.map_or(asked, |limit| {
        asked.min(limit.saturating_sub(reserved)).max(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_beside_the_other_files() {
        let check = |asked: usize, limit: Option<u64>, expected: usize| {
            assert_eq!(fitting(asked, 100, limit), expected, "{asked} of {limit:?}");
        };
        check(16_000, None, 16_000);
        check(16_000, Some(u64::MAX), 16_000);
        check(16_000, Some(65_536), 16_000);
        check(16_000, Some(16_100), 16_000);
        check(16_000, Some(16_099), 15_999);
        check(16_000, Some(1_024), 924);
        check(16_000, Some(50), 1);
        check(10, Some(1_024), 10);
    }
}

//! What a failure of the database is about, and so what follows from it.
//!
//! A call is refused only for what was asked in it: a value that its column can't take, or a broken
//! constraint. Everything else says that the database can't do it now, whatever the reason, and is
//! waited for: a rotated password or a dropped table is mended by people, and charges go on meanwhile
//! no longer than in any other outage.

use billing::InvalidTariff;
use schema::OutOfRange;

use super::{StoreError, postgres, sqlite};
use crate::facts::InvalidNodeName;

/// What an error of the database is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// What was asked: the same call fails again, and other calls don't.
    Call,
    /// Another transaction was in the way: the same call may succeed at once.
    Conflict,
    /// The database, which can't do it now.
    Database,
    /// The connection, or the server that it leads to: another connection may do it.
    Connection,
}

/// What `error` is about.
pub(super) fn blame(error: &sqlx::Error) -> Blame {
    use sqlx::Error as E;
    match error {
        E::Database(refusal) => {
            let code = refusal.code().unwrap_or_default();
            let is_postgres = refusal
                .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                .is_some();
            if is_postgres {
                postgres::blame(&code)
            } else {
                sqlite::blame(&code)
            }
        }
        E::Encode(_) => Blame::Call,
        E::Io(_) | E::Tls(_) | E::Protocol(_) | E::BeginFailed => Blame::Connection,
        _ => Blame::Database,
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            // A value that stands in a row, and that no value of ours can have.
            E::ColumnDecode { .. } | E::Decode(_) => Self::Corrupt(error.to_string()),
            error if let Some(key) = postgres::repeated_key(&error) => Self::RepeatedKey(key),
            error if blame(&error) == Blame::Call => Self::Refused(error),
            error => Self::Unavailable(error),
        }
    }
}

impl StoreError {
    /// What the error is about, if the database or the way to it gave it.
    pub(super) fn blame(&self) -> Option<Blame> {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => Some(blame(error)),
            Self::OutcomeUnknown(error) => error.blame(),
            // Most of the time the server is busy: to open all connections anew would make it busier. Those
            // to a silent server are found out one by one. A sequence gives another key with each attempt,
            // and some day one past its table.
            Self::TimedOut(_) | Self::RepeatedKey(_) | Self::FileGone { .. } => {
                Some(Blame::Database)
            }
            _ => None,
        }
    }

    /// Whether the server cut the statement off because it took too long.
    pub(super) fn is_cut_off(&self) -> bool {
        let Self::Unavailable(sqlx::Error::Database(error)) = self else {
            return false;
        };
        error.code().as_deref() == Some(postgres::QUERY_CANCELED)
    }

    /// The same error of a COMMIT that was sent: unless the database says that it undid the
    /// transaction, nobody knows whether that is durable.
    pub(super) fn of_commit(self) -> Self {
        match self.blame() {
            Some(Blame::Call | Blame::Conflict) => self,
            _ => Self::OutcomeUnknown(Box::new(self)),
        }
    }
}

/// A number in the database that no value of ours can have.
impl From<OutOfRange> for StoreError {
    fn from(error: OutOfRange) -> Self {
        Self::Corrupt(error.to_string())
    }
}

impl From<InvalidTariff> for StoreError {
    fn from(error: InvalidTariff) -> Self {
        Self::Corrupt(error.to_string())
    }
}

impl From<InvalidNodeName> for StoreError {
    fn from(error: InvalidNodeName) -> Self {
        Self::Corrupt(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every class of SQLSTATE in appendix A of the manual of Postgres 17, with those codes that are
    /// told apart within their class, and one that nobody knows.
    #[test]
    fn every_class_of_sqlstate_is_about_something() {
        use Blame::{Call, Conflict, Connection, Database};
        let check = |codes: &[&str], expected: Blame| {
            for code in codes {
                assert_eq!(postgres::blame(code), expected, "{code}");
            }
        };
        check(
            &["22000", "22001", "22003", "22021", "22P02", "22P05"],
            Call,
        );
        check(
            &["23000", "23502", "23503", "23505", "23514", "23P01"],
            Call,
        );
        check(&["40001", "40P01"], Conflict);
        check(
            &[
                "08000", "08001", "08003", "08004", "08006", "08007", "08P01",
            ],
            Connection,
        );
        check(
            &[
                "25000", "25001", "25006", "25P01", "25P02", "25P03", "25P04",
            ],
            Connection,
        );
        check(&["57P01", "57P02", "57P03", "57P04", "57P05"], Connection);
        check(
            &[
                "00000", "01000", "02000", "03000", "09000", "0A000", "0B000", "0F000",
            ],
            Database,
        );
        check(
            &[
                "0L000", "0P000", "0Z000", "20000", "21000", "24000", "26000", "27000",
            ],
            Database,
        );
        check(
            &[
                "28000", "28P01", "2B000", "2D000", "2F000", "34000", "38000", "39000",
            ],
            Database,
        );
        check(
            &[
                "3B000", "3D000", "3F000", "40000", "40002", "40003", "42501", "42601",
            ],
            Database,
        );
        check(
            &[
                "42703", "42883", "42P01", "42P05", "44000", "53000", "53100", "53200",
            ],
            Database,
        );
        check(
            &[
                "53300", "53400", "54000", "55000", "55006", "55P03", "57000", "57014",
            ],
            Database,
        );
        check(
            &[
                "58000", "58030", "58P01", "72000", "F0000", "HV000", "P0001", "XX000",
            ],
            Database,
        );
        check(&["XX001", "XX002", "99999", "", "2", "22"], Database);
        check(&["ZZZZZ", "\u{e4}\u{e4}\u{e4}"], Database);
    }

    /// Every primary result code of SQLite, some with their extensions, and some that nobody knows.
    #[test]
    fn every_result_code_of_sqlite_is_about_something() {
        use Blame::{Call, Conflict, Database};
        for code in 0..=40 {
            let expected = match code {
                // TOOBIG, CONSTRAINT, MISMATCH, RANGE.
                18 | 19 | 20 | 25 => Call,
                _ => Database,
            };
            assert_eq!(sqlite::blame(&code.to_string()), expected, "{code}");
        }
        let check = |codes: &[&str], expected: Blame| {
            for code in codes {
                assert_eq!(sqlite::blame(code), expected, "{code}");
            }
        };
        // CONSTRAINT_CHECK, _FOREIGNKEY, _NOTNULL, _PRIMARYKEY, _TRIGGER, _UNIQUE.
        check(&["275", "787", "1299", "1555", "1811", "2067"], Call);
        // BUSY_SNAPSHOT.
        check(&["517"], Conflict);
        // BUSY_RECOVERY, LOCKED_SHAREDCACHE, CORRUPT_INDEX, READONLY_DBMOVED, IOERR_FSYNC, CANTOPEN_ISDIR.
        check(&["261", "262", "779", "1032", "1034", "526"], Database);
        check(&["100", "101", "-1", "x", ""], Database);
    }

    #[test]
    fn a_commit_without_an_answer_is_unknown_and_one_that_was_undone_is_not() {
        let broken = StoreError::from(sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
        let broken = broken.of_commit();
        assert!(
            broken.is_outcome_unknown() && broken.is_transient(),
            "{broken}"
        );
        let silent = StoreError::TimedOut(std::time::Duration::ZERO).of_commit();
        assert!(
            silent.is_outcome_unknown() && silent.is_transient(),
            "{silent}"
        );
        let refused = StoreError::from(sqlx::Error::Encode("a value".into())).of_commit();
        assert!(
            !refused.is_outcome_unknown() && !refused.is_transient(),
            "{refused}"
        );
    }
}

//! What a failure of sqlx means to us: whether it can pass by itself, and whether it is our fault.

use billing::InvalidTariff;
use schema::OutOfRange;

use super::{StoreError, postgres, sqlite};
use crate::facts::InvalidNodeName;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match error {
            E::Database(ref refusal) => {
                let code = refusal.code().unwrap_or_default();
                let is_postgres = refusal
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .is_some();
                let is_passing = if is_postgres {
                    postgres::is_passing(&code)
                } else {
                    sqlite::is_passing(&code)
                };
                if is_passing {
                    Self::Unavailable(error)
                } else if !is_postgres && sqlite::is_no_database(&code) {
                    Self::Incompatible("the file is not an SQLite database".to_owned())
                } else {
                    Self::Refused(error)
                }
            }
            E::Io(_)
            | E::Tls(_)
            | E::Protocol(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::BeginFailed => Self::Unavailable(error),
            E::RowNotFound
            | E::TypeNotFound { .. }
            | E::ColumnIndexOutOfBounds { .. }
            | E::ColumnNotFound(_)
            | E::ColumnDecode { .. }
            | E::Decode(_) => Self::Corrupt(error.to_string()),
            other => Self::Refused(other),
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

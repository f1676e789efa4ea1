//! The contract between Minute-Credit and its clients: what stands in HTTP bodies, in websocket
//! messages and in errors, and the newtypes that both sides count with.
//!
//! Everything here compiles to wasm32 and is plain data. Deliberately absent: arithmetic of billing
//! (`billing`), and anything that reads a clock, a socket or a database.
//!
//! Numbers cross the wire as JSON numbers, so every id, amount and time is kept within
//! ±(2^53 − 1), the range that a JavaScript client reads exactly.

pub mod amount;
pub mod id;
pub mod time;

pub mod account;
pub mod error;
pub mod ledger;
pub mod mirror;
pub mod session;
pub mod websocket;

#[cfg(feature = "openapi")]
pub mod openapi;

pub use amount::{Credits, CreditsChange};
pub use error::{ErrorBody, ErrorCode};
pub use id::{EntryId, SessionId, UserId};
pub use time::{Millis, UnixMillis};

/// The greatest whole number that JavaScript holds exactly, 2^53 − 1.
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

/// A number outside the range that its type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be a whole number from {min} to {max}, not {given}")]
pub struct OutOfRange {
    /// What was being built, such as "a session id".
    pub what: &'static str,
    /// The least value allowed.
    pub min: i64,
    /// The greatest value allowed.
    pub max: i64,
    /// The value that was refused.
    pub given: i64,
}

/// Returns `given` if it lies from `min` to [`MAX_SAFE_INTEGER`].
const fn checked(what: &'static str, min: i64, given: i64) -> Result<i64, OutOfRange> {
    if given < min || given > MAX_SAFE_INTEGER {
        return Err(OutOfRange {
            what,
            min,
            max: MAX_SAFE_INTEGER,
            given,
        });
    }
    Ok(given)
}

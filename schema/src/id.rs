//! Ids. All are positive whole numbers that a JSON client reads exactly.

use serde::{Deserialize, Serialize};

use crate::{OutOfRange, checked};

/// Declares an id: the same range, conversions and printing for each, and no way to mix two kinds.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "i64")]
        pub struct $name(i64);

        impl $name {
            /// The id with this number; an error unless it lies from 1 to 2^53 − 1.
            pub const fn new(id: i64) -> Result<Self, OutOfRange> {
                match checked($what, 1, id) {
                    Ok(id) => Ok(Self(id)),
                    Err(error) => Err(error),
                }
            }

            /// The id as a number.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = OutOfRange;
            fn try_from(id: i64) -> Result<Self, OutOfRange> {
                Self::new(id)
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> i64 {
                id.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A user, and at the same time the account in the ledger that is the user's wallet.
    UserId,
    "a user id"
);
id!(
    /// A session. Known before the session is written, so that writing it can be retried.
    SessionId,
    "a session id"
);
id!(
    /// An entry of the ledger.
    EntryId,
    "a ledger entry id"
);

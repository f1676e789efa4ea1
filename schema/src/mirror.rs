//! What stands in Redis for other systems to read: `session:{userId}`, as JSON, with a time to live.
//!
//! It is a copy that may be late or missing; the database is the truth.

use serde::{Deserialize, Serialize};

use crate::{Credits, UnixMillis, UserId, session::ActiveSession};

/// A user's balance and live session, as of an instant. A reader counts down from it by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirroredSession {
    /// Counts the writes to the wallet: of two values the one with the greater version is newer, of
    /// one version the one with the later `as_of`.
    pub version: i64,
    /// The instant that the rest holds for.
    pub as_of: UnixMillis,
    /// The live balance at that instant, before holds.
    pub credits: Credits,
    /// Whether the user has a live session.
    pub active: bool,
    /// The live session, if there is one.
    #[serde(flatten)]
    pub session: Option<ActiveSession>,
}

/// What every key begins with; a user's id follows.
pub const KEY_PREFIX: &str = "session:";

/// The key of a user's value.
pub fn key(user: UserId) -> String {
    format!("{KEY_PREFIX}{user}")
}

/// The user whose key this is, if it is one of ours.
pub fn user_of(key: &str) -> Option<UserId> {
    let number = key.strip_prefix(KEY_PREFIX)?.parse().ok()?;
    let user = UserId::new(number).ok()?;
    // A number can be written in several ways, a key in one.
    (self::key(user) == key).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_keys_name_a_user() {
        assert_eq!(
            user_of("session:42").map(key).as_deref(),
            Some("session:42")
        );
        for other in [
            "",
            "session:",
            "session:x",
            "session:-1",
            "session:0",
            "session:+1",
            "session:042",
            "sess:42",
            "session:42:x",
        ] {
            assert_eq!(user_of(other), None, "{other}");
        }
    }
}

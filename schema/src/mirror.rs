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

/// The key of a user's value.
pub fn key(user: UserId) -> String {
    format!("session:{user}")
}

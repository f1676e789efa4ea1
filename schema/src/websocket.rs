//! What the server says over a websocket. Clients only listen; a client ignores types it doesn't know.

use serde::{Deserialize, Serialize};

use crate::{
    Credits, SessionId, UnixMillis,
    session::{ActiveSession, EndReason},
};

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerMessage {
    /// The balance: the first message on every socket, and one at every change.
    CreditUpdate(CreditUpdate),
    /// A session has begun and is recorded.
    #[serde(rename_all = "camelCase")]
    SessionStarted {
        /// The new session.
        session_id: SessionId,
        /// When it started.
        started_at: UnixMillis,
    },
    /// A session is over and settled.
    #[serde(rename_all = "camelCase")]
    SessionStopped {
        /// The session that ended.
        session_id: SessionId,
        /// Why it ended.
        reason: EndReason,
        /// When it ended.
        ended_at: UnixMillis,
        /// What it cost.
        credits_consumed: Credits,
        /// What the wallet holds now.
        final_credits: Credits,
    },
    /// The credits will soon run out. Said once for each session, and again after credits came in.
    #[serde(rename_all = "camelCase")]
    BalanceLow {
        /// The live balance.
        credits: Credits,
        /// The seconds until the session ends by itself, rounded up.
        seconds_left: i64,
    },
    /// Credits came into the wallet from outside a session.
    #[serde(rename_all = "camelCase")]
    CreditsAdded {
        /// How many.
        amount: Credits,
        /// The live balance with them.
        credits: Credits,
    },
}

/// The balance at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CreditUpdate {
    /// The live balance, before holds.
    pub credits: Credits,
    /// The instant that `credits` holds for.
    pub as_of: UnixMillis,
    /// Whether the user has a live session.
    pub active: bool,
    /// The live session, if there is one.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::SessionIfAny))]
    pub session: Option<ActiveSession>,
}

/// Why the server closed a socket, and whether coming back makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// The server is going away: come back after a jittered wait.
    GoingAway,
    /// The client may not be here: don't come back with the same token.
    NotAllowed,
    /// A message from the client was too large.
    TooLarge,
    /// Too many sockets, or too busy: come back later.
    TryLater,
    /// The socket was too slow to take its events: come back at once and resync.
    TooSlow,
}

impl CloseCode {
    /// The number in the close frame.
    pub const fn number(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::NotAllowed => 1008,
            Self::TooLarge => 1009,
            Self::TryLater => 1013,
            Self::TooSlow => 4000,
        }
    }

    /// Whether a client that was closed with `number` should connect again.
    pub const fn should_reconnect(number: u16) -> bool {
        number != Self::NotAllowed.number()
    }
}

//! What the server says over a websocket or an event stream. Clients only listen; a client ignores
//! types it doesn't know.
//!
//! Events, which is every type but `credit_update`, are numbered one by one for each user. A client that
//! comes back says where it was, as `?since=EPOCH:SEQ`, and learns whether it missed something.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Credits, MAX_SAFE_INTEGER, SessionId, UnixMillis,
    session::{ActiveSession, EndReason},
};

/// A message from the server, with its place in the user's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamMessage {
    /// What it says.
    #[serde(flatten)]
    pub message: ServerMessage,
    /// Where it stands: an event at its own number, a balance at that of the event before it.
    #[serde(flatten)]
    pub position: StreamPosition,
}

/// A place in a user's stream of events. As text it is `EPOCH:SEQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamPosition {
    /// Which numbering it is. Another one begins when the server has forgotten the one before, at its
    /// start for example; numbers of different epochs have nothing to do with each other.
    #[cfg_attr(feature = "openapi", schema(maximum = 9_007_199_254_740_991_u64))]
    pub epoch: u64,
    /// The number of the last event, from 1; 0 before the first.
    #[cfg_attr(feature = "openapi", schema(maximum = 9_007_199_254_740_991_u64))]
    pub seq: u64,
}

/// What is no position in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position in the stream is EPOCH:SEQ, as in 17:4")]
pub struct InvalidPosition;

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

impl FromStr for StreamPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let number = |digits: &str| {
            let is_plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let number = digits.parse().ok().filter(|_| is_plain);
            number.filter(|number| *number <= MAX_SAFE_INTEGER.unsigned_abs())
        };
        let (epoch, seq) = text.split_once(':').ok_or(InvalidPosition)?;
        Ok(Self {
            epoch: number(epoch).ok_or(InvalidPosition)?,
            seq: number(seq).ok_or(InvalidPosition)?,
        })
    }
}

/// When a client wants balances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Updates {
    /// At every change: `updates=all`, or nothing.
    #[default]
    All,
    /// Only when the rate, the session or the wallet changes, and every 30 seconds; the client counts
    /// down between: `updates=rate`.
    Rate,
}

impl Updates {
    /// The mode with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "all" => Some(Self::All),
            "rate" => Some(Self::Rate),
            _ => None,
        }
    }
}

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
    /// In the first message to a client that said where it was: whether every event since then follows.
    /// If not, some may be missing, and the client should read anew what it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub resumed: Option<bool>,
}

/// Why the server closed a socket, and whether coming back makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// The server is going away: come back after a jittered wait.
    GoingAway,
    /// The client broke the websocket's protocol.
    Malformed,
    /// A text from the client was not UTF-8.
    NotText,
    /// The client may not be here: don't come back with the same token.
    NotAllowed,
    /// A message from the client was too large.
    TooLarge,
    /// Too many sockets, or too busy: come back later.
    TryLater,
    /// The socket was too slow to take its events: come back at once and resync.
    TooSlow,
    /// The client sent too much; clients have nothing to say: come back later, and say less.
    TooTalkative,
}

/// The reason in the close frame, and in an event stream's refusal, where a user has too many of them open.
pub const TOO_MANY_CONNECTIONS: &str = "Too many connections";

impl CloseCode {
    /// What a socket's end counts as that its client asked for.
    pub const NORMAL: u16 = 1000;
    /// What a socket's end counts as that had no close frame (RFC 6455, section 7.4.1).
    pub const ABNORMAL: u16 = 1006;

    /// The number in the close frame.
    pub const fn number(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Malformed => 1002,
            Self::NotText => 1007,
            Self::NotAllowed => 1008,
            Self::TooLarge => 1009,
            Self::TryLater => 1013,
            Self::TooSlow => 4000,
            Self::TooTalkative => 4001,
        }
    }

    /// Whether a client that was closed with `number` should connect again.
    pub const fn should_reconnect(number: u16) -> bool {
        number != Self::NotAllowed.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        let check = |text: &str, expected: Option<(u64, u64)>| {
            let read = text.parse::<StreamPosition>().ok();
            assert_eq!(read.map(|at| (at.epoch, at.seq)), expected, "{text:?}");
            if let Some(position) = read {
                assert_eq!(position.to_string(), text);
            }
        };
        check("17:4", Some((17, 4)));
        check("0:0", Some((0, 0)));
        check("9007199254740991:1", Some((9_007_199_254_740_991, 1)));
        check("9007199254740992:1", None);
        check("17", None);
        check(":", None);
        check("17:", None);
        check("+1:2", None);
        check("1:-2", None);
        check("1:2:3", None);
        check(" 1:2", None);
        check("99999999999999999999999:1", None);
    }
}

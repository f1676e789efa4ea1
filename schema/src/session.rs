//! Starting, stopping and watching sessions, and the history of them.

use serde::{Deserialize, Serialize};

use crate::{Credits, Millis, SessionId, UnixMillis};

/// What a dashboard needs to draw a live session's countdown by itself.
///
/// It is flattened into the replies that speak of a balance; without a live session those replies
/// lack its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ActiveSession {
    /// The live session's id.
    pub session_id: SessionId,
    /// When it started.
    pub started_at: UnixMillis,
    /// What it has cost so far.
    pub consumed: Credits,
    /// Its price, in credits for each interval.
    pub credits_per_interval: Credits,
    /// The interval.
    pub interval_ms: Millis,
    /// When the interval in progress ends; `null` while the session is paused.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub next_charge_at: Option<UnixMillis>,
    /// When the credits run out if nothing changes; `null` while the session is paused, or where
    /// that is further off than a time can say.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub depletes_at: Option<UnixMillis>,
}

/// The reply of `GET /api/sessions/credits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LiveBalance {
    /// The live balance, before holds.
    pub credits: Credits,
    /// The instant that `credits` holds for.
    pub as_of: UnixMillis,
    /// The live session, if there is one.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::SessionIfAny))]
    pub session: Option<ActiveSession>,
}

/// The reply of `GET /api/sessions/active`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Active {
    /// Whether the user has a live session.
    pub active: bool,
    /// The balance and the session.
    #[serde(flatten)]
    pub balance: LiveBalance,
}

/// The reply of `POST /api/sessions/start`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionStarted {
    /// `"Session started"`.
    pub message: String,
    /// The new session's id.
    pub session_id: SessionId,
    /// When it started.
    pub started_at: UnixMillis,
}

/// The reply of `POST /api/sessions/stop`. `credits_consumed + final_credits` is what the user had
/// when the session started and what came in meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionStopped {
    /// `"Session stopped"`.
    pub message: String,
    /// The session that ended.
    pub session_id: SessionId,
    /// What it cost.
    pub credits_consumed: Credits,
    /// What the wallet holds now.
    pub final_credits: Credits,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Why it ended; a stop that meets another end reports that one.
    pub reason: EndReason,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The user stopped it.
    User,
    /// The credits ran out.
    Depleted,
    /// An operator stopped it.
    Admin,
    /// The engine ended it: it was down for too long, or nobody was there to take the start's reply.
    Engine,
}

impl EndReason {
    /// All reasons there are.
    pub const ALL: [Self; 4] = [Self::User, Self::Depleted, Self::Admin, Self::Engine];

    /// The name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Depleted => "depleted",
            Self::Admin => "admin",
            Self::Engine => "engine",
        }
    }

    /// The reason with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// One session in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// The session's id.
    pub session_id: SessionId,
    /// When it started.
    pub started_at: UnixMillis,
    /// When it ended; `null` while it lives.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub ended_at: Option<UnixMillis>,
    /// What it has cost.
    pub credits_consumed: Credits,
    /// Why it ended; `null` while it lives.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub end_reason: Option<EndReason>,
    /// The time it was served for: its length, less pauses and downtime.
    pub served_ms: Millis,
    /// Its price, in credits for each interval.
    pub credits_per_interval: Credits,
    /// The interval.
    pub interval_ms: Millis,
}

/// The reply of `GET /api/sessions`: newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionPage {
    /// The sessions of this page.
    pub sessions: Vec<SessionRecord>,
    /// What to pass as `cursor` for the page after this one; `null` on the last.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub next_cursor: Option<String>,
}

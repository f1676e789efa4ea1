//! Failures as clients see them: a sentence for people and a code for programs.

use serde::{Deserialize, Serialize};

/// The body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// A sentence that a person can read.
    pub error: String,
    /// The failure's name for programs.
    pub code: ErrorCode,
    /// With status 422, the field of the request that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub field: Option<String>,
}

/// The name of a failure. Each belongs to one HTTP status, and says so in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The body is not JSON.
    InvalidJson,
    /// The address's query or path has a part that can't be read.
    InvalidRequest,
    /// No bearer token came with a request that needs one.
    TokenRequired,
    /// The token is forged, expired, revoked or not for us.
    InvalidToken,
    /// Email and password don't belong together, or nobody has that email.
    InvalidCredentials,
    /// The wallet can't pay for the first interval.
    InsufficientCredits,
    /// A browser page from an origin that is not allowed.
    OriginNotAllowed,
    /// There is nothing at that path, or nothing of that id for this user.
    NotFound,
    /// The path exists, the method doesn't. The reply has an `Allow` header.
    MethodNotAllowed,
    /// The body or the headers took too long to arrive.
    RequestTimeout,
    /// Somebody has signed up with that email.
    EmailTaken,
    /// The user has a live session already.
    SessionActive,
    /// The user has no live session to stop.
    NoActiveSession,
    /// The request's `Idempotency-Key` belongs to another request.
    IdempotencyConflict,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body is not marked as `application/json`.
    UnsupportedMediaType,
    /// The address takes websockets of another version only. The reply names it.
    UpgradeRequired,
    /// A field is missing, of the wrong type, unknown or out of range.
    InvalidField,
    /// The email is not an email address.
    InvalidEmail,
    /// The password is shorter or longer than allowed.
    InvalidPassword,
    /// The user has stopped too many sessions in the last hour before they cost anything;
    /// `Retry-After` says when to come back.
    TooManyUnpaidSessions,
    /// Too many requests of that kind; `Retry-After` says when to come back.
    RateLimited,
    /// A fault of ours. The log has its cause.
    Internal,
    /// The server can't do that just now and did nothing; `Retry-After` says when to come back.
    Unavailable,
    /// The server can't say yet whether it was done. Retry the same request, never a new one.
    OutcomeUnknown,
}

impl ErrorCode {
    /// The HTTP status that goes with the failure.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidJson | Self::InvalidRequest => 400,
            Self::TokenRequired | Self::InvalidToken | Self::InvalidCredentials => 401,
            Self::InsufficientCredits => 402,
            Self::OriginNotAllowed => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::EmailTaken
            | Self::SessionActive
            | Self::NoActiveSession
            | Self::IdempotencyConflict => 409,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::UpgradeRequired => 426,
            Self::InvalidField | Self::InvalidEmail | Self::InvalidPassword => 422,
            Self::RateLimited | Self::TooManyUnpaidSessions => 429,
            Self::Internal => 500,
            Self::Unavailable | Self::OutcomeUnknown => 503,
        }
    }
}

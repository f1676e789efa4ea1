//! Signing up, logging in and out, and who the caller is.

use serde::{Deserialize, Serialize};

use crate::{Credits, UnixMillis, UserId, session::ActiveSession};

/// The shortest password accepted, in characters of Unicode, in normal form (NFC).
pub const PASSWORD_CHARACTERS_MIN: usize = 8;
/// The longest password accepted, in bytes of UTF-8.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// The body of `POST /api/auth/signup` and `POST /api/auth/login`.
// It has no `Debug`, so that a password can't reach a log by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EmailAndPassword {
    /// The email address; case is kept, and ignored in comparisons.
    #[cfg_attr(
        feature = "openapi",
        schema(format = "email", max_length = 254, example = "ada@example.com")
    )]
    pub email: String,
    /// The password: 8 characters at least, 1024 bytes of UTF-8 at most; at signup, none that many people use.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 8, max_length = 1024, example = "correct horse")
    )]
    pub password: String,
}

/// The reply to a signup or a log-in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Authenticated {
    /// `"User created successfully"` or `"Login successful"`.
    pub message: String,
    /// The bearer token for everything else. A secret.
    pub token: String,
    /// Who it is for.
    pub user: User,
}

/// A user as the user sees themself; also the reply of `GET /api/auth/me`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The email as it was given at signup.
    pub email: String,
    /// The live balance, before holds.
    pub credits: Credits,
    /// The instant that `credits` holds for.
    pub as_of: UnixMillis,
    /// When the user signed up.
    pub created_at: UnixMillis,
    /// The live session, if there is one.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::SessionIfAny))]
    pub session: Option<ActiveSession>,
}

/// The body of `POST /api/auth/logout`; none is the same as one without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogOut {
    /// Whether all tokens of the user die, and not only the one that it is asked with.
    #[serde(default)]
    pub everywhere: bool,
}

/// The body of `POST /api/auth/password`. All tokens of the user die but the one that it is asked with.
// It has no `Debug`, so that a password can't reach a log by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangePassword {
    /// The password until now.
    #[cfg_attr(
        feature = "openapi",
        schema(max_length = 1024, example = "correct horse")
    )]
    pub current: String,
    /// The one from now on: 8 characters at least, 1024 bytes of UTF-8 at most, none that many people use.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 8, max_length = 1024, example = "battery staple")
    )]
    pub new: String,
}

/// The body of `POST /api/auth/erase`: a token alone is not enough to erase an account.
// It has no `Debug`, so that a password can't reach a log by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EraseAccount {
    /// The account's password.
    #[cfg_attr(
        feature = "openapi",
        schema(max_length = 1024, example = "correct horse")
    )]
    pub password: String,
}

/// The reply of `POST /api/ws/ticket`: what opens one stream in a token's place.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// To be put into the address as `ticket`. It opens one stream, and no call takes it.
    pub ticket: String,
    /// For how many seconds it may be used.
    pub expires_in: i64,
}

/// A reply that has nothing to say but that it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Done {
    /// A sentence that a person can read.
    pub message: String,
}

//! A wallet's movements.

use serde::{Deserialize, Serialize};

use crate::{Credits, CreditsChange, EntryId, SessionId, UnixMillis};

/// What a movement of credits is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EntryKind {
    /// The credits that come with signing up.
    SignupGrant,
    /// What a session cost since its previous settlement.
    Usage,
    /// Credits given by an operator.
    Grant,
    /// Credits taken back by an operator.
    Revoke,
    /// What a session cost, given back by an operator.
    Refund,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::SignupGrant,
        Self::Usage,
        Self::Grant,
        Self::Revoke,
        Self::Refund,
    ];

    /// The name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignupGrant => "signup_grant",
            Self::Usage => "usage",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::Refund => "refund",
        }
    }

    /// The kind with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One movement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerEntry {
    /// The entry's id.
    pub entry_id: EntryId,
    /// When it counts from.
    pub at: UnixMillis,
    /// What it is for.
    pub kind: EntryKind,
    /// What it did to the balance; negative where credits went out.
    pub amount: CreditsChange,
    /// The wallet's balance right after it.
    pub balance_after: Credits,
    /// The session it belongs to, if any.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub session_id: Option<SessionId>,
    /// Why an operator made it, if one did.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub reason: Option<String>,
}

/// The reply of `GET /api/ledger`: newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerPage {
    /// The entries of this page.
    pub entries: Vec<LedgerEntry>,
    /// What to pass as `cursor` for the page after this one; `null` on the last.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub next_cursor: Option<String>,
}

//! What passes between a wallet and the database: what is to be recorded, and what was read.

use schema::{Credits, CreditsChange, Millis, SessionId, UnixMillis, UserId, session::EndReason};

use super::{Settled, SlotNumber};
use crate::Tariff;

/// Counts the writes to a wallet. Every write carries the version that it was decided from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalletVersion(i64);

impl WalletVersion {
    /// The version with this number.
    pub const fn new(version: i64) -> Self {
        Self(version)
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The version after one more write.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The start of a session, to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whose.
    pub user: UserId,
    /// The version that it was decided from.
    pub version: WalletVersion,
    /// The session's id.
    pub session: SessionId,
    /// Its slot.
    pub slot: SlotNumber,
    /// Its tariff.
    pub tariff: Tariff,
    /// When it starts.
    pub started_at: UnixMillis,
}

/// A session's charge so far, to be recorded. It is cumulative: recording it twice moves nothing
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Whose.
    pub user: UserId,
    /// The version that it was decided from.
    pub version: WalletVersion,
    /// The session.
    pub session: SessionId,
    /// Its number among the session's settlements, from 1.
    pub seq: i64,
    /// What the session has cost in all.
    pub total: Credits,
    /// The time it has been served for in all.
    pub served: Millis,
    /// The instant that both hold for.
    pub at: UnixMillis,
    /// Why the session ended at that instant, if it did.
    pub end: Option<EndReason>,
}

/// A change of the balance that somebody else wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceChange {
    /// The instant from which it counts.
    pub at: UnixMillis,
    /// What came in, or went out.
    pub amount: CreditsChange,
}

/// What the database says of a wallet, read because it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebase {
    /// The version now.
    pub version: WalletVersion,
    /// The balance in the ledger now.
    pub ledger_balance: Credits,
    /// The changes by others since the version that the wallet had, in the order of their versions.
    pub changes: Vec<BalanceChange>,
    /// The sessions that are live in the database, with what is settled of each.
    pub live: Vec<(SessionId, Settled)>,
}

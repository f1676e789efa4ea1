//! Amounts of credits. A credit is whole; there are no fractions anywhere in the system.

use serde::{Deserialize, Serialize};

use crate::{MAX_SAFE_INTEGER, OutOfRange, checked};

/// An amount of whole credits, from 0 to 2^53 − 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "i64", into = "i64")]
pub struct Credits(i64);

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);
    /// The greatest amount there can be.
    pub const MAX: Self = Self(MAX_SAFE_INTEGER);

    /// An amount of `credits`; an error if it is negative or above [`Credits::MAX`].
    pub const fn new(credits: i64) -> Result<Self, OutOfRange> {
        match checked("an amount of credits", 0, credits) {
            Ok(credits) => Ok(Self(credits)),
            Err(error) => Err(error),
        }
    }

    /// The amount as a number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// `self + other`, or nothing where that exceeds [`Credits::MAX`].
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0
            .checked_add(other.0)
            .and_then(|sum| Self::new(sum).ok())
    }

    /// `self − other`, or nothing where `other` is the greater.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Self::new(self.0 - other.0).ok()
    }

    /// `self` with `change` applied, or nothing where the result would be out of range.
    pub fn checked_change(self, change: CreditsChange) -> Option<Self> {
        self.0
            .checked_add(change.0)
            .and_then(|sum| Self::new(sum).ok())
    }

    /// Whether this is no credit at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<i64> for Credits {
    type Error = OutOfRange;
    fn try_from(credits: i64) -> Result<Self, OutOfRange> {
        Self::new(credits)
    }
}

impl From<Credits> for i64 {
    fn from(credits: Credits) -> i64 {
        credits.0
    }
}

impl std::fmt::Display for Credits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A signed movement of credits as a wallet sees it: what comes in is positive.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "i64", into = "i64")]
pub struct CreditsChange(i64);

impl CreditsChange {
    /// `amount` coming into the wallet.
    pub const fn incoming(amount: Credits) -> Self {
        Self(amount.0)
    }

    /// `amount` going out of the wallet.
    pub const fn outgoing(amount: Credits) -> Self {
        Self(-amount.0)
    }

    /// The signed number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for CreditsChange {
    type Error = OutOfRange;
    fn try_from(change: i64) -> Result<Self, OutOfRange> {
        checked("a change of credits", -MAX_SAFE_INTEGER, change).map(Self)
    }
}

impl From<CreditsChange> for i64 {
    fn from(change: CreditsChange) -> i64 {
        change.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_stay_in_range() {
        assert_eq!(Credits::new(-1).map_err(|e| e.given), Err(-1));
        assert!(Credits::new(MAX_SAFE_INTEGER + 1).is_err());
        assert_eq!(Credits::MAX.checked_add(Credits::ZERO), Some(Credits::MAX));
        assert_eq!(Credits::MAX.checked_add(Credits(1)), None);
        assert_eq!(Credits(1).checked_sub(Credits(2)), None);
        assert_eq!(
            Credits(3).checked_change(CreditsChange::outgoing(Credits(3))),
            Some(Credits::ZERO)
        );
        assert_eq!(
            Credits(3).checked_change(CreditsChange::outgoing(Credits(4))),
            None
        );
    }

    #[test]
    fn json_refuses_what_the_type_refuses() {
        assert!(serde_json::from_str::<Credits>("-1").is_err());
        assert!(serde_json::from_str::<Credits>("1.5").is_err());
        assert_eq!(serde_json::from_str::<Credits>("95").unwrap(), Credits(95));
    }
}

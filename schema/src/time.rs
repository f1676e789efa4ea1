//! Instants and durations in whole milliseconds.

use serde::{Deserialize, Serialize};

use crate::{MAX_SAFE_INTEGER, OutOfRange, checked};

/// An instant: milliseconds since 1970-01-01T00:00:00Z, from 0 to 2^53 − 1 (the year 287396).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "i64", into = "i64")]
pub struct UnixMillis(i64);

impl UnixMillis {
    /// 1970-01-01T00:00:00Z, before every instant that the system can record.
    pub const EPOCH: Self = Self(0);
    /// The last instant there is.
    pub const MAX: Self = Self(MAX_SAFE_INTEGER);

    /// The instant `millis` after 1970; an error if it is negative or past [`UnixMillis::MAX`].
    pub const fn new(millis: i64) -> Result<Self, OutOfRange> {
        match checked("an instant in ms since 1970", 0, millis) {
            Ok(millis) => Ok(Self(millis)),
            Err(error) => Err(error),
        }
    }

    /// The instant of a constant, checked when the program is compiled.
    ///
    /// # Panics
    ///
    /// Where [`UnixMillis::new`] gives an error.
    pub const fn literal(millis: i64) -> Self {
        assert!(millis >= 0 && millis <= MAX_SAFE_INTEGER, "not an instant");
        Self(millis)
    }

    /// The instant as milliseconds since 1970.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Millis {
        Millis((self.0 - earlier.0).max(0))
    }

    /// The instant `duration` later, or nothing where that is past [`UnixMillis::MAX`].
    pub fn checked_add(self, duration: Millis) -> Option<Self> {
        self.0
            .checked_add(duration.0)
            .and_then(|millis| Self::new(millis).ok())
    }

    /// The instant `duration` earlier, or 1970 where that would be before it.
    #[must_use]
    pub fn saturating_sub(self, duration: Millis) -> Self {
        Self((self.0 - duration.0).max(0))
    }
}

impl TryFrom<i64> for UnixMillis {
    type Error = OutOfRange;
    fn try_from(millis: i64) -> Result<Self, OutOfRange> {
        Self::new(millis)
    }
}

impl From<UnixMillis> for i64 {
    fn from(instant: UnixMillis) -> i64 {
        instant.0
    }
}

impl std::fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A length of time in milliseconds, from 0 to 2^53 − 1 (285,420 years).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "i64", into = "i64")]
pub struct Millis(i64);

impl Millis {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest length of time there is.
    pub const MAX: Self = Self(MAX_SAFE_INTEGER);

    /// A length of `millis`; an error if it is negative or above [`Millis::MAX`].
    pub const fn new(millis: i64) -> Result<Self, OutOfRange> {
        match checked("a length of time in ms", 0, millis) {
            Ok(millis) => Ok(Self(millis)),
            Err(error) => Err(error),
        }
    }

    /// The length of a constant, checked when the program is compiled.
    ///
    /// # Panics
    ///
    /// Where [`Millis::new`] gives an error.
    pub const fn literal(millis: i64) -> Self {
        assert!(
            millis >= 0 && millis <= MAX_SAFE_INTEGER,
            "not a length of time"
        );
        Self(millis)
    }

    /// The length as a number of milliseconds.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// `self + other`, or [`Millis::MAX`] where the sum exceeds it.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self((self.0 + other.0).min(MAX_SAFE_INTEGER))
    }

    /// `self − other`, or zero where `other` is the longer.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    /// The length as a [`std::time::Duration`].
    pub fn to_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.unsigned_abs())
    }
}

impl TryFrom<i64> for Millis {
    type Error = OutOfRange;
    fn try_from(millis: i64) -> Result<Self, OutOfRange> {
        Self::new(millis)
    }
}

impl From<Millis> for i64 {
    fn from(length: Millis) -> i64 {
        length.0
    }
}

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

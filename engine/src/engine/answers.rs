//! What the engine answers to calls: successes, and refusals with their names.

use schema::{Credits, Millis, SessionId, UnixMillis, session::EndReason};

/// A session that has started and is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub session: SessionId,
    /// When it started.
    pub started_at: UnixMillis,
}

/// A session that has ended and is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Its id.
    pub session: SessionId,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Why.
    pub reason: EndReason,
    /// What it cost.
    pub consumed: Credits,
    /// What the wallet holds now.
    pub final_credits: Credits,
}

/// Why a session did not start.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such user.
    #[error("there is no such user")]
    UserUnknown,
    /// The user has a live session.
    #[error("a session is live already")]
    SessionActive,
    /// The free credits don't cover the first interval.
    #[error("not enough credits")]
    InsufficientCredits,
    /// The idempotency key belongs to another request.
    #[error("the idempotency key was used for another request")]
    KeyConflict,
    /// The user has stopped too many sessions in the last hour before they cost anything.
    #[error("too many sessions were stopped before they cost anything")]
    TooManyUnpaid {
        /// How long it will be so.
        retry_after: Millis,
    },
    /// Nothing was done: the engine is too busy, draining, or without its database.
    #[error("the engine can't start sessions just now")]
    Unavailable,
    /// It may or may not have started.
    #[error("whether the session started is not known yet")]
    OutcomeUnknown,
}

/// Why no session was stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The user has no live session.
    #[error("there is no live session")]
    NoActiveSession,
    /// The idempotency key belongs to another request.
    #[error("the idempotency key was used for another request")]
    KeyConflict,
    /// Nothing was done: the engine is too busy or draining.
    #[error("the engine can't stop sessions just now")]
    Unavailable,
    /// The session's end is decided, and will be recorded; it is not durable yet.
    #[error("whether the end is recorded is not known yet")]
    OutcomeUnknown,
}

/// Why there is no balance to tell.
#[derive(Debug, thiserror::Error)]
pub enum BalanceError {
    /// There is no such user.
    #[error("there is no such user")]
    UserUnknown,
    /// The engine is too busy, or the database can't be reached.
    #[error("the balance can't be read just now")]
    Unavailable,
}

/// Why a call has no answer.
pub(super) enum CallError {
    /// It was not taken on: nothing was done.
    NotTaken,
    /// It was, but what became of it is not known.
    NoReply,
}

impl From<CallError> for StartError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotTaken => Self::Unavailable,
            CallError::NoReply => Self::OutcomeUnknown,
        }
    }
}

impl From<CallError> for StopError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotTaken => Self::Unavailable,
            CallError::NoReply => Self::OutcomeUnknown,
        }
    }
}

impl From<CallError> for BalanceError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotTaken | CallError::NoReply => Self::Unavailable,
        }
    }
}

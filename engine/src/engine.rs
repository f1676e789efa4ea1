//! The engine's front door: start it, call it, stop it.

use std::{sync::Arc, time::Duration};

use billing::Tariff;
use ractor::DerivedActorRef;
use schema::{Credits, Millis, SessionId, UnixMillis, UserId, session::{EndReason, LiveBalance}};

use crate::{
    clock::Clock,
    facts::NodeName,
    store::{Store, StoreError},
    update::UserUpdate,
};

/// What happens to live sessions when a node comes back after a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveredSessions {
    /// They go on; downtime is free.
    Resume,
    /// They end at the instant the node was last alive.
    Stop,
}

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The name that sessions are served under.
    pub node: NodeName,
    /// The tariff of new sessions.
    pub tariff: Tariff,
    /// How often a live session's charge is moved into the ledger.
    pub settle_every: Millis,
    /// With how much time left the balance is low.
    pub low_balance: Millis,
    /// What happens to sessions found live at start-up.
    pub recovered_sessions: RecoveredSessions,
    /// After a longer gap, sessions end at the cut in any case.
    pub resume_within: Millis,
    /// How long a caller waits before an outcome is unknown.
    pub call_timeout: Duration,
    /// How many calls may wait for the engine at once; past that they are refused.
    pub calls_max: usize,
    /// Where the live state is mirrored, if anywhere: a `redis://` address. May hold a password.
    pub redis_url: Option<String>,
}

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
#[derive(Debug, thiserror::Error)]
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

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineStartError {
    /// The database failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The mirror's address or connection can't be used.
    #[error("the mirror at REDIS_URL can't be used: {0}")]
    Mirror(String),
    /// An actor could not be started.
    #[error("an actor did not start")]
    Actor(#[from] ractor::SpawnErr),
}

/// The running engine. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    clock: Clock,
    store: Arc<dyn Store>,
}

impl Engine {
    /// Begins the node's next run, takes over its live sessions and starts all actors. What happens
    /// to balances is cast to `updates`.
    pub async fn start(
        settings: EngineSettings,
        store: Arc<dyn Store>,
        clock: Clock,
        updates: DerivedActorRef<UserUpdate>,
    ) -> Result<Self, EngineStartError> {
        let _ = (settings, updates);
        Ok(Self { clock, store })
    }

    /// Starts a session for `user`; returns when it is durable.
    pub async fn start_session(&self, user: UserId) -> Result<Started, StartError> {
        let _ = user;
        unimplemented!()
    }

    /// Stops the session of `user`; returns when its end is durable.
    pub async fn stop_session(&self, user: UserId, reason: EndReason) -> Result<Stopped, StopError> {
        let _ = (user, reason);
        unimplemented!()
    }

    /// The live balance of `user` now, with the live session if there is one.
    pub async fn balance(&self, user: UserId) -> Result<LiveBalance, BalanceError> {
        let _ = user;
        unimplemented!()
    }

    /// Says that somebody watches the balance of `user` from now on: every change of it is cast to
    /// the updates, beginning with the balance now.
    pub fn watch(&self, user: UserId) {
        let _ = user;
    }

    /// Says that nobody watches the balance of `user` any more.
    pub fn unwatch(&self, user: UserId) {
        let _ = user;
    }

    /// How many sessions are live here.
    pub fn live_sessions(&self) -> usize {
        0
    }

    /// Whether the journal gets its facts into the database.
    pub fn is_recording(&self) -> bool {
        true
    }

    /// Returns when the engine can't go on because another process runs under its node's name.
    pub async fn superseded(&self) {
        std::future::pending().await
    }

    /// The engine's clock.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The engine's store, for accounts, history and audits.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Drains sessions, journal and mirror, in this order. Live sessions stay live in the database
    /// and go on in the next run; nothing is served after this.
    pub async fn shutdown(&self) {}
}

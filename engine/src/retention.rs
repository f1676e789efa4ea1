//! Retention: deletes what is older than it needs to be, in one task, in small portions with pauses
//! between them, so that billing never waits for it.
//!
//! Idempotency keys, notices and revoked tokens go as soon as nobody can need them. Sessions that cost
//! nothing, and runs in which no session was live that is still there, go when the settings say so. What
//! the ledger refers to is kept for ever.

use std::{sync::Arc, time::Duration};

use ractor::ActorRef;
use schema::{Millis, SessionId, UnixMillis};

use crate::{
    keys,
    store::{OldSession, RunSpan, Store, StoreError},
    supervisor::SupervisorMessage,
    timeline::Timeline,
};

/// How often what is short-lived is deleted.
const PURGE_EVERY: Duration = Duration::from_mins(10);
/// How often the history is gone through: every so many purges, which is once a day.
const PURGES_FOR_A_SWEEP: u32 = 144;
/// How many rows one transaction deletes, or looks at.
const PORTION: u32 = 1_000;
/// The pause after each portion.
const PAUSE: Duration = Duration::from_millis(50);
/// For how long a notice is kept: processes read it within a second.
const NOTICES_KEPT_FOR: Millis = Millis::literal(3_600_000);

/// For how long a revoked token is remembered after it would have ended: for so long an ended one may
/// still show that somebody is the owner of an account.
pub const REVOKED_TOKENS_KEPT_FOR: Millis = Millis::literal(30 * 24 * 3_600_000);

/// For how long history is kept; nothing: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Sessions that cost nothing, since they ended.
    pub unpaid_sessions: Option<Millis>,
    /// Runs of nodes that no session refers to, since they ended.
    pub runs: Option<Millis>,
}

/// What a sweep has deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many sessions.
    pub sessions: u64,
    /// How many runs.
    pub runs: u64,
}

/// Deletes what is old, now and then, until the engine stops.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    settings: RetentionSettings,
    timeline: Timeline,
    supervisor: ActorRef<SupervisorMessage>,
) {
    let mut purges = 0_u32;
    loop {
        tokio::select! {
            _stopped = supervisor.wait(None) => return,
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
        let (store, now) = (store.as_ref(), timeline.now());
        tell_failure("idempotency keys", purge_keys(store, now).await);
        tell_failure("notices", purge_notices(store, now).await);
        tell_failure("revoked tokens", purge_tokens(store, now).await);
        if purges.is_multiple_of(PURGES_FOR_A_SWEEP) && settings != RetentionSettings::default() {
            let swept = sweep(store, settings, now).await;
            if let Ok(Swept { sessions, runs }) = swept {
                tracing::info!(sessions, runs, "old history was deleted");
            }
            tell_failure("history", swept.map(drop));
        }
        purges = purges.wrapping_add(1);
    }
}

fn tell_failure(what: &str, result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(
            what,
            error = &error as &dyn std::error::Error,
            "can't delete what is old"
        );
    }
}

async fn purge_keys(store: &dyn Store, now: UnixMillis) -> Result<(), StoreError> {
    while store.purge_keys(keys::expired_at(now), PORTION).await? >= u64::from(PORTION) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn purge_notices(store: &dyn Store, now: UnixMillis) -> Result<(), StoreError> {
    let before = now.saturating_sub(NOTICES_KEPT_FOR);
    while store.purge_notices(before, PORTION).await? >= u64::from(PORTION) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn purge_tokens(store: &dyn Store, now: UnixMillis) -> Result<(), StoreError> {
    let expired_at = now.saturating_sub(REVOKED_TOKENS_KEPT_FOR);
    while store.purge_revoked_tokens(expired_at, PORTION).await? >= u64::from(PORTION) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Goes through all sessions once, in the order of their ids, and deletes those that are old enough
/// and cost nothing. Then it deletes the runs that are old enough and that no session fell into.
pub async fn sweep(
    store: &dyn Store,
    settings: RetentionSettings,
    now: UnixMillis,
) -> Result<Swept, StoreError> {
    let before = |kept_for: Option<Millis>| kept_for.map(|kept_for| now.saturating_sub(kept_for));
    let (ended_before, runs_before) = (before(settings.unpaid_sessions), before(settings.runs));
    let mut runs = match runs_before {
        Some(before) => OldRuns::read(store, before).await?,
        None => OldRuns::default(),
    };
    let mut swept = Swept::default();
    let mut after: Option<SessionId> = None;
    loop {
        let sessions = store.sessions_by_id(after, PORTION).await?;
        let Some(last) = sessions.last() else { break };
        after = Some(last.id);
        let is_old = |session: &OldSession| {
            let has_ended = |before| session.ended_at.is_some_and(|ended_at| ended_at < before);
            !session.is_paid && ended_before.is_some_and(has_ended)
        };
        let (old, kept): (Vec<_>, Vec<_>) = sessions.into_iter().partition(is_old);
        for session in &kept {
            runs.keep_those_of(session);
        }
        if let Some(before) = ended_before.filter(|_| !old.is_empty()) {
            let ids: Vec<_> = old.iter().map(|session| session.id).collect();
            let deleted = store.delete_unpaid_sessions(&ids, before).await?;
            swept.sessions += deleted;
            if deleted < ids.len() as u64 {
                // Some had to stay, and so do their runs.
                for session in &old {
                    runs.keep_those_of(session);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    for portion in runs.unused.chunks(PORTION as usize) {
        swept.runs += store.delete_runs(portion).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(swept)
}

/// Old runs that no session was found to fall into, so far.
#[derive(Default)]
struct OldRuns {
    unused: Vec<RunSpan>,
}

impl OldRuns {
    async fn read(store: &dyn Store, before: UnixMillis) -> Result<Self, StoreError> {
        let mut unused = store.ended_runs().await?;
        unused.retain(|run| run.last_at < before);
        Ok(Self { unused })
    }

    /// What a session was charged for follows from the runs that served it.
    fn keep_those_of(&mut self, session: &OldSession) {
        self.unused.retain(|run| {
            let is_over = session.ended_at.is_some_and(|ended_at| ended_at < run.from);
            run.node != session.node || is_over || session.started_at >= run.until
        });
    }
}

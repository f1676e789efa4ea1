//! Writing for the journal, in a task of its own: one batch, or the beginning of the next run.
//!
//! A fact is refused only for its own fault, and only if nothing of it can be durable. Whatever else the
//! database says, the batch is written again until its outcome is known.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ractor::ActorRef;
use schema::UnixMillis;

use super::{Batch, Displacement, JournalMessage, Status};
use crate::{
    clock::Clock,
    facts::{FactOutcome, NodeRun, Recording, Refusal, ResumePolicy},
    store::{Store, StoreError},
};

/// The first wait before a failed batch is written again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before a failed batch is written again.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What becomes of a call that the database refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusals {
    /// The refusal is returned.
    Return,
    /// The call is made again: no fact is in it that could be at fault.
    Repeat,
}

/// Why the run may write no more, as `error` says.
const fn displacement(error: &StoreError) -> Displacement {
    match error {
        StoreError::WentBack => Displacement::WentBack,
        _ => Displacement::Superseded,
    }
}

/// Whether `error` says that the run may write no more.
const fn is_displaced(error: &StoreError) -> bool {
    matches!(error, StoreError::Superseded | StoreError::WentBack)
}

/// Writes one batch, however long it takes.
pub(super) struct Writer {
    pub(super) run: NodeRun,
    pub(super) store: Arc<dyn Store>,
    pub(super) status: Arc<Status>,
}

impl Writer {
    /// Begins the next run of this process, which was alive up to `cut`.
    pub(super) async fn begin_next_run(
        self,
        cut: UnixMillis,
        clock: Clock,
        policy: ResumePolicy,
        journal: ActorRef<JournalMessage>,
    ) {
        let begin = || self.store.next_run(&self.run, cut, clock.reading(), policy);
        // It asks for nothing that a database could refuse for good.
        let message = match self.patiently(Refusals::Repeat, begin).await {
            Ok(run) => JournalMessage::Begun(run),
            Err(error) => JournalMessage::Displaced(displacement(&error)),
        };
        let _stopped = journal.cast(message);
    }

    /// Records that the node was alive at `alive_at`.
    pub(super) async fn keep_alive(self, alive_at: UnixMillis, journal: ActorRef<JournalMessage>) {
        let keep = || self.store.record(&self.run, Some(alive_at), &[]);
        let message = match self.patiently(Refusals::Repeat, keep).await {
            Ok(_) => JournalMessage::KeptAlive(alive_at),
            Err(error) => JournalMessage::Displaced(displacement(&error)),
        };
        let _stopped = journal.cast(message);
    }

    /// Writes `batch`, and tells the journal what became of it.
    pub(super) async fn write(self, batch: Batch, journal: ActorRef<JournalMessage>) {
        let entries = batch.entries.iter().map(|numbered| &numbered.entry);
        let recordings = entries.clone().map(|entry| entry.recording.clone());
        let recordings: Vec<Recording> = recordings.collect();
        // Each request's trace shows the batch that it waits for.
        let spans = entries.filter(|entry| !entry.span.is_disabled());
        let spans: Vec<_> = spans
            .map(|entry| tracing::debug_span!(parent: &entry.span, "journal_batch", facts = recordings.len()))
            .collect();
        let message = match self.record(&recordings).await {
            Ok(outcomes) => JournalMessage::Written(batch, outcomes),
            Err(displacement) => JournalMessage::Displaced(displacement),
        };
        drop(spans);
        let _stopped = journal.cast(message);
    }

    /// The facts' outcomes.
    async fn record(&self, recordings: &[Recording]) -> Result<Vec<FactOutcome>, Displacement> {
        let together = || self.store.record(&self.run, None, recordings);
        match self.patiently(Refusals::Return, together).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(error) if is_displaced(&error) => return Err(displacement(&error)),
            Err(_) => {}
        }
        // The database refuses the batch as such: find the fact that it can't take.
        let mut outcomes = Vec::with_capacity(recordings.len());
        for recording in recordings {
            outcomes.push(self.record_alone(recording).await?);
        }
        Ok(outcomes)
    }

    /// The outcome of one fact of a batch that was refused.
    async fn record_alone(&self, recording: &Recording) -> Result<FactOutcome, Displacement> {
        let fact = std::slice::from_ref(recording);
        let alone = || self.store.record(&self.run, None, fact);
        match self.patiently(Refusals::Return, alone).await {
            Ok(outcomes) => {
                assert_eq!(outcomes.len(), 1, "one fact has one outcome");
                Ok(outcomes[0])
            }
            Err(error) if is_displaced(&error) => Err(displacement(&error)),
            Err(_) => Ok(FactOutcome::Refused(Refusal::Contradiction)),
        }
    }

    /// Makes the call, again and again while the database can't do it. The error says that the run may
    /// write no more, or is a refusal if `refusals` has those returned and no attempt before
    /// may have been done after all: what was unknown once is unknown until it is read, which the same
    /// call does.
    async fn patiently<T, F>(
        &self,
        refusals: Refusals,
        call: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut wait = RETRY_MIN;
        let mut is_unknown = false;
        loop {
            let error = match call().await {
                Ok(value) => {
                    if !self.status.is_recording.swap(true, Ordering::Relaxed) {
                        tracing::info!("the journal records again");
                    }
                    return Ok(value);
                }
                Err(error) => error,
            };
            is_unknown |= error.is_outcome_unknown();
            let is_final = match error {
                _ if is_displaced(&error) => true,
                _ => !error.is_transient() && !is_unknown && refusals == Refusals::Return,
            };
            if is_final {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the database refused what the journal records"
                );
                return Err(error);
            }
            if self.status.is_recording.swap(false, Ordering::Relaxed) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the journal can't record"
                );
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}

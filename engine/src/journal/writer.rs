//! Writing for the journal, in a task of its own: one batch, or the beginning of the next run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ractor::ActorRef;
use schema::UnixMillis;

use super::{Batch, JournalMessage, Status};
use crate::{
    clock::Clock,
    facts::{FactOutcome, NodeRun, Recording, Refusal, ResumePolicy},
    store::{Store, StoreError},
};

/// The first wait before a failed batch is written again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait before a failed batch is written again.
const RETRY_MAX: Duration = Duration::from_secs(1);

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
        let message = loop {
            let begin = || self.store.next_run(&self.run, cut, clock.reading(), policy);
            match self.patiently(begin).await {
                Ok(run) => break JournalMessage::Begun(run),
                Err(StoreError::Superseded) => break JournalMessage::Superseded,
                Err(_) => tokio::time::sleep(RETRY_MAX).await,
            }
        };
        let _stopped = journal.cast(message);
    }

    /// Writes `batch`, and tells the journal what became of it.
    pub(super) async fn write(self, batch: Batch, journal: ActorRef<JournalMessage>) {
        let recordings = batch.entries.iter().map(|entry| entry.recording.clone());
        let recordings: Vec<Recording> = recordings.collect();
        // Each request's trace shows the batch that it waits for.
        let spans = batch
            .entries
            .iter()
            .filter(|entry| !entry.span.is_disabled());
        let spans: Vec<_> = spans
            .map(|entry| tracing::debug_span!(parent: &entry.span, "journal_batch", facts = recordings.len()))
            .collect();
        let message = match self.record(batch.alive_at, &recordings).await {
            Some(outcomes) => JournalMessage::Written(batch, outcomes),
            None => JournalMessage::Superseded,
        };
        drop(spans);
        let _stopped = journal.cast(message);
    }

    /// The facts' outcomes, or nothing if the run was superseded.
    async fn record(
        &self,
        alive_at: Option<UnixMillis>,
        recordings: &[Recording],
    ) -> Option<Vec<FactOutcome>> {
        match self.record_together(alive_at, recordings).await {
            Ok(outcomes) => Some(outcomes),
            Err(StoreError::Superseded) => None,
            // The database refuses the batch as such: find the fact that it can't take.
            Err(_) if recordings.len() > 1 => {
                let mut outcomes = Vec::with_capacity(recordings.len());
                for recording in recordings {
                    outcomes.push(
                        match self
                            .record_together(None, std::slice::from_ref(recording))
                            .await
                        {
                            Ok(outcome) => outcome.first().copied().unwrap_or(FactOutcome::Stale),
                            Err(StoreError::Superseded) => return None,
                            Err(_) => FactOutcome::Refused(Refusal::Contradiction),
                        },
                    );
                }
                Some(outcomes)
            }
            Err(_) => Some(
                recordings
                    .iter()
                    .map(|_| FactOutcome::Refused(Refusal::Contradiction))
                    .collect(),
            ),
        }
    }

    /// Records `recordings` in one transaction.
    async fn record_together(
        &self,
        alive_at: Option<UnixMillis>,
        recordings: &[Recording],
    ) -> Result<Vec<FactOutcome>, StoreError> {
        self.patiently(|| self.store.record(&self.run, alive_at, recordings))
            .await
    }

    /// Makes the call, again and again while the database is away.
    async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut wait = RETRY_MIN;
        loop {
            let result = call().await;
            let was_recording = self
                .status
                .is_recording
                .swap(result.is_ok(), Ordering::Relaxed);
            match result {
                Ok(value) => {
                    if !was_recording {
                        tracing::info!("the journal records again");
                    }
                    return Ok(value);
                }
                Err(error) if error.is_transient() => {
                    if was_recording {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the journal can't record"
                        );
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the database refused what the journal records"
                    );
                    return Err(error);
                }
            }
        }
    }
}

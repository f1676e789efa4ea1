//! One lane of the journal: the facts of a share of the users, written one batch after the other.

use std::collections::{HashSet, VecDeque};

use schema::UnixMillis;

use super::Entry;

/// How many facts one transaction takes at most. Past some hundreds a larger batch only waits longer.
const BATCH_MAX: usize = 1_000;

/// An entry with its number in the journal's [`super::progress::Progress`].
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) entry: Entry,
}

/// What waits in a lane, and whether something of it is being written.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: VecDeque<Numbered>,
    /// When the batch that is being written was begun, by the clock, which never stands still.
    writing_since: Option<UnixMillis>,
}

impl Lane {
    /// Has `entry` recorded after all that was pushed before it.
    pub(super) fn push(&mut self, entry: Numbered) {
        self.waiting.push_back(entry);
    }

    /// Since when a batch is being written.
    pub(super) const fn writing_since(&self) -> Option<UnixMillis> {
        self.writing_since
    }

    /// What is to be written next, unless something is being written: at most one fact for each user. What
    /// comes second waits for the next batch.
    pub(super) fn begin(&mut self, now: UnixMillis) -> Option<Vec<Numbered>> {
        if self.writing_since.is_some() || self.waiting.is_empty() {
            return None;
        }
        let mut batch = Vec::new();
        let mut next = VecDeque::new();
        let mut users = HashSet::new();
        while batch.len() < BATCH_MAX
            && let Some(numbered) = self.waiting.pop_front()
        {
            if users.insert(numbered.entry.recording.fact.user()) {
                batch.push(numbered);
            } else {
                next.push_back(numbered);
            }
        }
        next.append(&mut self.waiting);
        self.waiting = next;
        self.writing_since = Some(now);
        Some(batch)
    }

    /// The batch is written.
    pub(super) const fn end(&mut self) {
        self.writing_since = None;
    }
}

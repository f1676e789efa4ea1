//! How many sessions a user has stopped before they cost anything: stopping at 5.9 s for ever would
//! otherwise be free (law 9). Sessions that the engine or an operator ended don't count.

use std::collections::VecDeque;

use schema::{Millis, UnixMillis};

/// How far back is counted: an hour.
const WINDOW: Millis = match Millis::new(3_600_000) {
    Ok(hour) => hour,
    Err(_) => Millis::ZERO,
};

/// The latest of a user's unpaid sessions, by their ends: no more of them than the bound.
#[derive(Debug)]
pub struct UnpaidSessions {
    /// So many an hour are allowed; 0 allows any number.
    max: usize,
    /// Oldest first; nothing while they have not been read.
    ends: Option<VecDeque<UnixMillis>>,
}

impl UnpaidSessions {
    /// None are known yet. So many an hour are allowed; 0 allows any number.
    pub(super) const fn unread(max: usize) -> Self {
        Self { max, ends: None }
    }

    /// Whether they have to be read before a session may start.
    pub(super) const fn must_be_read(&self) -> bool {
        self.max > 0 && self.ends.is_none()
    }

    /// Takes over what was read: the latest ends, newest first.
    pub(super) fn learn(&mut self, newest_first: &[UnixMillis]) {
        self.ends = Some(newest_first.iter().take(self.max).rev().copied().collect());
    }

    /// A session was stopped at `end` without having cost anything.
    pub(super) fn note(&mut self, end: UnixMillis) {
        // What is not read yet will be read with this one.
        if let Some(ends) = &mut self.ends {
            ends.push_back(end);
            while ends.len() > self.max {
                ends.pop_front();
            }
        }
    }

    /// How long no session may start from `now` on: until the oldest of too many is an hour old.
    pub(super) fn wait(&self, now: UnixMillis) -> Option<Millis> {
        let ends = self.ends.as_ref()?;
        let oldest = ends.front().filter(|_| ends.len() >= self.max)?;
        let until = oldest.checked_add(WINDOW)?;
        Some(until.since(now)).filter(|wait| *wait > Millis::ZERO)
    }

    /// The instant from which on ends are counted at `now`.
    pub fn since(now: UnixMillis) -> UnixMillis {
        now.saturating_sub(WINDOW)
    }
}

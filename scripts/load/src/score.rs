//! Scores one user's updates against the schedule: fall `k` is due at the session's start plus `k`
//! intervals, and shows the opening balance less `k` prices.

use std::collections::BTreeMap;

use schema::{
    UnixMillis,
    session::{ActiveSession, SessionStopped},
    websocket::CreditUpdate,
};

/// What a watcher saw of one session.
#[derive(Default)]
pub struct Watched {
    session: Option<ActiveSession>,
    opening: Option<i64>,
    /// How many updates showed each number of falls, and how late the first did, in microseconds.
    falls: BTreeMap<i64, (u32, i64)>,
}

impl Watched {
    /// Takes note of an update that arrived at `at_micros` since 1970.
    pub fn take(&mut self, update: &CreditUpdate, at_micros: i64) {
        // After the end an update has no session; it still shows the last fall.
        let Some(session) = update.session.or(self.session) else {
            return;
        };
        self.session.get_or_insert(session);
        let opening = *self
            .opening
            .get_or_insert(update.credits.get() + session.consumed.get());
        let falls = (opening - update.credits.get()) / session.credits_per_interval.get();
        let due_micros = (session.started_at.get() + falls * session.interval_ms.get()) * 1_000;
        self.falls
            .entry(falls)
            .or_insert((0, at_micros - due_micros))
            .0 += 1;
    }

    /// The lateness of every fall that arrived, in microseconds, without the opening balance.
    pub fn lateness_micros(&self) -> impl Iterator<Item = i64> {
        self.falls
            .iter()
            .filter(|(falls, _)| **falls > 0)
            .map(|(_, (_, late))| *late)
    }

    /// Each fall that was due in this time, with its lateness in microseconds if it arrived.
    pub fn due_between(&self, from_micros: i64, to_micros: i64) -> Vec<Option<i64>> {
        let Some(session) = self.session else {
            return vec![None];
        };
        let (start, interval) = (
            session.started_at.get() * 1_000,
            session.interval_ms.get() * 1_000,
        );
        let first = ((from_micros - start).max(0) / interval).max(1);
        (first..)
            .map(|fall| (fall, start + fall * interval))
            .skip_while(|(_, due)| *due < from_micros)
            .take_while(|(_, due)| *due < to_micros)
            .map(|(fall, _)| self.falls.get(&fall).map(|(_, late)| *late))
            .collect()
    }

    /// Whether the stop's figures are those of the session as it was watched: whole intervals of its
    /// length, and together with what is left the opening balance.
    pub fn agrees_with(&self, stop: &SessionStopped) -> bool {
        let (Some(session), Some(opening)) = (self.session, self.opening) else {
            return false;
        };
        let intervals = stop.ended_at.since(session.started_at).get() / session.interval_ms.get();
        let consumed = stop.credits_consumed.get();
        consumed == intervals * session.credits_per_interval.get()
            && consumed + stop.final_credits.get() == opening
    }

    /// How many of the falls due until `end` never arrived.
    pub fn missing(&self, end: UnixMillis) -> usize {
        let Some(session) = self.session else {
            return 1;
        };
        let due = end.since(session.started_at).get() / session.interval_ms.get();
        (1..=due)
            .filter(|fall| !self.falls.contains_key(fall))
            .count()
    }

    /// How many updates showed a fall that had been shown before.
    pub fn doubled(&self, end: UnixMillis) -> i64 {
        let last = self.session.map_or(0, |session| {
            end.since(session.started_at).get() / session.interval_ms.get()
        });
        // The update that tells of the end repeats the last balance, without a session.
        self.falls
            .iter()
            .map(|(fall, (times, _))| i64::from(*times) - if *fall == last { 2 } else { 1 })
            .map(|extra| extra.max(0))
            .sum()
    }
}

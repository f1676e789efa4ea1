//! What a client was told, held against what is recorded.

use std::collections::{BTreeMap, BTreeSet};

use billing::{Span, Tariff};
use schema::{
    Credits, Millis, SessionId, UnixMillis, UserId,
    session::{EndReason, SessionRecord},
};

use crate::{client::History, support::memory::MemoryStore};

/// What is known of one user in the end.
pub struct Account<'a> {
    pub store: &'a MemoryStore,
    pub user: UserId,
    pub opening: i64,
    pub history: &'a History,
    pub sessions: BTreeMap<SessionId, SessionRecord>,
    pub tariff: Tariff,
    /// When nothing can have been served.
    pub unserved: &'a [Span],
}

impl Account<'_> {
    /// Holds what the client was told against what is recorded.
    pub fn check(&self) {
        let Self {
            store,
            user,
            opening,
            history,
            sessions,
            ..
        } = self;
        let (user, opening) = (*user, *opening);
        let consumed: i64 = sessions
            .values()
            .map(|session| session.credits_consumed.get())
            .sum();
        let left = opening + history.adjusted - consumed;
        assert_eq!(
            store.balances(user, opening),
            (left, left),
            "{user}: what came in, less what was consumed"
        );
        assert!(left >= 0);

        let mut in_order: Vec<(&SessionId, &SessionRecord)> = sessions.iter().collect();
        in_order.sort_by_key(|(id, session)| (session.started_at, session.ended_at, **id));
        let mut last_end = None;
        for (id, session) in in_order {
            let ended_at = session
                .ended_at
                .unwrap_or_else(|| panic!("session {id} never ended"));
            assert!(
                last_end.is_none_or(|end| end <= session.started_at),
                "session {id} overlaps the one before"
            );
            last_end = Some(ended_at);
            self.check_session(*id, session, ended_at);
        }
        self.check_told();
    }

    /// Laws 2, 4 and 8 for one session.
    fn check_session(&self, id: SessionId, session: &SessionRecord, ended_at: UnixMillis) {
        let Self {
            store,
            user,
            opening,
            tariff,
            unserved,
            ..
        } = self;
        assert!(
            session.served_ms <= store.available(id),
            "session {id} was served {} ms, and its node's runs lasted for {} of it",
            session.served_ms,
            store.available(id)
        );
        let lost: i64 = unserved
            .iter()
            .map(|span| {
                span.to
                    .min(ended_at)
                    .since(span.from.max(session.started_at))
            })
            .map(Millis::get)
            .sum();
        assert!(
            session.served_ms.get() + lost <= ended_at.since(session.started_at).get(),
            "session {id} was served while nothing was: {} ms",
            session.served_ms
        );
        let intervals = tariff.intervals_completed(session.served_ms);
        let charge = match session.end_reason.unwrap() {
            EndReason::Depleted => tariff.price_of(intervals),
            EndReason::Engine if session.served_ms == Millis::ZERO => Some(Credits::ZERO),
            _ => tariff.charge(session.served_ms),
        };
        if session.end_reason == Some(EndReason::Depleted) {
            let left = opening + store.moved_before(*user, ended_at);
            let price = tariff.price().get();
            assert!(left < price, "session {id} ended with {left} left");
        }
        assert_eq!(
            Some(session.credits_consumed),
            charge,
            "session {id} costs what it was served for"
        );
        assert_eq!(
            store.usage(id).iter().sum::<i64>(),
            session.credits_consumed.get()
        );
        assert!(
            store.refunded(id) <= session.credits_consumed.get(),
            "session {id} is refunded more than it cost"
        );
        assert!(
            session.end_reason != Some(EndReason::Depleted) || charge != Some(Credits::ZERO),
            "session {id} never began, and is recorded"
        );
    }

    /// What was acknowledged is recorded just so, and nothing else.
    fn check_told(&self) {
        let Self {
            store,
            history,
            sessions,
            ..
        } = self;
        let told: BTreeSet<SessionId> = history
            .started
            .iter()
            .map(|started| started.session)
            .collect();
        assert_eq!(
            told.len(),
            history.started.len(),
            "no two starts are told of one session"
        );
        for started in &history.started {
            let session = sessions
                .get(&started.session)
                .unwrap_or_else(|| panic!("{} was lost", started.session));
            assert_eq!(session.started_at, started.started_at);
        }
        let untold = sessions
            .values()
            .filter(|session| !told.contains(&session.session_id));
        assert!(
            untold.clone().count() <= history.unknown_starts,
            "sessions that nobody asked for"
        );
        // A start whose outcome was unknown is ended for nothing, unless a retry took it or its
        // process went away.
        let is_abandoned = |session: &&SessionRecord| session.ended_at == Some(session.started_at);
        let kept = untold.filter(|session| !is_abandoned(session)).count();
        assert!(
            kept <= history.lost_starts,
            "{kept} sessions that nobody knows of"
        );
        let told_ends: BTreeSet<SessionId> = history
            .stopped
            .iter()
            .map(|stopped| stopped.session)
            .collect();
        let untold_ends = sessions.values().filter(|session| {
            session.end_reason == Some(EndReason::User) && !told_ends.contains(&session.session_id)
        });
        assert!(
            untold_ends.count() <= history.lost_stops,
            "sessions that nobody stopped"
        );
        for stopped in &history.stopped {
            let session = &sessions[&stopped.session];
            assert_eq!(
                session.ended_at,
                Some(stopped.ended_at),
                "session {}",
                stopped.session
            );
            assert_eq!(
                (session.credits_consumed, session.end_reason),
                (stopped.consumed, Some(stopped.reason))
            );
            assert_eq!(
                store.left_at_end(stopped.session),
                Some(stopped.final_credits),
                "session {}",
                stopped.session
            );
        }
    }
}

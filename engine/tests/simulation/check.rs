//! What a client was told, held against what is recorded.

use std::collections::{BTreeMap, BTreeSet};

use billing::Tariff;
use schema::{
    Credits, Millis, SessionId, UserId,
    session::{EndReason, SessionRecord},
};

use crate::{client::History, support::memory::MemoryStore};

/// Holds what the client was told against what is recorded.
pub fn check(
    store: &MemoryStore,
    user: UserId,
    opening: i64,
    history: &History,
    sessions: &BTreeMap<SessionId, SessionRecord>,
    tariff: Tariff,
) {
    let consumed: i64 = sessions
        .values()
        .map(|session| session.credits_consumed.get())
        .sum();
    let left = opening + history.granted - consumed;
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
        assert!(
            session.served_ms <= ended_at.since(session.started_at),
            "session {id} was served before it began"
        );
        let intervals = tariff.intervals_completed(session.served_ms);
        let charge = match session.end_reason.unwrap() {
            EndReason::Depleted => tariff.price_of(intervals),
            EndReason::Engine if session.served_ms == Millis::ZERO => Some(Credits::ZERO),
            _ => tariff.charge(session.served_ms),
        };
        assert_eq!(
            Some(session.credits_consumed),
            charge,
            "session {id} costs what it was served for"
        );
        assert_eq!(
            store.usage(*id).iter().sum::<i64>(),
            session.credits_consumed.get()
        );
    }

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
    // A start whose outcome was unknown is ended for nothing, unless a retry took it or its process
    // went away.
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

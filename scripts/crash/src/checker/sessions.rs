//! Every session was asked for once, and ended as it was told.

use std::collections::HashMap;

use schema::{
    SessionId,
    session::{EndReason, SessionRecord, SessionStarted},
};

use super::{Kind, Seen, Terms, Verdict, show, timing::Timed};
use crate::{
    history::{Operation, Outcome, Reply, Request, Resolution},
    records::UserRecords,
    service::Service,
};

pub(super) fn check(
    seen: &Seen<'_>,
    records: &UserRecords,
    service: &Service,
    terms: &Terms,
    verdict: &mut Verdict,
) {
    let claims = starts(seen, records, verdict);
    stops(seen, records, verdict);
    overlaps(seen, records, verdict);
    for session in &records.sessions {
        let claim = claims.get(&session.session_id).copied();
        Timed::new(seen, records, service, terms, session, claim).check(verdict);
    }
}

/// Holds the starts against the records. Returns which start each session belongs to.
fn starts<'a>(
    seen: &Seen<'a>,
    records: &UserRecords,
    verdict: &mut Verdict,
) -> HashMap<SessionId, &'a Operation> {
    let mut claims: HashMap<SessionId, &Operation> = HashMap::new();
    for start in seen.starts() {
        let mut told: Option<&SessionStarted> = None;
        for (_, reply) in start.replies() {
            let Reply::Started(started) = reply else {
                continue;
            };
            if told.is_some_and(|told| told.session_id != started.session_id) {
                let what = "one start was acknowledged with two sessions";
                verdict.violation(Kind::Doubled, seen.user, what, vec![show(start)]);
            }
            told = Some(started);
        }
        let Some(told) = told else {
            continue;
        };
        if was_refused_after_acknowledgement(start) {
            let what = "a start was refused to a key that it was acknowledged to";
            verdict.violation(Kind::Misreported, seen.user, what, vec![show(start)]);
        }
        if let Some(other) = claims.insert(told.session_id, start) {
            verdict.violation(
                Kind::Lost,
                seen.user,
                format!(
                    "two starts were acknowledged with session {}",
                    told.session_id
                ),
                vec![show(start), show(other)],
            );
        }
        match find(records, told.session_id) {
            None => verdict.violation(
                Kind::Lost,
                seen.user,
                format!(
                    "session {} was acknowledged and is not there",
                    told.session_id
                ),
                vec![show(start)],
            ),
            Some(session) if session.started_at != told.started_at => verdict.violation(
                Kind::Lost,
                seen.user,
                format!("session {} started at another instant", told.session_id),
                vec![show(start), show(session)],
            ),
            Some(_) => {}
        }
    }
    let unclaimed: Vec<_> = records
        .sessions
        .iter()
        .filter(|session| !claims.contains_key(&session.session_id))
        .collect();
    let unknown = unresolved(seen.starts());
    let asked: usize = seen.starts().map(|start| start.unknown().count()).sum();
    let served = unclaimed.iter().filter(|session| !is_void(session)).count();
    if served > unknown.len() || unclaimed.len() > asked {
        let mut evidence: Vec<String> = unclaimed.iter().map(show).collect();
        evidence.extend(unknown.iter().map(show));
        verdict.violation(
            Kind::Doubled,
            seen.user,
            format!(
                "{} sessions that no start was acknowledged with, {served} of them served, \
                 and only {} starts of unknown outcome",
                unclaimed.len(),
                unknown.len()
            ),
            evidence,
        );
    }
    verdict.found_done(Request::Start, unclaimed.len() as u64);
    claims
}

/// Holds the stops against the records.
fn stops(seen: &Seen<'_>, records: &UserRecords, verdict: &mut Verdict) {
    let mut stopped_sessions = Vec::new();
    for stop in seen.stops() {
        if was_refused_after_acknowledgement(stop) {
            let what = "a stop was refused to a key that it was acknowledged to";
            verdict.violation(Kind::Misreported, seen.user, what, vec![show(stop)]);
        }
        if stop
            .replies()
            .any(|(_, reply)| Some(reply) != stop.acknowledged().map(|first| first.1))
        {
            let what = "one stop was acknowledged with two ends";
            verdict.violation(Kind::Misreported, seen.user, what, vec![show(stop)]);
        }
        for (_, reply) in stop.replies() {
            let Reply::Stopped(told) = reply else {
                continue;
            };
            stopped_sessions.push(told.session_id);
            let Some(session) = find(records, told.session_id) else {
                verdict.violation(
                    Kind::Lost,
                    seen.user,
                    format!("session {} was stopped and is not there", told.session_id),
                    vec![show(stop)],
                );
                continue;
            };
            let recorded = (
                session.ended_at,
                session.end_reason,
                session.credits_consumed,
            );
            if recorded
                != (
                    Some(told.ended_at),
                    Some(told.reason),
                    told.credits_consumed,
                )
            {
                verdict.violation(
                    Kind::Lost,
                    seen.user,
                    format!(
                        "the end of session {} is not as it was acknowledged",
                        told.session_id
                    ),
                    vec![show(stop), show(session)],
                );
            }
        }
    }
    let unclaimed: Vec<_> = records
        .sessions
        .iter()
        .filter(|session| session.end_reason == Some(EndReason::User))
        .filter(|session| !stopped_sessions.contains(&session.session_id))
        .collect();
    let unknown = unresolved(seen.stops());
    if unclaimed.len() > unknown.len() {
        let mut evidence: Vec<String> = unclaimed.iter().map(show).collect();
        evidence.extend(unknown.iter().map(show));
        verdict.violation(
            Kind::Doubled,
            seen.user,
            format!(
                "{} sessions were stopped without an acknowledgement, and only {} stops are of unknown outcome",
                unclaimed.len(),
                unknown.len()
            ),
            evidence,
        );
    }
    verdict.found_done(Request::Stop, unclaimed.len() as u64);
}

/// A user has one session at a time, and none in the end.
fn overlaps(seen: &Seen<'_>, records: &UserRecords, verdict: &mut Verdict) {
    for pair in records.sessions.windows(2) {
        let (earlier, later) = (&pair[0], &pair[1]);
        if earlier
            .ended_at
            .is_none_or(|ended_at| ended_at > later.started_at)
        {
            verdict.violation(
                Kind::Doubled,
                seen.user,
                format!(
                    "sessions {} and {} were live at the same time",
                    earlier.session_id, later.session_id
                ),
                vec![show(earlier), show(later)],
            );
        }
    }
    for session in &records.sessions {
        if session.ended_at.is_none() {
            let what = format!(
                "session {} is live after all were stopped",
                session.session_id
            );
            verdict.violation(Kind::Lost, seen.user, what, vec![show(session)]);
        }
    }
}

/// The operations of which the replies don't tell whether they were done.
pub(super) fn unresolved<'a>(
    operations: impl Iterator<Item = &'a Operation>,
) -> Vec<&'a Operation> {
    operations
        .filter(|operation| operation.resolution() == Resolution::Unknown)
        .collect()
}

/// Whether the session was ended at its start, for nothing: that is what becomes of an attempt to
/// start that nobody waits for any more, and its key may then start another one.
fn is_void(session: &SessionRecord) -> bool {
    session.end_reason == Some(EndReason::Engine)
        && session.ended_at == Some(session.started_at)
        && session.credits_consumed.is_zero()
}

/// Whether a key that had a success was sent again, and got something else.
fn was_refused_after_acknowledgement(operation: &Operation) -> bool {
    let acknowledged = operation.replies().map(|(attempt, _)| attempt.ended).min();
    operation.attempts.iter().any(|attempt| {
        matches!(attempt.outcome, Outcome::Refused(_))
            && acknowledged.is_some_and(|acknowledged| attempt.sent > acknowledged)
    })
}

fn find(records: &UserRecords, id: SessionId) -> Option<&SessionRecord> {
    records
        .sessions
        .iter()
        .find(|session| session.session_id == id)
}

//! Every session was asked for, and cost what was served: not more than can have been, and not less
//! than was by more than crashes explain.

use std::collections::HashMap;

use schema::{
    SessionId,
    ledger::EntryKind,
    session::{EndReason, SessionRecord, SessionStarted},
};

use super::{Kind, Seen, Terms, Verdict, show};
use crate::{
    history::{Attempt, Keys, Operation, Outcome, Reply, Request, Resolution},
    moment::Moment,
    records::UserRecords,
    service::{Served, Service},
};

/// Between a reply's instants and the server's own there is nothing, but both round.
const ROUNDING_MS: u64 = 2;

pub(super) fn check(
    seen: &Seen<'_>,
    records: &UserRecords,
    service: &Service,
    terms: &Terms,
    verdict: &mut Verdict,
) {
    let claims = starts(seen, records, terms, verdict);
    stops(seen, records, terms, verdict);
    overlaps(seen, records, verdict);
    for session in &records.sessions {
        let claim = claims.get(&session.session_id).copied();
        let timed = Timed {
            seen,
            records,
            service,
            terms,
            session,
            claim,
            known_live: known_live(seen, session.session_id, claim),
        };
        timed.check(verdict);
    }
}

/// Holds the starts against the records. Returns which start each session belongs to.
fn starts<'a>(
    seen: &Seen<'a>,
    records: &UserRecords,
    terms: &Terms,
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
    let unknown = unresolved(seen.starts(), terms);
    let may_be = match terms.keys {
        Keys::Honoured => unknown.len(),
        // Each attempt is a start of its own.
        Keys::Ignored => seen.starts().map(|start| start.unknown().count()).sum(),
    };
    if unclaimed.len() > may_be {
        let mut evidence: Vec<String> = unclaimed.iter().map(show).collect();
        evidence.extend(unknown.iter().map(show));
        verdict.violation(
            Kind::Doubled,
            seen.user,
            format!(
                "{} sessions that no start was acknowledged with, where only {may_be} can be",
                unclaimed.len()
            ),
            evidence,
        );
    }
    verdict.found_done(Request::Start, unclaimed.len() as u64);
    claims
}

/// Holds the stops against the records.
fn stops(seen: &Seen<'_>, records: &UserRecords, terms: &Terms, verdict: &mut Verdict) {
    let mut stopped_sessions = Vec::new();
    for stop in seen.stops() {
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
    let unknown = unresolved(seen.stops(), terms);
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

/// A session with what the harness's clock says about it.
struct Timed<'a> {
    seen: &'a Seen<'a>,
    records: &'a UserRecords,
    service: &'a Service,
    terms: &'a Terms,
    session: &'a SessionRecord,
    /// The start that was acknowledged with it.
    claim: Option<&'a Operation>,
    /// The first instant at which a client knew that it lived.
    known_live: Option<Moment>,
}

impl Timed<'_> {
    fn check(&self, verdict: &mut Verdict) {
        let session = self.session;
        if (session.credits_per_interval, session.interval_ms)
            != (self.terms.price, self.terms.interval)
        {
            self.violation(verdict, Kind::Lost, "has another tariff".to_owned());
            return;
        }
        self.check_charge(verdict);
        self.check_upper_bound(verdict);
        self.check_sightings(verdict);
        match session.end_reason {
            Some(EndReason::User) => self.check_lower_bound(verdict),
            Some(EndReason::Depleted) => self.check_depletion(verdict),
            Some(EndReason::Engine) => {
                if self.claim.is_some_and(|start| !start.was_unknown()) {
                    let what = "was acknowledged at once, and ended by the engine".to_owned();
                    self.violation(verdict, Kind::Lost, what);
                }
            }
            Some(EndReason::Admin) => {
                self.violation(verdict, Kind::Lost, "was ended by nobody of us".to_owned());
            }
            None => {}
        }
    }

    /// The charge is what the served time costs.
    fn check_charge(&self, verdict: &mut Verdict) {
        let due = self.cost_of(self.session.served_ms.get());
        let charged = self.session.credits_consumed.get();
        if charged != due {
            let kind = if charged > due {
                Kind::Overcharged
            } else {
                Kind::Undercharged
            };
            let what = format!(
                "cost {charged} credits, but its {} ms served cost {due}",
                self.session.served_ms
            );
            self.violation(verdict, kind, what);
        }
    }

    /// It can't have been served longer than the server was alive between the start being sent and
    /// the end being known.
    fn check_upper_bound(&self, verdict: &mut Verdict) {
        let served = self.session.served_ms.get();
        let most_ms = ms_at_most(self.service.at_most(self.first_sent(), self.known_over()));
        if served > most_ms {
            let what = format!(
                "was served {served} ms, but the server can have been alive for {most_ms} ms of it at most"
            );
            self.violation(verdict, Kind::Overcharged, what);
        }
        if self.session.credits_consumed.get() > self.cost_of(most_ms) {
            let what = format!(
                "cost {} credits, but {most_ms} ms cost {} at most",
                self.session.credits_consumed,
                self.cost_of(most_ms)
            );
            self.violation(verdict, Kind::Overcharged, what);
        }
    }

    /// No balance that was shown while it lived counts more than had been served.
    fn check_sightings(&self, verdict: &mut Verdict) {
        for sighting in &self.seen.sightings {
            let id = self.session.session_id;
            let Some(live) = sighting
                .balance
                .session
                .filter(|live| live.session_id == id)
            else {
                continue;
            };
            let most_ms = ms_at_most(self.service.at_most(self.first_sent(), sighting.ended));
            if live.consumed.get() > self.cost_of(most_ms) {
                let what = format!(
                    "was shown to have cost {} credits when {most_ms} ms can have been served",
                    live.consumed
                );
                self.violation(verdict, Kind::Misreported, what);
            }
        }
    }

    /// It was certainly served from its acknowledgement until its stop was sent, while the server was
    /// certainly alive; only what a crash forgets may be missing.
    fn check_lower_bound(&self, verdict: &mut Verdict) {
        let (Some(known_live), Some(stop_sent), Some(_)) =
            (self.known_live, self.stop_sent(), self.claim)
        else {
            return;
        };
        let certain = self.service.at_least(known_live, stop_sent);
        let certain_ms = (certain.micros / 1_000).saturating_sub(certain.pieces + ROUNDING_MS);
        let served_ms = self.session.served_ms.get().unsigned_abs();
        let missing_ms = certain_ms.saturating_sub(served_ms);
        // A crash while the start's reply or the stop was on its way forgets as much as any other.
        let crashes = self.service.crashes(self.first_sent(), self.known_over());
        let undercharge = &mut verdict.undercharge;
        undercharge.sessions += 1;
        undercharge.worst_ms = undercharge.worst_ms.max(missing_ms);
        undercharge.worst_per_crash_ms = undercharge
            .worst_per_crash_ms
            .max(missing_ms.div_ceil(crashes.max(1)));
        if missing_ms > crashes * self.terms.lag_max.get().unsigned_abs() {
            let what = format!(
                "was served {served_ms} ms, but certainly {certain_ms} ms, through {crashes} crashes"
            );
            self.violation(verdict, Kind::Undercharged, what);
        }
    }

    /// It ended because the wallet could not pay for another interval.
    fn check_depletion(&self, verdict: &mut Verdict) {
        let session = self.session;
        let ledger = &self.records.ledger;
        let Some(last) = ledger.iter().rposition(|entry| {
            entry.kind == EntryKind::Usage && entry.session_id == Some(session.session_id)
        }) else {
            // Another writer took the credits before its first interval was over.
            return;
        };
        // What came in after the end, but was recorded before it, did not help.
        let late: i64 = ledger[..last]
            .iter()
            .filter(|entry| Some(entry.at) > session.ended_at)
            .map(|entry| entry.amount.get())
            .sum();
        let left = ledger[last].balance_after.get() - late;
        if left >= self.terms.price.get() {
            let what = format!("ran out of credits with {left} left");
            self.violation(verdict, Kind::Undercharged, what);
        }
    }

    /// Right before it was asked for. Where no start was acknowledged with it, any start of unknown
    /// outcome may have been its own.
    fn first_sent(&self) -> Moment {
        let of_unknown = || {
            unresolved(self.seen.starts(), self.terms)
                .into_iter()
                .filter_map(Operation::first_sent)
                .min()
        };
        self.claim
            .and_then(Operation::first_sent)
            .or_else(of_unknown)
            .unwrap_or_default()
    }

    /// The first instant at which a client knew that it was over.
    fn known_over(&self) -> Moment {
        let id = self.session.session_id;
        let Some(known_live) = self.known_live else {
            return Moment::NEVER;
        };
        let attempts = self
            .seen
            .operations
            .iter()
            .flat_map(|operation| &operation.attempts)
            .filter(|attempt| attempt.sent >= known_live)
            .filter(|attempt| tells_over(attempt, id))
            .map(|attempt| attempt.ended);
        let sightings = self
            .seen
            .sightings
            .iter()
            .filter(|sighting| sighting.sent >= known_live)
            .filter(|sighting| {
                sighting
                    .balance
                    .session
                    .is_none_or(|live| live.session_id != id)
            })
            .map(|sighting| sighting.ended);
        attempts.chain(sightings).min().unwrap_or(Moment::NEVER)
    }

    /// When a stop that can have ended it was first sent.
    fn stop_sent(&self) -> Option<Moment> {
        let known_live = self.known_live?;
        self.seen
            .stops()
            .flat_map(|stop| &stop.attempts)
            .filter(|attempt| attempt.sent >= known_live)
            .filter(|attempt| {
                matches!(
                    attempt.outcome,
                    Outcome::Acknowledged(_) | Outcome::Unknown(_)
                )
            })
            .map(|attempt| attempt.sent)
            .min()
    }

    fn cost_of(&self, served_ms: i64) -> i64 {
        served_ms / self.terms.interval.get() * self.terms.price.get()
    }

    fn violation(&self, verdict: &mut Verdict, kind: Kind, what: String) {
        let id = self.session.session_id;
        let mut evidence = vec![show(self.session)];
        evidence.extend(self.claim.map(|start| show(start)));
        evidence.extend(
            self.seen
                .stops()
                .filter(|stop| stop.attempts.iter().any(|attempt| tells_over(attempt, id)))
                .filter(|stop| stop.first_sent() >= self.known_live)
                .take(1)
                .map(show),
        );
        evidence.extend(
            self.records
                .ledger
                .iter()
                .filter(|entry| entry.session_id == Some(id))
                .map(show),
        );
        verdict.violation(
            kind,
            self.seen.user,
            format!("session {id} {what}"),
            evidence,
        );
    }
}

/// Whether the attempt's reply says that the session `id` is over, given that it lived before.
fn tells_over(attempt: &Attempt, id: SessionId) -> bool {
    match &attempt.outcome {
        Outcome::Acknowledged(Reply::Started(started)) => started.session_id != id,
        Outcome::Acknowledged(Reply::Stopped(_)) => true,
        Outcome::Refused(code) => code == "no_active_session",
        _ => false,
    }
}

fn known_live(seen: &Seen<'_>, id: SessionId, claim: Option<&Operation>) -> Option<Moment> {
    let acknowledged = claim.and_then(Operation::acknowledged);
    acknowledged.map(|(attempt, _)| attempt.ended).or_else(|| {
        seen.sightings
            .iter()
            .filter(|sighting| {
                let live = sighting.balance.session;
                live.is_some_and(|live| live.session_id == id)
            })
            .map(|sighting| sighting.ended)
            .min()
    })
}

fn unresolved<'a>(
    operations: impl Iterator<Item = &'a Operation>,
    terms: &Terms,
) -> Vec<&'a Operation> {
    operations
        .filter(|operation| operation.resolution(terms.keys) == Resolution::Unknown)
        .collect()
}

fn find(records: &UserRecords, id: SessionId) -> Option<&SessionRecord> {
    records
        .sessions
        .iter()
        .find(|session| session.session_id == id)
}

/// The server counts whole milliseconds: each stretch may count one more than it has.
fn ms_at_most(served: Served) -> i64 {
    let ms = served.micros.div_ceil(1_000).saturating_add(served.pieces);
    i64::try_from(ms).unwrap_or(i64::MAX)
}

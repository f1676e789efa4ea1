//! What a session cost is held against the harness's own clock: not more than can have been served,
//! and not less than was by more than crashes explain.

use schema::{
    SessionId,
    ledger::EntryKind,
    session::{EndReason, SessionRecord},
};

use super::{Kind, Seen, Terms, Verdict, sessions::unresolved, show};
use crate::{
    history::{Attempt, Operation, Outcome, Reply},
    moment::Moment,
    records::UserRecords,
    service::{Served, Service},
};

/// Between a reply's instants and the server's own there is nothing, but both round.
const ROUNDING_MS: u64 = 2;

/// A session with what the harness's clock says about it.
pub(super) struct Timed<'a> {
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

impl<'a> Timed<'a> {
    /// The session of `seen`'s user that the start `claim` was acknowledged with, if one was.
    pub(super) fn new(
        seen: &'a Seen<'a>,
        records: &'a UserRecords,
        service: &'a Service,
        terms: &'a Terms,
        session: &'a SessionRecord,
        claim: Option<&'a Operation>,
    ) -> Self {
        Self {
            seen,
            records,
            service,
            terms,
            session,
            claim,
            known_live: known_live(seen, session.session_id, claim),
        }
    }

    /// Checks its charge and its end.
    pub(super) fn check(&self, verdict: &mut Verdict) {
        let session = self.session;
        if (session.credits_per_interval, session.interval_ms)
            != (self.terms.price, self.terms.interval)
        {
            self.violation(verdict, Kind::Lost, "has another tariff");
            return;
        }
        self.check_charge(verdict);
        self.check_upper_bound(verdict);
        self.check_sightings(verdict);
        match session.end_reason {
            Some(EndReason::User) => self.check_lower_bound(verdict),
            Some(EndReason::Depleted) => self.check_depletion(verdict),
            Some(EndReason::Engine) => self.check_forgiven(verdict),
            Some(EndReason::Admin) => {
                self.violation(verdict, Kind::Lost, "was ended by nobody of us");
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
            self.violation(verdict, kind, &what);
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
            self.violation(verdict, Kind::Overcharged, &what);
        }
        if self.session.credits_consumed.get() > self.cost_of(most_ms) {
            let what = format!(
                "cost {} credits, but {most_ms} ms cost {} at most",
                self.session.credits_consumed,
                self.cost_of(most_ms)
            );
            self.violation(verdict, Kind::Overcharged, &what);
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
                self.violation(verdict, Kind::Misreported, &what);
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
            self.violation(verdict, Kind::Undercharged, &what);
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
            self.violation(verdict, Kind::Undercharged, &what);
        }
    }

    /// Only a start that had no answer at first is ended without having been asked to.
    fn check_forgiven(&self, verdict: &mut Verdict) {
        if self.claim.is_some_and(|start| !start.was_unknown()) {
            let what = "was acknowledged at once, and ended by the engine";
            self.violation(verdict, Kind::Lost, what);
        }
    }

    /// Right before it was asked for. Where no start was acknowledged with it, any start of unknown
    /// outcome may have been its own.
    fn first_sent(&self) -> Moment {
        let of_unknown = || {
            unresolved(self.seen.starts())
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

    fn violation(&self, verdict: &mut Verdict, kind: Kind, what: &str) {
        let id = self.session.session_id;
        let mut evidence = vec![show(self.session)];
        evidence.extend(self.claim.map(show));
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

/// The server counts whole milliseconds: each stretch may count one more than it has.
fn ms_at_most(served: Served) -> i64 {
    let ms = served.micros.div_ceil(1_000).saturating_add(served.pieces);
    i64::try_from(ms).unwrap_or(i64::MAX)
}

//! Holds every operation of the history against the records that the server shows in the end.
//!
//! Pure: it asks nobody. What it believes of the server is only what the records say; when something
//! was served it takes from the harness's own clock.

mod ledger;
mod sessions;
mod streams;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::BTreeMap;

use schema::{Credits, Millis};
use serde::Serialize;

use crate::{
    history::{History, Operation, Request, Resolution, Sighting, UserIndex},
    records::Records,
    service::Service,
};

/// What the server was told to work by.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What comes with signing up.
    pub signup: Credits,
    /// The price of an interval.
    pub price: Credits,
    /// The interval.
    pub interval: Millis,
    /// More than this much service lost by one crash is a violation.
    pub lag_max: Millis,
}

/// A way in which things can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something acknowledged is not in the records, or not as it was acknowledged.
    Lost,
    /// Something was done twice, or without being asked for.
    Doubled,
    /// A session cost more than can have been served.
    Overcharged,
    /// A session cost less than was served, by more than crashes explain.
    Undercharged,
    /// Balances and movements don't add up.
    Unbalanced,
    /// A client was told what the records contradict.
    Misreported,
    /// The server did not behave as a server must.
    Misbehaved,
}

impl Kind {
    /// Every kind, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::Lost,
        Self::Doubled,
        Self::Overcharged,
        Self::Undercharged,
        Self::Unbalanced,
        Self::Misreported,
        Self::Misbehaved,
    ];

    /// The word in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Overcharged => "overcharged",
            Self::Undercharged => "undercharged",
            Self::Unbalanced => "unbalanced",
            Self::Misreported => "misreported",
            Self::Misbehaved => "misbehaved",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// In which way.
    pub kind: Kind,
    /// With whom, if it is one user.
    pub user: Option<UserIndex>,
    /// What.
    pub what: String,
    /// The rows and operations that show it.
    pub evidence: Vec<String>,
}

/// How operations of one sort went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Acknowledged at last.
    pub acknowledged: u64,
    /// Refused: not done.
    pub refused: u64,
    /// Those of which at least one attempt's outcome was unknown.
    pub unknown: u64,
    /// Of the unknown: acknowledged to a later attempt.
    pub acknowledged_later: u64,
    /// Of the unknown: refused to a later attempt.
    pub refused_later: u64,
    /// Of the unknown, never answered: the records show it done.
    pub found_done: u64,
    /// Of the unknown, never answered: the records don't show it.
    pub found_undone: u64,
}

/// By how much less than it was served a session was charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Undercharge {
    /// The most that one session fell short by, in milliseconds.
    pub worst_ms: u64,
    /// The most for each crash that the session went through, in milliseconds.
    pub worst_per_crash_ms: u64,
    /// How many sessions could be held against a lower bound.
    pub sessions: u64,
}

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// All that is wrong.
    pub violations: Vec<Violation>,
    /// How operations went, by sort.
    pub tallies: BTreeMap<&'static str, Tally>,
    /// What crashes cost us.
    pub undercharge: Undercharge,
    /// How many sessions the records have.
    pub sessions: u64,
    /// How many ledger entries the records have.
    pub entries: u64,
    /// How many messages websockets got.
    pub messages: u64,
}

impl Verdict {
    /// How many violations of `kind` there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.violations
            .iter()
            .filter(|violation| violation.kind == kind)
            .count()
    }

    fn violation(
        &mut self,
        kind: Kind,
        user: UserIndex,
        what: impl Into<String>,
        evidence: Vec<String>,
    ) {
        self.violations.push(Violation {
            kind,
            user: Some(user),
            what: what.into(),
            evidence,
        });
    }

    /// Counts an operation whose replies say `resolution`; one that stays unknown is counted as not
    /// done until [`Verdict::found_done`].
    fn count_operation(&mut self, operation: &Operation, resolution: Resolution) {
        let tally = self.tallies.entry(sort(operation.request)).or_default();
        let was_unknown = u64::from(operation.was_unknown());
        tally.unknown += was_unknown;
        match resolution {
            Resolution::Acknowledged => {
                tally.acknowledged += 1;
                tally.acknowledged_later += was_unknown;
            }
            Resolution::Refused => {
                tally.refused += 1;
                tally.refused_later += was_unknown;
            }
            Resolution::Unknown => tally.found_undone += 1,
        }
    }

    /// `count` operations of the sort of `request` turn out to have been done.
    fn found_done(&mut self, request: Request, count: u64) {
        let tally = self.tallies.entry(sort(request)).or_default();
        let moved = count.min(tally.found_undone);
        tally.found_undone -= moved;
        tally.found_done += moved;
    }
}

/// Holds `history` against `records`.
pub fn check(history: &History, records: &Records, terms: &Terms) -> Verdict {
    let service = Service::new(&history.lives);
    let mut verdict = Verdict::default();
    for complaint in &history.complaints {
        verdict.violations.push(Violation {
            kind: Kind::Misbehaved,
            user: None,
            what: complaint.clone(),
            evidence: Vec::new(),
        });
    }
    for operation in &history.operations {
        verdict.count_operation(operation, operation.resolution());
    }
    for (index, recorded) in records.users.iter().enumerate() {
        let user = UserIndex(index);
        let seen = Seen::of(history, user);
        verdict.sessions += recorded.sessions.len() as u64;
        verdict.entries += recorded.ledger.len() as u64;
        ledger::check(&seen, recorded, terms, &mut verdict);
        sessions::check(&seen, recorded, &service, terms, &mut verdict);
        streams::check(&seen, recorded, &mut verdict);
    }
    verdict
}

/// What one user and those who worked on the user's wallet did and saw.
struct Seen<'a> {
    user: UserIndex,
    history: &'a History,
    operations: Vec<&'a Operation>,
    sightings: Vec<&'a Sighting>,
}

impl<'a> Seen<'a> {
    fn of(history: &'a History, user: UserIndex) -> Self {
        let operations = history.operations.iter();
        let sightings = history.sightings.iter();
        Self {
            user,
            history,
            operations: operations.filter(|seen| seen.user == user).collect(),
            sightings: sightings.filter(|seen| seen.user == user).collect(),
        }
    }

    fn starts(&self) -> impl Iterator<Item = &'a Operation> {
        self.of_request(|request| request == Request::Start)
    }

    fn stops(&self) -> impl Iterator<Item = &'a Operation> {
        self.of_request(|request| request == Request::Stop)
    }

    fn adjustments(&self) -> impl Iterator<Item = &'a Operation> {
        self.of_request(|request| matches!(request, Request::Adjust(..)))
    }

    fn of_request(
        &self,
        is_wanted: impl Fn(Request) -> bool,
    ) -> impl Iterator<Item = &'a Operation> {
        self.operations
            .iter()
            .copied()
            .filter(move |operation| is_wanted(operation.request))
    }
}

/// The word for the sort of a request.
fn sort(request: Request) -> &'static str {
    match request {
        Request::SignUp => "sign-up",
        Request::Start => "start",
        Request::Stop => "stop",
        Request::Adjust(..) => "adjustment",
    }
}

/// A row or an operation as evidence.
fn show(row: &impl Serialize) -> String {
    serde_json::to_string(row).unwrap_or_else(|error| error.to_string())
}

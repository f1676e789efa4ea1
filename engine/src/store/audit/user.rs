//! One user's rows against the laws. They come in whole or in pieces; the checks don't see which.

use std::collections::{HashMap, HashSet};

use schema::{UserId, ledger::EntryKind};

use super::{
    AuditPage, Findings, Moved, Place, Violation,
    course::{Course, Event, Known},
    rows::{self, EntryRow, Page, PauseRow, Runs, SessionRow, UserRow},
    served::Service,
    sessions::{self, Case, Tally},
    wallets::{Chain, change},
};
use crate::store::{StoreError, connection::Connection};

/// How many events take the place of a row in memory.
const EVENTS_FOR_A_ROW: u32 = 8;

/// What the checks take a user's balance and the totals of sessions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caches {
    /// For what is recorded.
    AsRecorded,
    /// For what the ledger says that they should be.
    Rebuilt,
}

/// A cache that differs from what the ledger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The session whose total it is; nothing for the user's balance.
    pub(super) session: Option<i64>,
    pub(super) recorded: i64,
    pub(super) by_ledger: i128,
}

/// The audit of one user.
pub(super) struct UserAudit<'a> {
    user: &'a UserRow,
    runs: &'a Runs,
    caches: Caches,
    audited: &'a mut AuditPage,
    id: UserId,
    chain: Chain,
    known: Known,
    course: Option<Course>,
    /// How many starts and settlements there were.
    writes: i128,
    /// The slots of all sessions, and of those that are live.
    slots: HashSet<i64>,
    live_slots: HashSet<i64>,
    /// The greatest instant of a session.
    latest: Option<i64>,
    /// The versions that sessions were written last at.
    versions: HashSet<i64>,
    /// The earliest start of a session with a version, and the latest of one without.
    first_with_version: Option<i64>,
    last_without_version: Option<i64>,
    /// A live session, if there is one.
    pub(super) live: Option<i64>,
    /// Where the caches differ from the ledger.
    pub(super) differences: Vec<Difference>,
}

impl<'a> UserAudit<'a> {
    pub(super) fn new(
        user: &'a UserRow,
        runs: &'a Runs,
        caches: Caches,
        audited: &'a mut AuditPage,
    ) -> Result<Self, StoreError> {
        let id = UserId::new(user.id)?;
        audited.last = Some(id);
        audited.users += 1;
        Ok(Self {
            user,
            runs,
            caches,
            audited,
            id,
            chain: Chain::default(),
            known: Known::default(),
            course: None,
            writes: 0,
            slots: HashSet::new(),
            live_slots: HashSet::new(),
            latest: None,
            versions: HashSet::new(),
            first_with_version: None,
            last_without_version: None,
            live: None,
            differences: Vec::new(),
        })
    }

    /// Takes all rows from a page that has them.
    pub(super) fn take_all(&mut self, page: &Page) {
        let (entries, sessions) = (page.entries_of(self.user), page.sessions_of(self.user));
        let mut tallies = tallies_of(sessions);
        for entry in entries {
            self.take_entry(entry);
            self.tally(entry, &mut tallies);
        }
        self.take_sessions(sessions, tallies, |session| page.pauses_of(session));
        let mut events: Vec<Event> = entries
            .iter()
            .map(|entry| Event::of_entry(self.user, entry))
            .chain(Event::of_sessions(sessions))
            .collect();
        events.sort_unstable();
        for event in &events {
            self.take_event(event);
        }
    }

    /// Reads the rows in pieces, and takes them: the entries in the order of versions, then the
    /// sessions with their entries, then what was written in the order of versions.
    pub(super) async fn read_all(
        &mut self,
        connection: &mut Connection,
        rows_at_once: u32,
    ) -> Result<(), StoreError> {
        let (user, at_once) = (self.user.id, rows_at_once);
        let mut after = (i64::MIN, i64::MIN);
        loop {
            let entries = rows::entries(connection, user, after, at_once).await?;
            let Some(last) = entries.last() else { break };
            after = (last.wallet_version, last.id);
            for entry in &entries {
                self.take_entry(entry);
            }
        }

        let (mut first, mut seen) = (i64::MIN, (i64::MIN, i64::MIN));
        loop {
            let sessions = rows::sessions(connection, user, first, at_once).await?;
            let is_last = sessions.len() < at_once as usize;
            let until = match sessions.last() {
                Some(last) if !is_last => last.id,
                _ => i64::MAX,
            };
            let mut tallies = tallies_of(&sessions);
            loop {
                let entries =
                    rows::entries_by_session(connection, user, seen, until, at_once).await?;
                let Some(last) = entries.last() else { break };
                seen = (last.session_id.unwrap_or(i64::MAX), last.id);
                for entry in &entries {
                    self.tally(entry, &mut tallies);
                }
            }
            let pauses = rows::pauses(connection, user, first, until).await?;
            self.take_sessions(&sessions, tallies, |session| {
                pauses.get(&session.id).map_or(&[], Vec::as_slice)
            });
            if is_last {
                break;
            }
            first = until;
        }

        // They are small, and each piece is a sort of them all.
        let events_at_once = at_once.saturating_mul(EVENTS_FOR_A_ROW);
        let mut after = (i64::MIN, i64::MIN, i64::MIN);
        loop {
            let events = rows::events(connection, user, after, events_at_once).await?;
            let Some(last) = events.last() else { break };
            after = (last.version, last.turn, last.id);
            for event in &events {
                self.take_event(event);
            }
        }
        Ok(())
    }

    /// Checks what only shows in the end.
    pub(super) fn finish(&mut self) {
        let sum = self.chain.sum();
        let recorded = self.user.credits;
        if i128::from(recorded) != sum {
            self.differences.push(Difference {
                session: None,
                recorded,
                by_ledger: sum,
            });
            if self.caches == Caches::AsRecorded {
                let what = format!("the balance is {recorded}, and the ledger's sum {sum}");
                self.add(5, "a balance is not the ledger's sum", what);
            }
        }
        // Each start, settlement and change from outside is one write, and makes one version; also
        // those of sessions that were deleted since.
        let writes = self.writes
            + i128::from(self.chain.changes_from_outside())
            + i128::from(self.user.forgotten_writes);
        let version = self.user.version;
        if i128::from(version) != writes {
            let what =
                format!("the wallet is at version {version}, and {writes} writes are recorded");
            self.add(
                7,
                "a wallet's version is not the number of its writes",
                what,
            );
        }
        self.check_last_instant();
        if let (Some(first), Some(last)) = (self.first_with_version, self.last_without_version)
            && last > first
        {
            let what = format!(
                "a session that started at {last} has no version of the wallet, and one that started at {first} has"
            );
            self.add(7, "a session has no version of its wallet", what);
        }
    }

    /// Nothing of the wallet was recorded with a later instant than it knows; and if all that was ever
    /// recorded is still there, the latest is the one that it knows.
    fn check_last_instant(&mut self) {
        let Some(latest) = self.latest.max(self.chain.latest()) else {
            return;
        };
        let last_instant = self.user.last_instant;
        let is_all_there = self.user.forgotten_writes == 0 && self.chain.is_granted_at_signup();
        if latest > last_instant || (is_all_there && latest < last_instant) {
            let what = format!(
                "the wallet's last instant is {last_instant}, and the latest that is recorded {latest}"
            );
            self.add(7, "a wallet's last instant is not that of its rows", what);
        }
    }

    // --- row by row ---

    /// The next entry in the order of versions.
    fn take_entry(&mut self, entry: &EntryRow) {
        self.audited.entries += 1;
        self.audited.moved = self.audited.moved.and(moved(entry));
        let mut findings = Findings {
            violations: &mut self.audited.violations,
        };
        self.chain.take(self.user, self.id, entry, &mut findings);
    }

    /// Adds an entry to its session's.
    fn tally(&mut self, entry: &EntryRow, tallies: &mut HashMap<i64, Tally>) {
        let EntryRow { id, kind, .. } = entry;
        let place = Place::of_user("ledger", *id, self.id);
        let Some(session) = entry.session_id else {
            if kind == EntryKind::Usage.as_str() {
                let what = format!("entry {id} is for the use of no session");
                self.findings()
                    .add(4, place, "usage is for no session", what);
            }
            return;
        };
        if let Some(tally) = tallies.get_mut(&session) {
            tally.take(entry);
        } else {
            let what =
                format!("entry {id} ({kind}) is for session {session}, which is not the user's");
            self.findings()
                .add(4, place, "an entry is for another user's session", what);
        }
    }

    fn take_sessions<'p>(
        &mut self,
        sessions: &[SessionRow],
        mut tallies: HashMap<i64, Tally>,
        pauses_of: impl Fn(&SessionRow) -> &'p [PauseRow],
    ) {
        for session in sessions {
            let mut tally = tallies.remove(&session.id).unwrap_or_default();
            self.take_session(session, &tally);
            let recorded = session.credits_consumed;
            if i128::from(recorded) != tally.used {
                self.differences.push(Difference {
                    session: Some(session.id),
                    recorded,
                    by_ledger: tally.used,
                });
            }
            let consumed = match self.caches {
                Caches::AsRecorded => i128::from(recorded),
                Caches::Rebuilt => tally.used,
            };
            let pauses = pauses_of(session);
            let runs = self.runs.of(&session.node);
            let service = Service::new(runs, pauses, sessions::proofs(&tally));
            let mut findings = Findings {
                violations: &mut self.audited.violations,
            };
            sessions::check_pauses(session, self.id, pauses, &mut findings);
            let mut case = Case {
                user: self.id,
                version: self.user.version,
                session,
                consumed,
                tally: &mut tally,
                service,
            };
            case.check(&mut findings);
        }
    }

    /// Takes note of what a session means for its wallet.
    fn take_session(&mut self, session: &SessionRow, tally: &Tally) {
        let SessionRow {
            id,
            slot,
            start_time,
            settled_at,
            wallet_version,
            ..
        } = session;
        let place = Place::of_user("sessions", *id, self.id);
        self.audited.sessions += 1;
        self.writes += 1 + i128::from(session.settled_seq);
        self.latest = self.latest.max(Some(*start_time)).max(Some(*settled_at));
        self.slots.insert(*slot);
        if session.end_time.is_none() {
            self.live = Some(*id);
            if !self.live_slots.insert(*slot) {
                let what = format!("session {id} is not the only live one in slot {slot}");
                self.findings()
                    .add(7, place.clone(), "a slot has two live sessions", what);
            }
        }
        if let Some(version) = wallet_version {
            let first = self.first_with_version.unwrap_or(i64::MAX);
            self.first_with_version = Some(first.min(*start_time));
            if !self.versions.insert(*version) {
                let what = format!(
                    "session {id} was written last at version {version}, and so was another"
                );
                self.findings().add(
                    7,
                    place,
                    "two sessions are of one version of the wallet",
                    what,
                );
            }
        } else {
            self.last_without_version = self.last_without_version.max(Some(*start_time));
            self.known.of_old_sessions += tally.silent_writes(session);
        }
    }

    fn take_event(&mut self, event: &Event) {
        let known = Known {
            forgotten: i128::from(self.user.forgotten_writes),
            is_one_slot: self.slots.len() <= 1,
            ..self.known
        };
        let course = self
            .course
            .get_or_insert_with(|| Course::new(self.id, known));
        let mut findings = Findings {
            violations: &mut self.audited.violations,
        };
        course.take(event, &mut findings);
    }

    fn findings(&mut self) -> Findings<'_> {
        Findings {
            violations: &mut self.audited.violations,
        }
    }

    /// Something is wrong with the user's own row.
    fn add(&mut self, law: u8, rule: &str, what: String) {
        let place = Place::of_user("users", self.user.id, self.id);
        self.findings().add(law, place, rule, what);
    }

    /// What is wrong so far, of this user and of those before on the page.
    pub(super) fn violations(&self) -> &[Violation] {
        &self.audited.violations
    }
}

fn tallies_of(sessions: &[SessionRow]) -> HashMap<i64, Tally> {
    let tally = |session: &SessionRow| (session.id, Tally::default());
    sessions.iter().map(tally).collect()
}

fn moved(entry: &EntryRow) -> Moved {
    let amount = i128::from(entry.amount);
    let nothing = Moved::default();
    match EntryKind::from_name(&entry.kind) {
        Some(EntryKind::SignupGrant | EntryKind::Grant) => Moved {
            issued: amount,
            ..nothing
        },
        Some(EntryKind::Revoke) => Moved {
            revoked: amount,
            ..nothing
        },
        Some(EntryKind::Usage) => Moved {
            used: amount,
            ..nothing
        },
        Some(EntryKind::Refund) => Moved {
            refunded: amount,
            ..nothing
        },
        _ => nothing,
    }
}

impl Event {
    fn of_entry(user: &UserRow, entry: &EntryRow) -> Self {
        let is_usage = entry.kind == EntryKind::Usage.as_str();
        // An entry moves the wallet by its amount, one way or the other, or not at all.
        let number = match change(user, entry).signum() {
            1 => entry.amount,
            -1 => -entry.amount,
            _ => 0,
        };
        Self {
            version: entry.wallet_version,
            turn: Self::ENTRY,
            id: entry.id,
            at: entry.at,
            number,
            session: entry.session_id.filter(|_| is_usage).unwrap_or(0),
            others_from: i64::MAX,
        }
    }

    /// The last writes of the sessions whose versions are known.
    fn of_sessions(sessions: &[SessionRow]) -> Vec<Self> {
        let mut events: Vec<(Self, &SessionRow)> = sessions
            .iter()
            .filter_map(|session| Some((Self::of_session(session)?, session)))
            .collect();
        // A live session goes on past all that have ended.
        events.sort_unstable_by_key(|(event, session)| {
            (session.end_time.is_none(), event.version, event.id)
        });
        let mut earliest = i64::MAX;
        for (event, session) in events.iter_mut().rev() {
            event.others_from = earliest;
            earliest = earliest.min(session.start_time);
        }
        events.into_iter().map(|(event, _)| event).collect()
    }

    fn of_session(session: &SessionRow) -> Option<Self> {
        let is_depleted = session.end_reason.as_deref() == Some("depleted");
        Some(Self {
            version: session.wallet_version?,
            turn: Self::SESSION,
            id: session.id,
            at: session.settled_at,
            number: if is_depleted {
                session.tariff_credits
            } else {
                0
            },
            session: i64::from(session.end_time.is_some()),
            others_from: i64::MAX,
        })
    }
}

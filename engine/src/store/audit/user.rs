//! One user's rows against the laws. They come in whole or in pieces; the checks don't see which.

use std::collections::{HashMap, HashSet};

use schema::{UserId, ledger::EntryKind};

use super::{
    AuditPage, Findings, Moved, Violation,
    course::{Course, Event},
    rows::{self, EntryRow, Page, PauseRow, Runs, SessionRow, UserRow},
    sessions::{Case, Tally},
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
    course: Course,
    /// How many starts and settlements there were.
    writes: i128,
    live_slots: HashSet<i32>,
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
            course: Course::default(),
            writes: 0,
            live_slots: HashSet::new(),
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
            .chain(sessions.iter().map(Event::of_start))
            .chain(sessions.iter().filter_map(Event::of_depletion))
            .collect();
        events.sort_unstable();
        for event in &events {
            self.take_event(event);
        }
    }

    /// Reads the rows in pieces, and takes them: the entries in the order of versions, then the
    /// sessions with their entries, then everything in the order of time.
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
            after = (last.at, last.turn, last.id);
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
                self.findings().add(5, what);
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
            self.findings().add(7, what);
        }
    }

    // --- row by row ---

    /// The next entry in the order of versions.
    fn take_entry(&mut self, entry: &EntryRow) {
        self.audited.entries += 1;
        self.audited.moved = self.audited.moved.and(moved(entry));
        let mut findings = Findings::new(Some(self.id), &mut self.audited.violations);
        self.chain.take(self.user, entry, &mut findings);
    }

    /// Adds an entry to its session's.
    fn tally(&mut self, entry: &EntryRow, tallies: &mut HashMap<i64, (Tally, String)>) {
        let Some(session) = entry.session_id else {
            if entry.kind == EntryKind::Usage.as_str() {
                let what = format!("entry {} is for the use of no session", entry.id);
                self.findings().add(4, what);
            }
            return;
        };
        if let Some((tally, node)) = tallies.get_mut(&session) {
            tally.take(entry, self.runs.of(node));
        } else {
            let EntryRow { id, kind, .. } = entry;
            let what =
                format!("entry {id} ({kind}) is for session {session}, which is not the user's");
            self.findings().add(4, what);
        }
    }

    fn take_sessions<'p>(
        &mut self,
        sessions: &[SessionRow],
        mut tallies: HashMap<i64, (Tally, String)>,
        pauses_of: impl Fn(&SessionRow) -> &'p [PauseRow],
    ) {
        for session in sessions {
            self.audited.sessions += 1;
            self.writes += 1 + i128::from(session.settled_seq);
            if session.end_time.is_none() {
                self.live = Some(session.id);
                if !self.live_slots.insert(session.slot) {
                    let SessionRow { id, slot, .. } = session;
                    let what = format!("session {id} is not the only live one in slot {slot}");
                    self.findings().add(7, what);
                }
            }
            let (tally, _) = tallies.remove(&session.id).unwrap_or_default();
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
            let case = Case {
                last_instant: self.user.last_instant,
                session,
                consumed,
                tally: &tally,
                pauses: pauses_of(session),
                runs: self.runs.of(&session.node),
            };
            case.check(&mut Findings::new(
                Some(self.id),
                &mut self.audited.violations,
            ));
        }
    }

    fn take_event(&mut self, event: &Event) {
        let mut findings = Findings::new(Some(self.id), &mut self.audited.violations);
        self.course.take(event, &mut findings);
    }

    fn findings(&mut self) -> Findings<'_> {
        Findings::new(Some(self.id), &mut self.audited.violations)
    }

    /// What is wrong so far, of this user and of those before on the page.
    pub(super) fn violations(&self) -> &[Violation] {
        &self.audited.violations
    }
}

fn tallies_of(sessions: &[SessionRow]) -> HashMap<i64, (Tally, String)> {
    let tally = |session: &SessionRow| (session.id, (Tally::default(), session.node.clone()));
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
        let is_outgoing = entry.from_account == user.id;
        let number = i64::try_from(change(user, entry)).unwrap_or(i64::MAX);
        Self {
            at: entry.at,
            turn: if is_outgoing {
                Self::OUTGOING
            } else {
                Self::INCOMING
            },
            id: entry.id,
            number,
        }
    }

    fn of_start(session: &SessionRow) -> Self {
        Self {
            at: session.start_time,
            turn: Self::START,
            id: session.id,
            number: session.end_time.unwrap_or(i64::MAX),
        }
    }

    fn of_depletion(session: &SessionRow) -> Option<Self> {
        let is_depleted = session.end_reason.as_deref() == Some("depleted");
        is_depleted.then_some(Self {
            at: session.settled_at,
            turn: Self::DEPLETION,
            id: session.id,
            number: session.tariff_credits,
        })
    }
}

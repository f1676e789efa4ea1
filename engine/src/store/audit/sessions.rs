//! What holds for a session: its charge follows from its facts (law 2), its settlements add up to it
//! (law 4), and it was served only while its node ran (law 8).

use billing::{ChargedAt, Tariff};
use schema::{Credits, Millis, ledger::EntryKind, session::EndReason};

use super::{
    Findings,
    rows::{EntryRow, PauseRow, RunRow, SessionRow, UserRow},
    wallets::change,
};

/// A session with what belongs to it.
pub(super) struct Case<'a> {
    /// Whose it is.
    pub(super) user: &'a UserRow,
    /// All of the user's entries.
    pub(super) entries: &'a [EntryRow],
    /// All of the user's sessions.
    pub(super) sessions: &'a [SessionRow],
    /// The session itself.
    pub(super) session: &'a SessionRow,
    /// Its pauses, in order.
    pub(super) pauses: &'a [PauseRow],
    /// Its node's runs, in order.
    pub(super) runs: &'a [RunRow],
}

/// Checks every session of the user's, and that no usage is of another session.
pub(super) fn check_usage_owners(
    entries: &[EntryRow],
    sessions: &[SessionRow],
    findings: &mut Findings<'_>,
) {
    for entry in entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Usage.as_str())
    {
        if !sessions
            .iter()
            .any(|session| Some(session.id) == entry.session_id)
        {
            let (id, session) = (entry.id, entry.session_id);
            findings.add(
                4,
                format!(
                    "entry {id} is for the use of session {session:?}, which is not the user's"
                ),
            );
        }
    }
}

impl Case<'_> {
    /// Checks the session.
    pub(super) fn check(&self, findings: &mut Findings<'_>) {
        self.check_settlements(findings);
        self.check_instants(findings);
        match self.tariff() {
            Some(tariff) => self.check_charge(tariff, findings),
            None => findings.add(
                2,
                format!("session {} has no tariff that makes sense", self.session.id),
            ),
        }
        self.check_served(findings);
    }

    /// Law 4: the ledger's entries are the differences between cumulative settlements.
    fn check_settlements(&self, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            credits_consumed,
            settled_seq,
            ..
        } = self.session;
        let sum: i128 = self.usage().map(|entry| i128::from(entry.amount)).sum();
        if sum != i128::from(*credits_consumed) {
            findings.add(
                4,
                format!(
                    "session {id} has consumed {credits_consumed}, and its entries sum to {sum}"
                ),
            );
        }
        let entries = i64::try_from(self.usage().count()).unwrap_or(i64::MAX);
        if entries > *settled_seq {
            findings.add(
                4,
                format!("session {id} has {entries} entries by {settled_seq} settlements"),
            );
        }
        if *settled_seq == 0 && *credits_consumed != 0 {
            findings.add(
                4,
                format!("session {id} has consumed {credits_consumed} without a settlement"),
            );
        }
    }

    /// Laws 4 and 7: the instants are in order, and the wallet knows them.
    fn check_instants(&self, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            start_time,
            end_time,
            settled_at,
            ..
        } = self.session;
        if settled_at < start_time {
            findings.add(
                4,
                format!(
                    "session {id} was settled at {settled_at}, before its start at {start_time}"
                ),
            );
        }
        if let Some(end) = end_time.filter(|end| end != settled_at || end < start_time) {
            findings.add(
                4,
                format!("session {id}, started at {start_time} and settled at {settled_at}, ended at {end}"),
            );
        }
        if end_time.is_some() != self.session.end_reason.is_some() {
            findings.add(
                4,
                format!("session {id} has an end without a reason, or a reason without an end"),
            );
        }
        let last_instant = self.user.last_instant;
        if *settled_at > last_instant {
            findings.add(
                7,
                format!(
                    "session {id} was settled at {settled_at}, past the last instant {last_instant}"
                ),
            );
        }
    }

    /// Law 2: the charge is what the tariff says for the served time.
    fn check_charge(&self, tariff: Tariff, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            credits_consumed,
            served_ms,
            ..
        } = self.session;
        let Ok(served) = Millis::new(*served_ms) else {
            findings.add(2, format!("session {id} was served for {served_ms} ms"));
            return;
        };
        let charge = match self.end_reason() {
            // Nothing is charged before the first settlement.
            None if self.session.settled_seq == 0 => Some(Credits::ZERO),
            Some(EndReason::Engine) if served == Millis::ZERO => Some(Credits::ZERO),
            Some(EndReason::Depleted) => tariff.price_of(tariff.intervals_completed(served)),
            _ => tariff.charge(served),
        };
        if charge.map(Credits::get) != Some(*credits_consumed) {
            let charge = charge.map_or("more than there can be".to_owned(), |charge| {
                charge.to_string()
            });
            findings.add(
                2,
                format!("session {id} has consumed {credits_consumed}; {served_ms} ms of its tariff cost {charge}"),
            );
        }
        if self.end_reason() == Some(EndReason::Depleted) {
            self.check_depletion(tariff, served, findings);
        }
    }

    /// Law 2: a session ends by itself only at a boundary, and only where the next interval could not
    /// be paid. With another session live at that instant, that one's hold counts too, and the ledger
    /// alone can't tell.
    fn check_depletion(&self, tariff: Tariff, served: Millis, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            settled_at: end,
            ..
        } = self.session;
        if tariff.served_after(tariff.intervals_completed(served)) != Some(served) {
            findings.add(
                2,
                format!("session {id} ran out of credits after {served} ms, inside an interval"),
            );
        }
        let is_live_at_end = |other: &&SessionRow| {
            other.start_time <= *end && other.end_time.is_none_or(|other| other >= *end)
        };
        if self
            .sessions
            .iter()
            .filter(|other| other.id != *id)
            .any(|other| is_live_at_end(&other))
        {
            return;
        }
        // What came in at the very end may have come after it was durable.
        let counts = |entry: &&EntryRow| {
            entry.at < *end || (entry.at == *end && change(self.user, entry) < 0)
        };
        let left: i128 = self
            .entries
            .iter()
            .filter(counts)
            .map(|entry| change(self.user, entry))
            .sum();
        let price = tariff.price();
        if left >= i128::from(price.get()) {
            findings.add(
                2,
                format!("session {id} ran out of credits with {left} left, at a price of {price}"),
            );
        }
    }

    /// Law 8: no more was served than the overlap of the session with its node's runs, less its
    /// pauses.
    fn check_served(&self, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            served_ms,
            node,
            ..
        } = self.session;
        let available = self.available_ms();
        if *served_ms < 0 || i128::from(*served_ms) > available {
            findings.add(
                8,
                format!("session {id} was served for {served_ms} ms, and node {node} could serve it for {available}"),
            );
        }
    }

    /// For how long the node's runs could have served the session.
    ///
    /// A run shows by its `alive_at` how long it lasted, and by what it recorded: the session's own
    /// settlements prove that it was served until then.
    fn available_ms(&self) -> i128 {
        let SessionRow {
            start_time,
            settled_at,
            ..
        } = self.session;
        let proofs: Vec<i64> = self
            .usage()
            .map(|entry| entry.at)
            .chain([*settled_at])
            .collect();
        let nexts = self
            .runs
            .iter()
            .skip(1)
            .map(|run| run.started_at)
            .chain([i64::MAX]);
        self.runs.iter().zip(nexts).fold(0, |sum, (run, next)| {
            let proofs = proofs
                .iter()
                .copied()
                .filter(|proof| (run.started_at..next).contains(proof));
            let until = proofs.fold(run.alive_at, i64::max).min(next);
            let (from, to) = (run.started_at.max(*start_time), until.min(*settled_at));
            sum + length(from, to) - self.paused_ms(from, to)
        })
    }

    fn paused_ms(&self, from: i64, to: i64) -> i128 {
        let pauses = self.pauses.iter();
        pauses
            .map(|pause| {
                length(
                    pause.from_time.max(from),
                    pause.to_time.unwrap_or(i64::MAX).min(to),
                )
            })
            .sum()
    }

    fn usage(&self) -> impl Iterator<Item = &EntryRow> {
        self.entries.iter().filter(|entry| {
            entry.kind == EntryKind::Usage.as_str() && entry.session_id == Some(self.session.id)
        })
    }

    fn end_reason(&self) -> Option<EndReason> {
        self.session
            .end_reason
            .as_deref()
            .and_then(EndReason::from_name)
    }

    fn tariff(&self) -> Option<Tariff> {
        let session = self.session;
        let (price, interval) = (
            Credits::new(session.tariff_credits),
            Millis::new(session.tariff_interval_ms),
        );
        Tariff::new(
            price.ok()?,
            interval.ok()?,
            ChargedAt::from_name(&session.tariff_charged_at)?,
        )
        .ok()
    }
}

fn length(from: i64, to: i64) -> i128 {
    (i128::from(to) - i128::from(from)).max(0)
}

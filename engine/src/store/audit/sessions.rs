//! What holds for a session: its charge follows from its facts (law 2), its settlements add up to it
//! (law 4), and it was served only while its node ran (law 8).

use billing::{ChargedAt, Tariff};
use schema::{Credits, Millis, ledger::EntryKind, session::EndReason};

use super::{
    Findings,
    rows::{EntryRow, PauseRow, RunRow, SessionRow},
};

/// What a session's ledger entries come to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What its usage sums to.
    pub(super) used: i128,
    /// How many entries of usage there are.
    entries: i64,
    /// What its refunds sum to.
    refunded: i128,
    /// The instants at which usage was recorded past the last `alive_at` of a run, with the place of
    /// that run.
    proofs: Vec<(usize, i64)>,
}

impl Tally {
    /// Adds an entry of the session's, whose node had these `runs`.
    pub(super) fn take(&mut self, entry: &EntryRow, runs: &[RunRow]) {
        let amount = i128::from(entry.amount);
        if entry.kind == EntryKind::Refund.as_str() {
            self.refunded += amount;
        }
        if entry.kind == EntryKind::Usage.as_str() {
            self.used += amount;
            self.entries += 1;
            self.proofs.extend(proof(entry.at, runs));
        }
    }
}

/// The run that lasted at `at`, by its place, if only something recorded at `at` proves that.
fn proof(at: i64, runs: &[RunRow]) -> Option<(usize, i64)> {
    let place = runs
        .partition_point(|run| run.started_at <= at)
        .checked_sub(1)?;
    let run = runs.get(place)?;
    (run.alive_at < at).then_some((place, at))
}

/// A session with what belongs to it.
pub(super) struct Case<'a> {
    /// The greatest instant that anything of the wallet was recorded with.
    pub(super) last_instant: i64,
    /// The session itself.
    pub(super) session: &'a SessionRow,
    /// What it has consumed.
    pub(super) consumed: i128,
    /// What its entries come to.
    pub(super) tally: &'a Tally,
    /// Its pauses, in order.
    pub(super) pauses: &'a [PauseRow],
    /// Its node's runs, in order.
    pub(super) runs: &'a [RunRow],
}

impl Case<'_> {
    /// Checks the session.
    pub(super) fn check(&self, findings: &mut Findings<'_>) {
        self.check_settlements(findings);
        self.check_refunds(findings);
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
            id, settled_seq, ..
        } = self.session;
        let consumed = self.consumed;
        let Tally { used, entries, .. } = self.tally;
        if *used != consumed {
            findings.add(
                4,
                format!("session {id} has consumed {consumed}, and its entries sum to {used}"),
            );
        }
        if entries > settled_seq {
            findings.add(
                4,
                format!("session {id} has {entries} entries by {settled_seq} settlements"),
            );
        }
        if *settled_seq == 0 && consumed != 0 {
            findings.add(
                4,
                format!("session {id} has consumed {consumed} without a settlement"),
            );
        }
    }

    /// Law 5: no more comes back from the revenue account than the session brought.
    fn check_refunds(&self, findings: &mut Findings<'_>) {
        let (id, Tally { used, refunded, .. }) = (self.session.id, self.tally);
        if refunded > used {
            findings.add(
                5,
                format!("session {id} has cost {used}, and {refunded} of it is refunded"),
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
        let last_instant = self.last_instant;
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
        let SessionRow { id, served_ms, .. } = self.session;
        let consumed = self.consumed;
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
        if charge.map(|charge| i128::from(charge.get())) != Some(consumed) {
            let charge = charge.map_or("more than there can be".to_owned(), |charge| {
                charge.to_string()
            });
            findings.add(
                2,
                format!("session {id} has consumed {consumed}; {served_ms} ms of its tariff cost {charge}"),
            );
        }
        // That the next interval could not be paid either shows in the course of the wallet.
        if self.end_reason() == Some(EndReason::Depleted)
            && tariff.served_after(tariff.intervals_completed(served)) != Some(served)
        {
            findings.add(
                2,
                format!("session {id} ran out of credits after {served} ms, inside an interval"),
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
        self.check_cut(findings);
    }

    /// Law 8: a run that did not go on with the sessions of the one before ended them.
    fn check_cut(&self, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            start_time,
            settled_at,
            ..
        } = self.session;
        let is_lived_through = |run: &&RunRow| {
            !run.resumes && *start_time < run.started_at && run.started_at <= *settled_at
        };
        for run in self.runs.iter().filter(is_lived_through) {
            let RunRow {
                epoch, started_at, ..
            } = run;
            findings.add(
                8,
                format!("session {id} was settled at {settled_at}, and run {epoch} at {started_at} ended what it found"),
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
        let own = proof(*settled_at, self.runs);
        let proofs = || self.tally.proofs.iter().chain(&own);
        let nexts = self
            .runs
            .iter()
            .skip(1)
            .map(|run| run.started_at)
            .chain([i64::MAX]);
        let mut sum = 0;
        for (place, (run, next)) in self.runs.iter().zip(nexts).enumerate() {
            if next <= *start_time || run.started_at >= *settled_at {
                continue;
            }
            let of_run = proofs().filter(|(of, _)| *of == place);
            let until = of_run
                .fold(run.alive_at, |until, (_, at)| until.max(*at))
                .min(next);
            let (from, to) = (run.started_at.max(*start_time), until.min(*settled_at));
            sum += length(from, to) - self.paused_ms(from, to);
        }
        sum
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

//! What holds for a session: its charge follows from its facts (law 2), its settlements add up to it
//! (law 4), its versions are the wallet's (law 7), and it was served only while its node ran (law 8).

use billing::{ChargedAt, Tariff};
use schema::{Credits, Millis, UserId, ledger::EntryKind, session::EndReason};

use super::{
    Findings, Place,
    rows::{EntryRow, PauseRow, SessionRow},
    served::Service,
};

/// An entry of a session's usage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    entry: i64,
    version: i64,
    at: i64,
    amount: i64,
}

/// What a session's ledger entries come to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What its usage sums to.
    pub(super) used: i128,
    /// The entries of kind `usage` among them.
    usage: Vec<Used>,
    /// What its refunds sum to.
    refunded: i128,
}

impl Tally {
    /// Adds an entry of the session's.
    pub(super) fn take(&mut self, entry: &EntryRow) {
        let amount = i128::from(entry.amount);
        if entry.kind == EntryKind::Refund.as_str() {
            self.refunded += amount;
        }
        if entry.kind == EntryKind::Usage.as_str() {
            self.used += amount;
            self.usage.push(Used {
                entry: entry.id,
                version: entry.wallet_version,
                at: entry.at,
                amount: entry.amount,
            });
        }
    }

    /// How many writes to the wallet of a session without a known version left no entry.
    pub(super) fn silent_writes(&self, session: &SessionRow) -> i128 {
        1 + i128::from(session.settled_seq) - self.usage.len() as i128
    }
}

/// A session with what belongs to it.
pub(super) struct Case<'a> {
    /// Whose it is.
    pub(super) user: UserId,
    /// The wallet's version.
    pub(super) version: i64,
    /// The session itself.
    pub(super) session: &'a SessionRow,
    /// What it has consumed.
    pub(super) consumed: i128,
    /// What its entries come to, in the order of versions.
    pub(super) tally: &'a mut Tally,
    /// When its node could serve it.
    pub(super) service: Service<'a>,
}

impl Case<'_> {
    /// Checks the session.
    pub(super) fn check(&mut self, findings: &mut Findings<'_>) {
        self.tally
            .usage
            .sort_unstable_by_key(|used| (used.version, used.entry));
        self.check_settlements(findings);
        self.check_refunds(findings);
        self.check_instants(findings);
        self.check_versions(findings);
        if let Some(tariff) = self.tariff() {
            self.check_charge(tariff, findings);
            self.check_usage(tariff, findings);
        } else {
            let what = format!("session {} has no tariff that makes sense", self.session.id);
            findings.add(
                2,
                self.place(),
                "a session has no tariff that makes sense",
                what,
            );
        }
        self.service.check(self.session, self.user, findings);
    }

    fn place(&self) -> Place {
        Place::of_user("sessions", self.session.id, self.user)
    }

    /// Law 4: the ledger's entries are the differences between cumulative settlements, and only a
    /// session's last one may move nothing.
    fn check_settlements(&self, findings: &mut Findings<'_>) {
        let SessionRow {
            id, settled_seq, ..
        } = self.session;
        let (consumed, used) = (self.consumed, self.tally.used);
        if used != consumed {
            let what =
                format!("session {id} has consumed {consumed}, and its entries sum to {used}");
            findings.add(
                4,
                self.place(),
                "a session's total is not the sum of its entries",
                what,
            );
        }
        let entries = self.entries();
        let silent = i64::from(self.session.end_time.is_some());
        if entries > *settled_seq || entries < settled_seq.saturating_sub(silent) {
            let what = format!("session {id} has {entries} entries by {settled_seq} settlements");
            findings.add(
                4,
                self.place(),
                "a session's settlements are not its entries",
                what,
            );
        }
        if *settled_seq == 0 && consumed != 0 {
            let what = format!("session {id} has consumed {consumed} without a settlement");
            findings.add(
                4,
                self.place(),
                "a session has consumed without a settlement",
                what,
            );
        }
    }

    /// Law 5: no more comes back from the revenue account than the session brought.
    fn check_refunds(&self, findings: &mut Findings<'_>) {
        let (id, Tally { used, refunded, .. }) = (self.session.id, &*self.tally);
        if refunded > used {
            let what = format!("session {id} has cost {used}, and {refunded} of it is refunded");
            findings.add(
                5,
                self.place(),
                "more of a session is refunded than it has cost",
                what,
            );
        }
    }

    /// Law 4: the instants are in order.
    fn check_instants(&self, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            start_time,
            end_time,
            settled_at,
            settled_seq,
            ..
        } = self.session;
        if settled_at < start_time || (*settled_seq == 0 && settled_at != start_time) {
            let what = format!(
                "session {id} was settled at {settled_at}, and started at {start_time}, by {settled_seq} settlements"
            );
            findings.add(
                4,
                self.place(),
                "a session was settled before its start",
                what,
            );
        }
        if let Some(end) = end_time.filter(|end| end != settled_at || end < start_time) {
            let what = format!(
                "session {id}, started at {start_time} and settled at {settled_at}, ended at {end}"
            );
            findings.add(
                4,
                self.place(),
                "a session's end is not its last settlement",
                what,
            );
        }
        if end_time.is_some() != self.session.end_reason.is_some() {
            let what =
                format!("session {id} has an end without a reason, or a reason without an end");
            findings.add(
                4,
                self.place(),
                "an end without a reason, or a reason without an end",
                what,
            );
        }
    }

    /// Law 7: the session's last write has a version of the wallet, that of its last entry if that was
    /// written with it.
    fn check_versions(&self, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            wallet_version,
            end_time,
            settled_seq,
            ..
        } = self.session;
        let Some(version) = *wallet_version else {
            if end_time.is_none() {
                let what = format!("session {id} is live, of no version of its wallet");
                findings.add(
                    7,
                    self.place(),
                    "a session has no version of its wallet",
                    what,
                );
            }
            return;
        };
        let last = self.tally.usage.last().map(|used| used.version);
        let is_of_entry = *settled_seq >= 1 && self.entries() == *settled_seq;
        let is_right = match last {
            Some(last) if is_of_entry => version == last,
            Some(last) => version > last,
            None => true,
        };
        if !is_right || version > self.version || version < 1 {
            let last = last.map_or("none".to_owned(), |last| last.to_string());
            let what = format!(
                "session {id} was written last at version {version} of the wallet, which is at {}; its last entry is of version {last}",
                self.version
            );
            findings.add(
                7,
                self.place(),
                "a session's version is not that of its last write",
                what,
            );
        }
    }

    /// Law 2: the charge is what the tariff says for the served time.
    fn check_charge(&self, tariff: Tariff, findings: &mut Findings<'_>) {
        let SessionRow { id, served_ms, .. } = self.session;
        let consumed = self.consumed;
        let Ok(served) = Millis::new(*served_ms) else {
            let what = format!("session {id} was served for {served_ms} ms");
            findings.add(
                2,
                self.place(),
                "a session was served for no time that there is",
                what,
            );
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
            let what = format!(
                "session {id} has consumed {consumed}; {served_ms} ms of its tariff cost {charge}"
            );
            findings.add(
                2,
                self.place(),
                "a session's charge does not follow from its facts",
                what,
            );
        }
        // That the next interval could not be paid either shows in the course of the wallet.
        if self.end_reason() == Some(EndReason::Depleted)
            && tariff.served_after(tariff.intervals_completed(served)) != Some(served)
        {
            let what =
                format!("session {id} ran out of credits after {served} ms, inside an interval");
            findings.add(
                2,
                self.place(),
                "a session ran out of credits inside an interval",
                what,
            );
        }
    }

    /// Laws 2 and 4: each entry of usage lies within the session, the last one at its last settlement, and
    /// brings the sum to what the time served by then costs.
    fn check_usage(&self, tariff: Tariff, findings: &mut Findings<'_>) {
        let SessionRow {
            id,
            start_time,
            settled_at,
            settled_seq,
            ..
        } = self.session;
        let place = |used: &Used| Place::of_user("ledger", used.entry, self.user);
        let mut sum = 0_i128;
        let mut before = *start_time;
        for (number, used) in self.tally.usage.iter().enumerate() {
            let Used { entry, at, .. } = used;
            sum += i128::from(used.amount);
            let is_last = i64::try_from(number + 1) == Ok(*settled_seq);
            if *at < before || at > settled_at || (is_last && at != settled_at) {
                let what = format!(
                    "entry {entry} is at {at}, and session {id} was settled before at {before} and at last at {settled_at}"
                );
                findings.add(4, place(used), "usage lies outside of its session", what);
            }
            before = *at;
            if is_last && self.session.end_reason.is_some() {
                continue;
            }
            let (least, most) = self.service.until(self.session, *at);
            let charge = |served: i128| {
                let served = i64::try_from(served).ok().map(Millis::new)?.ok()?;
                tariff.charge(served).map(|charge| i128::from(charge.get()))
            };
            let is_right = charge(least).is_some_and(|least| least <= sum)
                && charge(most).is_some_and(|most| sum <= most);
            if !is_right {
                let what = format!(
                    "entry {entry} brings the cost of session {id} to {sum}; it was served for {least} to {most} ms by {at}"
                );
                findings.add(
                    2,
                    place(used),
                    "usage does not follow from the time served by then",
                    what,
                );
            }
        }
    }

    fn entries(&self) -> i64 {
        i64::try_from(self.tally.usage.len()).unwrap_or(i64::MAX)
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

/// The instants of a session's usage, which prove that it was served until then.
pub(super) fn proofs(tally: &Tally) -> impl Iterator<Item = i64> {
    tally.usage.iter().map(|used| used.at)
}

/// Checks that pauses follow each other within their session.
pub(super) fn check_pauses(
    session: &SessionRow,
    user: UserId,
    pauses: &[PauseRow],
    findings: &mut Findings<'_>,
) {
    let mut before = session.start_time;
    for pause in pauses {
        let PauseRow {
            from_time, to_time, ..
        } = pause;
        let is_within = *from_time >= before
            && to_time.is_none_or(|to| to >= *from_time)
            && session
                .end_time
                .is_none_or(|end| to_time.is_some_and(|to| to <= end));
        if !is_within {
            let to = to_time.map_or("now".to_owned(), |to| to.to_string());
            let place = Place {
                table: "session_pauses".to_owned(),
                row: format!("{}/{from_time}", session.id),
                user: Some(user),
            };
            let what = format!(
                "session {} is paused from {from_time} to {to}, outside of its time or of another pause's end at {before}",
                session.id
            );
            findings.add(
                8,
                place,
                "a pause lies outside of its session, or in another",
                what,
            );
        }
        before = to_time.unwrap_or(i64::MAX);
    }
}

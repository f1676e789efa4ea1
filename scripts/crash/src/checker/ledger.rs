//! The ledger adds up, and holds every adjustment exactly as often as it was made.

use std::collections::HashMap;

use schema::{
    SessionId,
    ledger::{EntryKind, LedgerEntry},
    session::SessionRecord,
};

use super::{Kind, Seen, Terms, Verdict, show};
use crate::{
    history::{Adjustment, Operation, Reply, Request, Resolution},
    records::UserRecords,
};

pub(super) fn check(seen: &Seen<'_>, records: &UserRecords, terms: &Terms, verdict: &mut Verdict) {
    balances(seen, records, verdict);
    signup(seen, records, terms, verdict);
    sessions(seen, records, verdict);
    adjustments(seen, records, verdict);
    for stop in seen.stops() {
        for (_, reply) in stop.replies() {
            if let Reply::Stopped(stopped) = reply
                && !finals(stopped.session_id, records).contains(&stopped.final_credits.get())
            {
                verdict.violation(
                    Kind::Unbalanced,
                    seen.user,
                    format!(
                        "a stop told {} credits left, which the ledger never had after that session",
                        stopped.final_credits
                    ),
                    vec![show(stop), show(&records.ledger)],
                );
            }
        }
    }
}

/// Each entry's balance follows from the one before, and the last one is the wallet's.
fn balances(seen: &Seen<'_>, records: &UserRecords, verdict: &mut Verdict) {
    let mut balance = 0;
    for entry in &records.ledger {
        balance += entry.amount.get();
        if balance != entry.balance_after.get() {
            verdict.violation(
                Kind::Unbalanced,
                seen.user,
                format!(
                    "entry {} leaves {} credits where its movement leaves {balance}",
                    entry.entry_id, entry.balance_after
                ),
                vec![show(entry)],
            );
            balance = entry.balance_after.get();
        }
    }
    if balance != records.credits.get() {
        verdict.violation(
            Kind::Unbalanced,
            seen.user,
            format!(
                "the ledger leaves {balance} credits, the wallet holds {}",
                records.credits
            ),
            records.ledger.iter().rev().take(5).map(show).collect(),
        );
    }
}

fn signup(seen: &Seen<'_>, records: &UserRecords, terms: &Terms, verdict: &mut Verdict) {
    let grants: Vec<_> = of_kind(records, EntryKind::SignupGrant).collect();
    let is_right = grants.len() == 1 && grants[0].amount.get() == terms.signup.get();
    if !is_right {
        let kind = if grants.is_empty() {
            Kind::Lost
        } else {
            Kind::Doubled
        };
        verdict.violation(
            kind,
            seen.user,
            format!("not exactly one signup grant of {}", terms.signup),
            grants.into_iter().map(show).collect(),
        );
    }
}

/// What the usage entries of a session sum up to is its cost, and refunds don't exceed it.
fn sessions(seen: &Seen<'_>, records: &UserRecords, verdict: &mut Verdict) {
    let mut usage: HashMap<SessionId, i64> = HashMap::new();
    let mut refunded: HashMap<SessionId, i64> = HashMap::new();
    for entry in &records.ledger {
        let Some(session) = entry.session_id else {
            continue;
        };
        match entry.kind {
            EntryKind::Usage => *usage.entry(session).or_default() -= entry.amount.get(),
            EntryKind::Refund => *refunded.entry(session).or_default() += entry.amount.get(),
            _ => {}
        }
    }
    for session in &records.sessions {
        let used = usage.remove(&session.session_id).unwrap_or(0);
        if used != session.credits_consumed.get() {
            verdict.violation(
                Kind::Unbalanced,
                seen.user,
                format!(
                    "session {} cost {}, the ledger moved {used} for it",
                    session.session_id, session.credits_consumed
                ),
                evidence_of(session, records),
            );
        }
        let back = refunded.remove(&session.session_id).unwrap_or(0);
        if back > used {
            verdict.violation(
                Kind::Unbalanced,
                seen.user,
                format!(
                    "session {} cost {used}, and {back} was given back for it",
                    session.session_id
                ),
                evidence_of(session, records),
            );
        }
    }
    for session in usage.keys().chain(refunded.keys()) {
        verdict.violation(
            Kind::Lost,
            seen.user,
            format!("the ledger has session {session}, the history doesn't"),
            entries_of(*session, records).map(show).collect(),
        );
    }
}

/// Every adjustment acknowledged is there once, every one refused is not, and no other is there.
fn adjustments(seen: &Seen<'_>, records: &UserRecords, verdict: &mut Verdict) {
    let mut entries: HashMap<&str, Vec<&LedgerEntry>> = HashMap::new();
    for entry in &records.ledger {
        if matches!(
            entry.kind,
            EntryKind::Grant | EntryKind::Revoke | EntryKind::Refund
        ) {
            let reason = entry.reason.as_deref().unwrap_or_default();
            entries.entry(reason).or_default().push(entry);
        }
    }
    for operation in seen.adjustments() {
        let found = entries.remove(operation.key.as_str()).unwrap_or_default();
        let resolution = operation.resolution();
        let wrong = match (resolution, found.len()) {
            (Resolution::Acknowledged, 0) => {
                Some((Kind::Lost, "was acknowledged and is not there"))
            }
            (Resolution::Refused, 1..) => Some((Kind::Doubled, "was refused and is there")),
            (_, 2..) => Some((Kind::Doubled, "is there more than once")),
            _ => None,
        };
        if resolution == Resolution::Unknown && !found.is_empty() {
            verdict.found_done(operation.request, 1);
        }
        let evidence = || {
            let mut rows = vec![show(operation)];
            rows.extend(found.iter().map(show));
            rows
        };
        if let Some((kind, what)) = wrong {
            verdict.violation(
                kind,
                seen.user,
                format!("the adjustment {} {what}", operation.key),
                evidence(),
            );
        } else if found.iter().any(|entry| !is_entry_of(entry, operation)) {
            verdict.violation(
                Kind::Lost,
                seen.user,
                format!("the adjustment {} is there as another one", operation.key),
                evidence(),
            );
        }
    }
    for (reason, entries) in entries {
        verdict.violation(
            Kind::Doubled,
            seen.user,
            format!("nobody made the adjustment {reason:?}"),
            entries.into_iter().map(show).collect(),
        );
    }
}

fn is_entry_of(entry: &LedgerEntry, operation: &Operation) -> bool {
    let Request::Adjust(adjustment, amount) = operation.request else {
        return false;
    };
    let (kind, change, session) = match adjustment {
        Adjustment::Grant => (EntryKind::Grant, amount.get(), None),
        Adjustment::Revoke => (EntryKind::Revoke, -amount.get(), None),
        Adjustment::Refund(session) => (EntryKind::Refund, amount.get(), Some(session)),
    };
    (entry.kind, entry.amount.get(), entry.session_id) == (kind, change, session)
}

/// The balances that the wallet had from the session's last settlement until another session cost
/// something: its end may report any of them, as adjustments come in between.
pub(super) fn finals(session: SessionId, records: &UserRecords) -> Vec<i64> {
    let ledger = &records.ledger;
    let is_usage = |entry: &LedgerEntry| entry.kind == EntryKind::Usage;
    let settled = ledger
        .iter()
        .rposition(|entry| is_usage(entry) && entry.session_id == Some(session));
    // Without a settlement that moved anything: from the last movement before the session on.
    let first = settled.or_else(|| {
        let started_at = records
            .sessions
            .iter()
            .find(|recorded| recorded.session_id == session)?
            .started_at;
        ledger
            .iter()
            .rposition(|entry| is_usage(entry) && entry.at <= started_at)
            .or(Some(0))
    });
    let Some(first) = first else {
        return Vec::new();
    };
    let mut balances: Vec<i64> = ledger
        .get(first)
        .map(|entry| entry.balance_after.get())
        .into_iter()
        .collect();
    balances.extend(
        ledger
            .iter()
            .skip(first + 1)
            .take_while(|entry| !is_usage(entry))
            .map(|entry| entry.balance_after.get()),
    );
    balances
}

fn of_kind(records: &UserRecords, kind: EntryKind) -> impl Iterator<Item = &LedgerEntry> {
    records
        .ledger
        .iter()
        .filter(move |entry| entry.kind == kind)
}

fn entries_of(session: SessionId, records: &UserRecords) -> impl Iterator<Item = &LedgerEntry> {
    records
        .ledger
        .iter()
        .filter(move |entry| entry.session_id == Some(session))
}

fn evidence_of(session: &SessionRecord, records: &UserRecords) -> Vec<String> {
    let mut rows = vec![show(session)];
    rows.extend(entries_of(session.session_id, records).map(show));
    rows
}

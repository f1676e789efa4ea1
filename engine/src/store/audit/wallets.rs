//! What holds for a wallet: its ledger adds up (law 5), and every write to it is accounted for
//! (law 7).

use std::collections::HashSet;

use schema::ledger::EntryKind;

use super::{
    Findings,
    rows::{EntryRow, SessionRow, UserRow},
};

/// The house's account that credits are issued from and taken back to.
const ISSUANCE: i64 = -1;
/// The house's account that takes in what is used.
const REVENUE: i64 = -2;

/// Checks the wallet of `user`, with its entries in the order of the wallet's versions.
pub(super) fn check(
    user: &UserRow,
    entries: &[EntryRow],
    sessions: &[SessionRow],
    findings: &mut Findings<'_>,
) {
    check_entries(user, entries, findings);
    check_writes(user, entries, sessions, findings);
    check_slots(sessions, findings);
}

fn check_entries(user: &UserRow, entries: &[EntryRow], findings: &mut Findings<'_>) {
    let mut before: Option<&EntryRow> = None;
    let mut sum = 0_i128;
    for entry in entries {
        let EntryRow {
            id,
            kind,
            amount,
            from_account,
            to_account,
            balance_after,
            ..
        } = entry;
        if !is_rightly_directed(user, entry) {
            findings.add(
                5,
                format!(
                    "entry {id} ({kind}) moves {amount} from account {from_account} to {to_account}"
                ),
            );
        }
        let change = change(user, entry);
        sum += change;
        let expected = before.map_or(0, |entry| i128::from(entry.balance_after)) + change;
        if i128::from(*balance_after) != expected {
            findings.add(
                5,
                format!("entry {id} leaves a balance of {balance_after}, not {expected}"),
            );
        }
        if let Some(before) = before
            .filter(|before| before.wallet_version >= entry.wallet_version || before.id >= *id)
        {
            findings.add(
                7,
                format!(
                    "entry {} is of wallet version {}, and entry {id} after it of version {}",
                    before.id, before.wallet_version, entry.wallet_version
                ),
            );
        }
        if entry.wallet_version > user.version {
            findings.add(
                7,
                format!(
                    "entry {id} is of wallet version {}, past version {}",
                    entry.wallet_version, user.version
                ),
            );
        }
        if entry.at > user.last_instant {
            findings.add(
                7,
                format!(
                    "entry {id} is at {}, past the last instant {}",
                    entry.at, user.last_instant
                ),
            );
        }
        before = Some(entry);
    }
    if i128::from(user.credits) != sum {
        findings.add(
            5,
            format!(
                "the balance is {}, and the ledger's sum {sum}",
                user.credits
            ),
        );
    }
}

/// Each start, settlement and change from outside is one write, and makes one version.
fn check_writes(
    user: &UserRow,
    entries: &[EntryRow],
    sessions: &[SessionRow],
    findings: &mut Findings<'_>,
) {
    let outside = entries
        .iter()
        .filter(|entry| entry.kind != EntryKind::Usage.as_str())
        .count();
    let starts_and_settlements: i128 = sessions
        .iter()
        .map(|session| 1 + i128::from(session.settled_seq))
        .sum();
    let writes = i128::try_from(outside)
        .unwrap_or(i128::MAX)
        .saturating_add(starts_and_settlements);
    if i128::from(user.version) != writes {
        findings.add(
            7,
            format!(
                "the wallet is at version {}, and {writes} writes are recorded",
                user.version
            ),
        );
    }
}

fn check_slots(sessions: &[SessionRow], findings: &mut Findings<'_>) {
    let mut slots = HashSet::new();
    for session in sessions.iter().filter(|session| session.end_time.is_none()) {
        if !slots.insert(session.slot) {
            findings.add(
                7,
                format!(
                    "session {} is not the only live one in slot {}",
                    session.id, session.slot
                ),
            );
        }
    }
}

fn is_rightly_directed(user: &UserRow, entry: &EntryRow) -> bool {
    let (from, to) = match EntryKind::from_name(&entry.kind) {
        Some(EntryKind::SignupGrant | EntryKind::Grant) => (ISSUANCE, user.id),
        Some(EntryKind::Refund) => (REVENUE, user.id),
        Some(EntryKind::Revoke) => (user.id, ISSUANCE),
        Some(EntryKind::Usage) => (user.id, REVENUE),
        _ => return false,
    };
    (entry.from_account, entry.to_account) == (from, to) && entry.amount > 0
}

/// What the entry does to the user's wallet.
pub(super) fn change(user: &UserRow, entry: &EntryRow) -> i128 {
    let incoming = i128::from(entry.to_account == user.id);
    let outgoing = i128::from(entry.from_account == user.id);
    (incoming - outgoing) * i128::from(entry.amount)
}

//! What holds for a wallet: its ledger adds up (law 5), and its versions follow each other (law 7).

use schema::{UserId, ledger::EntryKind};

use super::{
    Findings, Place,
    rows::{EntryRow, UserRow},
};

/// The house's account that credits are issued from and taken back to.
const ISSUANCE: i64 = -1;
/// The house's account that takes in what is used.
const REVENUE: i64 = -2;

/// Follows a wallet's entries in the order of its versions.
#[derive(Debug, Default)]
pub(super) struct Chain {
    sum: i128,
    changes_from_outside: u64,
    /// The greatest instant of an entry.
    latest: Option<i64>,
    /// Whether the wallet began with a signup grant.
    is_granted_at_signup: bool,
    /// The entry before: its id, version and balance.
    before: Option<(i64, i64, i64)>,
}

impl Chain {
    /// What the entries sum to.
    pub(super) const fn sum(&self) -> i128 {
        self.sum
    }

    /// How many entries are no session's use.
    pub(super) const fn changes_from_outside(&self) -> u64 {
        self.changes_from_outside
    }

    /// The greatest instant of an entry, if there is one.
    pub(super) const fn latest(&self) -> Option<i64> {
        self.latest
    }

    /// Whether the wallet began with a signup grant.
    pub(super) const fn is_granted_at_signup(&self) -> bool {
        self.is_granted_at_signup
    }

    /// Checks the next entry.
    pub(super) fn take(
        &mut self,
        user: &UserRow,
        holder: UserId,
        entry: &EntryRow,
        findings: &mut Findings<'_>,
    ) {
        let EntryRow {
            id,
            at,
            kind,
            amount,
            from_account,
            to_account,
            wallet_version,
            balance_after,
            ..
        } = entry;
        let place = || Place::of_user("ledger", *id, holder);
        if !is_rightly_directed(user, entry) {
            let what = format!(
                "entry {id} ({kind}) moves {amount} from account {from_account} to {to_account}"
            );
            findings.add(
                5,
                place(),
                "an entry moves credits between the wrong accounts",
                what,
            );
        }
        let change = change(user, entry);
        self.sum += change;
        self.changes_from_outside += u64::from(kind != EntryKind::Usage.as_str());
        self.latest = self.latest.max(Some(*at));
        self.is_granted_at_signup |= kind == EntryKind::SignupGrant.as_str();
        // A wallet begins with nothing.
        let before = match self.before {
            Some((_, _, balance)) => i128::from(balance),
            None => 0,
        };
        let expected = before + change;
        if i128::from(*balance_after) != expected {
            let what = format!("entry {id} leaves a balance of {balance_after}, not {expected}");
            findings.add(
                5,
                place(),
                "the balances of the ledger don't follow each other",
                what,
            );
        }
        if let Some((before, version, _)) = self
            .before
            .filter(|(before, version, _)| version >= wallet_version || before >= id)
        {
            let what = format!(
                "entry {before} is of wallet version {version}, and entry {id} after it of version {wallet_version}"
            );
            findings.add(
                7,
                place(),
                "ids and versions of entries have different orders",
                what,
            );
        }
        if *wallet_version > user.version {
            let what = format!(
                "entry {id} is of wallet version {wallet_version}, past version {}",
                user.version
            );
            findings.add(
                7,
                place(),
                "an entry is of a version that the wallet has not reached",
                what,
            );
        }
        self.before = Some((*id, *wallet_version, *balance_after));
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

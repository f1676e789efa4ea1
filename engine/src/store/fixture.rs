//! Filling a database with a past, for load tests: users with sessions that ended long ago, and with
//! all that the ledger says of them. What the past was is decided elsewhere; here it is only written,
//! as fast as each database takes rows, in one transaction: all of it or nothing.
//!
//! Five million sessions at random places of half a dozen indexes would take most of an hour. So the
//! indexes and the foreign keys of the filled tables are dropped first, and built again from the
//! database's own definitions in the same transaction, which checks every row as well (`fixture/indexes.rs`).
//! Nobody else can use those tables meanwhile.

mod indexes;
mod write;

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use billing::{Tariff, WalletVersion};
use schema::{Credits, Millis, UnixMillis, UserId, ledger::EntryKind, session::EndReason};
use tokio::sync::mpsc;

use self::write::{Cell, Table};
use super::{
    AccountKey, StoreError,
    connection::{Connection, Sql, Value},
    journal, restored,
};
use crate::facts::{NodeName, ProcessId};

/// The house's account that credits are issued from and taken back to.
const ISSUANCE: i64 = -1;
/// The house's account that takes in what is used.
const REVENUE: i64 = -2;
/// The operator of all grants, revokes and refunds of the past.
const OPERATOR: &str = "fixture";

/// How much of a past will be written, and where it took place.
#[derive(Clone, Debug)]
pub struct PastSize {
    /// The node that served all sessions. It must not have run before.
    pub node: NodeName,
    /// The tariff of all sessions.
    pub tariff: Tariff,
    /// The node's runs, in order, each from its start to its last `alive_at`. A run did not go on with
    /// the sessions of the one before.
    pub runs: Vec<(UnixMillis, UnixMillis)>,
    /// How many users there will be.
    pub users: u32,
    /// How many sessions there will be.
    pub sessions: u32,
}

/// Rows of the past. Users and sessions are named by their places among all that are sent, from 0 on,
/// and users come before everything that is theirs.
#[derive(Clone, Debug)]
pub enum PastRows {
    /// The next users.
    Users(Vec<PastUser>),
    /// The next sessions.
    Sessions(Vec<PastSession>),
    /// The next ledger entries, those of a wallet in the order of its versions.
    Entries(Vec<PastEntry>),
}

/// A user, as the past leaves the wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastUser {
    /// The balance.
    pub credits: Credits,
    /// The wallet's version.
    pub version: WalletVersion,
    /// When the user signed up.
    pub created_at: UnixMillis,
    /// The greatest instant of the wallet.
    pub last_instant: UnixMillis,
}

/// A session that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastSession {
    /// The user's place.
    pub user: u32,
    /// When it started.
    pub started_at: UnixMillis,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Why it ended.
    pub reason: EndReason,
    /// For how long it was served.
    pub served: Millis,
    /// What it cost.
    pub consumed: Credits,
    /// How many settlements there were, with that of the end.
    pub settlements: i64,
    /// The wallet's version by the last of them.
    pub version: WalletVersion,
}

/// A ledger entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastEntry {
    /// The user's place.
    pub user: u32,
    /// When it counts from.
    pub at: UnixMillis,
    /// What kind of entry it is, which says from which account to which.
    pub kind: EntryKind,
    /// What it moves; not zero.
    pub amount: Credits,
    /// The session's place, of usage and refunds.
    pub session: Option<u32>,
    /// The wallet's version by it.
    pub version: WalletVersion,
    /// The balance right after it.
    pub balance_after: Credits,
}

/// What became of a past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It is written. The users have these ids, in their order.
    Written(RangeInclusive<i64>),
    /// Nothing was written, since the database is in use.
    Refused(InUse),
}

/// Why a database can't be given a past.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InUse {
    /// Somebody signed up there.
    #[error("the database holds users who are no fixtures, the first of them with the id {0}")]
    Users(UserId),
    /// A server has run on it, or it has a past already, and another would have to lie before that.
    #[error("node {0} has run on the database, or a past was made for it")]
    Node(String),
}

/// Rows on their way. They can be taken once only, by whichever clone of this comes first.
#[derive(Clone)]
pub(super) struct Rows(Arc<Mutex<Option<mpsc::Receiver<PastRows>>>>);

impl Rows {
    pub(super) fn new(rows: mpsc::Receiver<PastRows>) -> Self {
        Self(Arc::new(Mutex::new(Some(rows))))
    }

    /// The rows; an error for a call that is made again because another transaction was in its way.
    fn take(&self) -> Result<mpsc::Receiver<PastRows>, StoreError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let disturbed = || StoreError::Corrupt("somebody else writes to the database".to_owned());
        rows.take().ok_or_else(disturbed)
    }
}

/// Writes a past that is sent in `rows`, which ends when all of it was sent.
pub(super) async fn fill(
    connection: &mut Connection,
    size: PastSize,
    rows: Rows,
) -> Result<Filled, StoreError> {
    let mut rows = rows.take()?;
    connection.allow_long_statements().await?;
    connection.lock("fixture").await?;
    if let Some(why) = in_use(connection).await? {
        return Ok(Filled::Refused(why));
    }
    let dropped = indexes::drop_all(connection).await?;
    let ids = take_ids(connection, &size).await?;
    insert_runs(connection, &size).await?;
    let mut written = Written::default();
    while let Some(rows) = rows.recv().await {
        write_rows(connection, &size, &ids, &mut written, rows).await?;
    }
    let (users, sessions) = (written.users, written.sessions);
    if (users, sessions) != (i64::from(size.users), i64::from(size.sessions)) {
        return Err(StoreError::Corrupt(format!(
            "the fixture has ended after {users} users and {sessions} sessions"
        )));
    }
    indexes::rebuild(connection, dropped).await?;
    Ok(Filled::Written(
        ids.first_user..=ids.first_user + i64::from(size.users) - 1,
    ))
}

/// The first ids of the users and of the sessions, and what makes the users' emails new ones.
struct Ids {
    first_user: i64,
    first_session: i64,
    random: String,
}

/// How many rows of each kind were written.
#[derive(Default)]
struct Written {
    users: i64,
    sessions: i64,
}

/// Who is there already, whom a past must not be given to.
async fn in_use(connection: &mut Connection) -> Result<Option<InUse>, StoreError> {
    let user: Option<(i64,)> = connection
        .row(
            "SELECT id FROM users WHERE email NOT LIKE 'fixture-%@example.invalid' ORDER BY id LIMIT 1",
            &[],
        )
        .await?;
    if let Some((user,)) = user {
        return Ok(Some(InUse::Users(UserId::new(user)?)));
    }
    let node: Option<(String,)> = connection
        .row("SELECT node FROM node_runs ORDER BY node LIMIT 1", &[])
        .await?;
    Ok(node.map(|(node,)| InUse::Node(node)))
}

async fn take_ids(connection: &mut Connection, size: &PastSize) -> Result<Ids, StoreError> {
    let random = Sql {
        postgres: "SELECT gen_random_uuid()::TEXT",
        sqlite: "SELECT lower(hex(randomblob(16)))",
    };
    let (random,): (String,) = connection
        .row(random, &[])
        .await?
        .ok_or_else(|| StoreError::Corrupt("no random text was given".to_owned()))?;
    let next_user = restored::skip_row_ids(connection, "users", size.users).await?;
    let sessions = journal::take_session_ids(connection, size.sessions).await?;
    Ok(Ids {
        first_user: next_user - i64::from(size.users),
        first_session: sessions.start,
        random,
    })
}

async fn insert_runs(connection: &mut Connection, size: &PastSize) -> Result<(), StoreError> {
    for (epoch, (from, to)) in (1_i64..).zip(&size.runs) {
        let is_last = usize::try_from(epoch) == Ok(size.runs.len());
        connection
            .execute(
                "INSERT INTO node_runs (node, epoch, process, started_at, alive_at, last_instant, resumes, is_current)
                 VALUES ($1, $2, $3, $4, $5, $5, FALSE, $6 = 1)",
                &[
                    size.node.as_str().into(),
                    epoch.into(),
                    ProcessId::random().as_str().into(),
                    from.get().into(),
                    to.get().into(),
                    Value::from(i64::from(is_last)),
                ],
            )
            .await?;
    }
    Ok(())
}

async fn write_rows(
    connection: &mut Connection,
    size: &PastSize,
    ids: &Ids,
    written: &mut Written,
    rows: PastRows,
) -> Result<(), StoreError> {
    match rows {
        PastRows::Users(users) => {
            let rows = (written.users..).zip(&users);
            let rows = rows.map(|(number, user)| user.cells(number, ids)).collect();
            write::write(connection, &USERS, rows).await?;
            written.users += length(users.len());
        }
        PastRows::Sessions(sessions) => {
            let rows = (written.sessions..).zip(&sessions);
            let rows = rows.map(|(number, session)| session.cells(number, ids, size));
            let rows = rows.collect();
            write::write(connection, &SESSIONS, rows).await?;
            written.sessions += length(sessions.len());
        }
        PastRows::Entries(entries) => {
            let rows: Result<_, _> = entries.iter().map(|entry| entry.cells(ids)).collect();
            write::write(connection, &LEDGER, rows?).await?;
        }
    }
    Ok(())
}

fn length(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

// --- the rows ---

const USERS: Table<8> = Table {
    name: "users",
    columns: [
        "id",
        "email",
        "credits",
        "version",
        "last_instant",
        "created_at",
        "updated_at",
        "account_key",
    ],
};

const SESSIONS: Table<15> = Table {
    name: "sessions",
    columns: [
        "id",
        "user_id",
        "node",
        "start_time",
        "end_time",
        "end_reason",
        "credits_consumed",
        "settled_seq",
        "settled_at",
        "served_ms",
        "tariff_credits",
        "tariff_interval_ms",
        "tariff_charged_at",
        "created_at",
        "wallet_version",
    ],
};

const LEDGER: Table<13> = Table {
    name: "ledger",
    columns: [
        "user_id",
        "at",
        "kind",
        "from_account",
        "to_account",
        "amount",
        "session_id",
        "wallet_version",
        "balance_after",
        "reason",
        "operator",
        "idempotency_key",
        "created_at",
    ],
};

impl PastUser {
    fn cells<'r>(&self, number: i64, ids: &Ids) -> [Cell<'r>; 8] {
        // The same width for all, so that they come in the order of their index.
        let email = format!("fixture-{}-{number:010}@example.invalid", ids.random);
        [
            Cell::Int(ids.first_user + number),
            Cell::Made(email),
            Cell::Int(self.credits.get()),
            Cell::Int(self.version.get()),
            Cell::Int(self.last_instant.get()),
            Cell::Int(self.created_at.get()),
            Cell::Int(self.last_instant.get()),
            Cell::Made(AccountKey::random().to_string()),
        ]
    }
}

impl PastSession {
    fn cells<'r>(&self, number: i64, ids: &Ids, size: &'r PastSize) -> [Cell<'r>; 15] {
        [
            Cell::Int(ids.first_session + number),
            Cell::Int(ids.first_user + i64::from(self.user)),
            Cell::Text(size.node.as_str()),
            Cell::Int(self.started_at.get()),
            Cell::Int(self.ended_at.get()),
            Cell::Text(self.reason.as_str()),
            Cell::Int(self.consumed.get()),
            Cell::Int(self.settlements),
            Cell::Int(self.ended_at.get()),
            Cell::Int(self.served.get()),
            Cell::Int(size.tariff.price().get()),
            Cell::Int(size.tariff.interval().get()),
            Cell::Text(size.tariff.charged_at().as_str()),
            Cell::Int(self.started_at.get()),
            Cell::Int(self.version.get()),
        ]
    }
}

impl PastEntry {
    fn cells<'r>(&self, ids: &Ids) -> Result<[Cell<'r>; 13], StoreError> {
        let user = ids.first_user + i64::from(self.user);
        let (from, to) = match self.kind {
            EntryKind::SignupGrant | EntryKind::Grant => (ISSUANCE, user),
            EntryKind::Revoke => (user, ISSUANCE),
            EntryKind::Refund => (REVENUE, user),
            EntryKind::Usage => (user, REVENUE),
            kind => {
                let what = format!("the fixture knows no accounts of a {}", kind.as_str());
                return Err(StoreError::Corrupt(what));
            }
        };
        let is_operators = matches!(
            self.kind,
            EntryKind::Grant | EntryKind::Revoke | EntryKind::Refund
        );
        let of_operator = |text| {
            if is_operators {
                Cell::Text(text)
            } else {
                Cell::Null
            }
        };
        let key = match self.kind {
            EntryKind::SignupGrant => Cell::Text("signup"),
            EntryKind::Usage => Cell::Null,
            _ => Cell::Made(format!("fixture-{}", self.version.get())),
        };
        let session = self
            .session
            .map(|number| ids.first_session + i64::from(number));
        Ok([
            Cell::Int(user),
            Cell::Int(self.at.get()),
            Cell::Text(self.kind.as_str()),
            Cell::Int(from),
            Cell::Int(to),
            Cell::Int(self.amount.get()),
            session.map_or(Cell::Null, Cell::Int),
            Cell::Int(self.version.get()),
            Cell::Int(self.balance_after.get()),
            of_operator("load test"),
            of_operator(OPERATOR),
            key,
            Cell::Int(self.at.get()),
        ])
    }
}

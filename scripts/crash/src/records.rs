//! What the server shows in the end: the records that every operation is held against.

use anyhow::bail;
use schema::{
    Credits, UserId,
    account::User,
    ledger::{LedgerEntry, LedgerPage},
    session::{SessionPage, SessionRecord},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    client::{Answer, Call, Client},
    user::Account,
};

/// The records of one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserRecords {
    /// The id.
    pub id: UserId,
    /// The balance.
    pub credits: Credits,
    /// All sessions, oldest first.
    pub sessions: Vec<SessionRecord>,
    /// All movements of the wallet, oldest first.
    pub ledger: Vec<LedgerEntry>,
}

/// The records of all users, by [`crate::history::UserIndex`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// One for each user.
    pub users: Vec<UserRecords>,
}

impl Records {
    /// Reads the records of all `accounts` from the API.
    pub async fn read(client: &mut Client, accounts: &[Account]) -> anyhow::Result<Self> {
        let mut users = Vec::with_capacity(accounts.len());
        for account in accounts {
            let me: User = get(client, "/api/auth/me", account).await?;
            let mut sessions = Vec::new();
            let mut cursor = None;
            loop {
                let path = page("/api/sessions", cursor.as_deref());
                let page: SessionPage = get(client, &path, account).await?;
                sessions.extend(page.sessions);
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
            let mut ledger = Vec::new();
            loop {
                let path = page("/api/ledger", cursor.as_deref());
                let page: LedgerPage = get(client, &path, account).await?;
                ledger.extend(page.entries);
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
            sessions.reverse();
            ledger.reverse();
            users.push(UserRecords {
                id: me.id,
                credits: me.credits,
                sessions,
                ledger,
            });
        }
        Ok(Self { users })
    }
}

fn page(path: &str, cursor: Option<&str>) -> String {
    match cursor {
        Some(cursor) => format!("{path}?limit=100&cursor={cursor}"),
        None => format!("{path}?limit=100"),
    }
}

async fn get<T: DeserializeOwned>(
    client: &mut Client,
    path: &str,
    account: &Account,
) -> anyhow::Result<T> {
    match client.call(Call::get(path, &account.token)).await.answer {
        Answer::Done(value) => Ok(value),
        Answer::Failed(code) => bail!("{path} was refused: {code:?}"),
        Answer::Unknown(why) => bail!("{path} had no answer: {why}"),
        Answer::NotSent => bail!("{path} could not be sent"),
    }
}

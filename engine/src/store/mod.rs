//! The database, behind one interface: Postgres for production, SQLite embedded, and one test suite
//! that both pass (`engine/tests/store.rs`).
//!
//! There is one implementation, [`Database`]: what is decided is decided once, and a statement is
//! written twice only where the two databases' words differ. `postgres` and `sqlite` hold how each is
//! opened.
//!
//! Every call is a task that nobody can cancel, since a cancelled transaction can go back to the pool
//! open. A call that did not end well gives its connection up. A write whose COMMIT was sent and not
//! answered has an unknown outcome; all writes may be repeated. A write that another transaction was in
//! the way of is made again at once.
//!
//! SQL stands beside the function that runs it, and nowhere else.

pub mod audit;
pub mod fixture;

mod backup;
mod calls;
mod database;

mod accounts;
mod erasure;
mod history;
mod journal;
mod restored;
mod retention;
mod runs;
mod setbacks;
mod tokens;
mod wallets;

mod connection;
mod errors;
mod migrations;
mod postgres;
mod sqlite;

pub use backup::{BackupError, back_up};
pub use database::Database;
pub use postgres::{InvalidAddress, PostgresAddress};
pub use restored::Resumption;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use billing::{Run, SlotNumber, WalletVersion};
use schema::{
    Credits, CreditsChange, EntryId, SessionId, UnixMillis, UserId,
    ledger::{EntryKind, LedgerEntry},
    session::SessionRecord,
};

use crate::{
    clock::ClockReading,
    facts::{
        FactOutcome, NodeName, NodeRun, NodeTime, ProcessId, RecordedBalance, Recording,
        ResumePolicy, WalletAsked, WalletReading, WalletRecord,
    },
    keys::{IdempotencyKey, KeptAnswer},
    lanes::Lanes,
    metrics::StoreErrors,
};

/// Where a store is and how patient it is.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Which database.
    pub location: StoreLocation,
    /// How many connections at most.
    pub connections_max: u32,
    /// How many of them write what sessions decide at the same time; SQLite takes one writer.
    pub writers: Lanes,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a read or a transaction may take.
    pub call_timeout: Duration,
}

/// Which database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// A `postgres://` address. It may hold a password: it is never logged.
    Postgres(String),
    /// The path of an SQLite file, whose folder must be there.
    Sqlite(PathBuf),
}

/// Why a call to the database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached, or can't do it now, whatever the reason. Nothing was written.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The database did not answer in time. Nothing was written.
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    /// The database was told to make a write durable, and whether it did is not known.
    #[error("whether the database did that is not known")]
    OutcomeUnknown(#[source] Box<StoreError>),
    /// Another process runs under our node's name since. Nothing was written.
    #[error("another process has taken over this node's name")]
    Superseded,
    /// The database lacks what it had acknowledged to this process, or to the one before.
    #[error(
        "the database is older than what it had acknowledged: a standby without the last changes was \
         promoted, or a backup was put in its place. So that no id is given out twice, run \
         `minute-credit restored` on it, then start again (see \"Failover\" in config/OPERATIONS.md)"
    )]
    WentBack,
    /// The database refused what was asked for: the same call fails again. Nothing was written.
    #[error("the database refused")]
    Refused(#[source] sqlx::Error),
    /// What stands in the database can't be understood.
    #[error("the database holds something unexpected: {0}")]
    Corrupt(String),
    /// The schema is newer than this program, or not ours.
    #[error("the database's schema does not fit this program: {0}")]
    Incompatible(String),
    /// The database or the way to it is not what this program needs.
    #[error("the database won't do: {0}")]
    Unfit(String),
    /// The address can't be used.
    #[error("the database's address can't be used")]
    Address(#[from] InvalidAddress),
    /// A sequence gave a key that is in use, of the constraint of this name. Nothing was written.
    #[error(
        "the database gave a key twice ({0}): its sequence is behind its table, as after a logical \
         replication or a restore of the data alone; set it past the greatest key with setval"
    )]
    RepeatedKey(&'static str),
    /// The embedded database's file is not the one that was opened any more.
    #[error(
        "the file {path} was moved, deleted or replaced while it was open: nothing is recorded until it \
         is back; to go on with another one, start this program anew"
    )]
    FileGone {
        /// The file.
        path: PathBuf,
    },
    /// The embedded database's file or folder can't be used.
    #[error("can't use {path}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether the database can't do it now, rather than never: waiting and repeating the same call
    /// can help.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::TimedOut(_)
                | Self::OutcomeUnknown(_)
                | Self::RepeatedKey(_)
                | Self::FileGone { .. }
        )
    }

    /// Whether a write may have been done all the same.
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_))
    }
}

/// A user to be created, with the wallet's first credits.
#[derive(Clone)]
pub struct NewUser {
    /// The email address as given.
    pub email: String,
    /// The password's argon2 hash in PHC form; without one nobody can log in.
    pub password_hash: Option<String>,
    /// The signup grant; zero makes no ledger entry.
    pub grant: Credits,
    /// When.
    pub created_at: UnixMillis,
}

/// A user as recorded.
#[derive(Clone)]
pub struct UserRecord {
    /// The id.
    pub id: UserId,
    /// The email address as given at signup.
    pub email: String,
    /// The password's argon2 hash in PHC form, if there is one.
    pub password_hash: Option<String>,
    /// The balance in the ledger; of a live session it lacks what is not settled.
    pub credits: Credits,
    /// When the user signed up.
    pub created_at: UnixMillis,
    /// The generation of the tokens that are made now.
    pub token_generation: TokenGeneration,
    /// What tokens name beside the id.
    pub account_key: AccountKey,
}

/// Tells an account from any other that ever had the same id: 128 bits drawn by chance, written as 32
/// hexadecimal digits. If a user is lost, with the last changes of a server that was replaced, somebody
/// else may be given the id; a token names this too, and so doesn't open that one's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountKey(u128);

impl AccountKey {
    /// A new account's.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The key of these digits; `None` if they are none.
    pub fn parse(digits: &str) -> Option<Self> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (digits.len() == 32 && digits.bytes().all(is_digit))
            .then(|| u128::from_str_radix(digits, 16).ok().map(Self))
            .flatten()
    }

    fn read(digits: &str) -> Result<Self, StoreError> {
        Self::parse(digits).ok_or_else(|| StoreError::Corrupt("an account's key".to_owned()))
    }
}

/// The digits.
impl std::fmt::Display for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Counts how often all tokens of a user were voided. A token carries the number that held when its
/// user was read to make it: so no clock decides whether it came before or after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenGeneration(i64);

impl TokenGeneration {
    /// The generation of this number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// Which tokens of a user are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenStanding {
    /// Those of this generation,
    pub generation: TokenGeneration,
    /// and the one with this id,
    pub kept: Option<String>,
    /// but none of these, which have not ended yet.
    pub revoked: Vec<RevokedToken>,
    /// A token of another account that had the same id names another key.
    pub account_key: AccountKey,
    /// When the user signed up: a token from before is another account's.
    pub created_at: UnixMillis,
}

/// A new password.
#[derive(Clone)]
pub struct NewPassword {
    /// Whose.
    pub user: UserId,
    /// The password's argon2 hash in PHC form.
    pub hash: String,
    /// If this is not the generation of the user's tokens any more, nothing is changed: somebody else
    /// has changed the password, or voided the tokens, since it was read.
    pub decided_in: Option<TokenGeneration>,
    /// The id of the only token that stays valid.
    pub kept_token: Option<String>,
    /// When.
    pub at: UnixMillis,
}

/// Why a user was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateUserError {
    /// Somebody has that email, in some spelling of upper and lower case.
    #[error("somebody has that email")]
    EmailTaken,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A user to be erased.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// Who.
    pub user: UserId,
    /// If this is not the generation of the user's tokens any more, nothing is changed.
    pub decided_in: Option<TokenGeneration>,
    /// Who does it, for the ledger.
    pub operator: String,
    /// When.
    pub at: UnixMillis,
}

/// Why a user was not erased, in the order in which it is tried.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// There is no such user.
    #[error("there is no such user")]
    UserUnknown,
    /// The password has changed since, or the tokens were voided.
    #[error("the user's tokens were voided since")]
    Changed,
    /// The user has a live session.
    #[error("the user has a live session")]
    SessionLive,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A token that was revoked before it expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedToken {
    /// The token's own id.
    pub token_id: String,
    /// When it would have expired; the row may go then.
    pub expires_at: UnixMillis,
}

/// A change of a balance by an operator.
#[derive(Clone, Debug)]
pub struct Adjustment {
    /// Whose wallet.
    pub user: UserId,
    /// What kind of entry it makes; not [`EntryKind::Usage`].
    pub kind: EntryKind,
    /// What comes in or goes out; not zero.
    pub amount: CreditsChange,
    /// The session that a refund is for; nothing for all other kinds.
    pub session: Option<SessionId>,
    /// What a revoke does where fewer credits are free than it asks for.
    pub shortfall: Shortfall,
    /// The writer's clock, for people to read. Of a wallet with a live session the adjustment counts from
    /// the latest instant that the session's node has proved, whatever this says; of any other wallet
    /// from no later one than any node has proved.
    pub at: UnixMillis,
    /// Why, in words.
    pub reason: String,
    /// Who.
    pub operator: String,
    /// Makes it safe to repeat: a second adjustment of the wallet with the key changes nothing.
    pub idempotency_key: String,
}

/// What a revoke does where fewer credits are free than it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortfall {
    /// It is refused.
    #[default]
    Refuse,
    /// It takes what is free. Of a repeat nothing else can be asked than that it covers what was
    /// taken: how much was asked for at first is not recorded.
    TakeWhatIsFree,
}

/// An adjustment as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjusted {
    /// Its ledger entry.
    pub entry: EntryId,
    /// From when it counts.
    pub at: UnixMillis,
    /// What it moved.
    pub amount: CreditsChange,
    /// The ledger's balance right after it.
    pub balance_after: Credits,
    /// Whether the key had been used, for the same adjustment, and nothing was changed now.
    pub is_repeat: bool,
}

/// Why an adjustment was not made, in the order in which it is tried.
#[derive(Debug, thiserror::Error)]
pub enum AdjustError {
    /// Nothing is moved, or in the wrong direction, or by an entry that no operator can make, or
    /// with a session where there can be none, or without one.
    #[error("no operator can make such a ledger entry")]
    Nonsense,
    /// There is no such user.
    #[error("there is no such user")]
    UserUnknown,
    /// The key belongs to another adjustment of this wallet.
    #[error("the idempotency key was used for a different adjustment of this wallet")]
    KeyConflict,
    /// The session that a refund is for is not the user's.
    #[error("the user has no such session")]
    SessionUnknown,
    /// All refunds of a session together would exceed what it has cost.
    #[error("the session has cost {spent} so far, and {refunded} of it is refunded")]
    MoreThanSpent {
        /// What the ledger says that it has cost.
        spent: Credits,
        /// What was refunded before.
        refunded: Credits,
    },
    /// More would be taken than is free.
    #[error("only {free} credits are free, the others are used or held by a live session")]
    MoreThanFree {
        /// The balance less what live sessions have used and hold.
        free: Credits,
    },
    /// The wallet would hold more than a wallet can.
    #[error("the wallet holds {balance} and can't take so much more")]
    MoreThanFits {
        /// What it holds.
        balance: Credits,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A wallet as an operator sees it: as recorded, and what follows for now if its live sessions run
/// on.
#[derive(Clone, Debug)]
pub struct Standing {
    /// As recorded.
    pub record: WalletRecord,
    /// The instant that the rest holds for.
    pub at: UnixMillis,
    /// The balance, before holds.
    pub balance: Credits,
    /// What is neither used nor held.
    pub free: Credits,
    /// What each live session has cost.
    pub consumed: Vec<(SessionId, Credits)>,
}

/// Word that somebody else has written to a user's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The notice's number; later ones have greater numbers.
    pub id: i64,
    /// Whose row.
    pub user: UserId,
}

/// A session as retention looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldSession {
    /// Its id.
    pub id: SessionId,
    /// The node that served it.
    pub node: NodeName,
    /// When it started.
    pub started_at: UnixMillis,
    /// When it ended, if it did.
    pub ended_at: Option<UnixMillis>,
    /// Whether it cost anything.
    pub is_paid: bool,
}

/// A run of a node that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSpan {
    /// The node.
    pub node: NodeName,
    /// The run's number.
    pub epoch: i64,
    /// When it began.
    pub from: UnixMillis,
    /// When the next one began.
    pub until: UnixMillis,
    /// When it was last alive, or last recorded something.
    pub last_at: UnixMillis,
}

/// A live session, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSessionOf {
    /// The owner of the wallet that pays for the session.
    pub user: UserId,
    /// The number that the session was started under.
    pub session: SessionId,
    /// Which of the user's places for a live session it takes.
    pub slot: SlotNumber,
    /// The node that serves it.
    pub node: NodeName,
    /// When it started.
    pub started_at: UnixMillis,
}

/// The place of a session in the history: its start, then its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCursor {
    /// When the session started.
    pub started_at: UnixMillis,
    /// Its id.
    pub session: SessionId,
}

/// The database. See the module's documentation for what holds for all of it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Where it counts the calls that fail.
    fn errors(&self) -> StoreErrors {
        StoreErrors::default()
    }

    // --- runs of nodes ---

    /// Succeeds if the database answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// What the node's own runs have recorded of time; `None` if it never ran.
    async fn node_time(&self, node: &NodeName) -> Result<Option<NodeTime>, StoreError>;

    /// Begins the node's next run, in one transaction: the run before it, if any, may write no
    /// more. The run starts at `now` or right after all that was recorded, whichever is later.
    async fn begin_run(
        &self,
        node: &NodeName,
        process: &ProcessId,
        now: ClockReading,
        policy: ResumePolicy,
    ) -> Result<NodeRun, StoreError>;

    /// Begins another run of the process that runs as `run`, which was alive up to `cut`, in one
    /// transaction. May be repeated: a run that it began already is returned once more.
    /// [`StoreError::Superseded`] if another process has begun one since.
    async fn next_run(
        &self,
        run: &NodeRun,
        cut: UnixMillis,
        now: ClockReading,
        policy: ResumePolicy,
    ) -> Result<NodeRun, StoreError>;

    /// The node's runs before `run` that were alive at or after `since`, each from its start to its
    /// last `alive_at`, in order.
    async fn earlier_runs(&self, run: &NodeRun, since: UnixMillis) -> Result<Vec<Run>, StoreError>;

    /// Up to `limit` wallets with a live session of `node`, ordered by user id, after `after`. Their
    /// `changes` are empty.
    async fn live_wallets(
        &self,
        node: &NodeName,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<WalletRecord>, StoreError>;

    /// Takes a block of `count` session ids for the caller alone. Ids are never given out twice.
    async fn take_session_ids(&self, count: u32) -> Result<std::ops::Range<i64>, StoreError>;

    // --- the journal ---

    /// Into how many lanes users are dealt. Facts of one lane are recorded one batch after the other, and
    /// those of different lanes at the same time.
    fn lanes(&self) -> Lanes;

    /// Records facts of one lane, at most one for each user, in one transaction with their keys, and tells
    /// what became of each, in their order. One refused fact spoils nothing. With `alive_at`, records after
    /// them that the run was alive then. [`StoreError::Superseded`] if the run is not its node's latest.
    ///
    /// A session's end that is recorded already keeps the keys that come with it now.
    async fn record(
        &self,
        run: &NodeRun,
        alive_at: Option<UnixMillis>,
        recordings: &[Recording],
    ) -> Result<Vec<FactOutcome>, StoreError>;

    // --- idempotency keys ---

    /// The success that is kept under the user's key, unless it is older than 24 h at `now`.
    async fn kept_answer(
        &self,
        user: UserId,
        key: &IdempotencyKey,
        now: UnixMillis,
    ) -> Result<Option<KeptAnswer>, StoreError>;

    /// Deletes up to `limit` keys that were kept at `expired_at` or before, and tells how many.
    async fn purge_keys(&self, expired_at: UnixMillis, limit: u32) -> Result<u64, StoreError>;

    // --- wallets ---

    /// The balances of these users' wallets in the ledger, in the users' order; `None` for a user who
    /// doesn't exist.
    async fn balances(&self, users: &[UserId]) -> Result<Vec<Option<RecordedBalance>>, StoreError>;

    /// These wallets in their order, each of one state of the database; nothing for a user who isn't
    /// there. With the unpaid sessions since an instant, if that is asked for.
    async fn wallets(
        &self,
        asked: &[WalletAsked],
        unpaid_since: Option<UnixMillis>,
    ) -> Result<Vec<Option<WalletReading>>, StoreError>;

    /// The user's wallet, with the changes from outside since version `since`.
    async fn wallet(
        &self,
        user: UserId,
        since: WalletVersion,
    ) -> Result<Option<WalletRecord>, StoreError> {
        let mut found = self.wallets(&[WalletAsked { user, since }], None).await?;
        Ok(found.pop().flatten().map(|reading| reading.record))
    }

    /// Changes a balance from outside the engine, and leaves a notice for the wallet's owner.
    async fn adjust(&self, adjustment: Adjustment) -> Result<Adjusted, AdjustError>;

    /// The user's wallet as it stands at the latest instant that the node of its live session has proved,
    /// or at `now` if there is none.
    async fn standing(&self, user: UserId, now: UnixMillis)
    -> Result<Option<Standing>, StoreError>;

    /// Up to `limit` notices after the one numbered `after`, in order; `None` for the oldest kept.
    async fn notices(&self, after: Option<i64>, limit: u32) -> Result<Vec<Notice>, StoreError>;

    /// The newest notice's number, 0 if there never was one.
    async fn latest_notice(&self) -> Result<i64, StoreError>;

    // --- accounts ---

    /// Creates a user with the signup grant as a ledger entry, in one transaction.
    async fn create_user(&self, user: NewUser) -> Result<UserRecord, CreateUserError>;

    /// Creates users for load tests in bulk, without passwords, with fresh emails; returns their ids.
    async fn create_fixture_users(
        &self,
        count: u32,
        grant: Credits,
        now: UnixMillis,
    ) -> Result<Vec<UserId>, StoreError>;

    /// The user with this email, in any spelling of upper and lower case.
    async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError>;

    /// The user with this id.
    async fn user(&self, user: UserId) -> Result<Option<UserRecord>, StoreError>;

    /// Up to `limit` users with ids after `after`, in order.
    async fn users(&self, after: Option<UserId>, limit: u32)
    -> Result<Vec<UserRecord>, StoreError>;

    /// Up to `limit` users with ids after `after`, in order, whose email begins with `prefix` in any
    /// spelling of upper and lower case. Every sign of `prefix` means itself.
    async fn find_users(
        &self,
        prefix: &str,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<UserRecord>, StoreError>;

    /// Sets the user's password hash and voids all tokens but the one to be kept; leaves a notice.
    /// Returns whether it did.
    async fn set_password(&self, password: NewPassword) -> Result<bool, StoreError>;

    /// Which tokens of each of these users are valid at `now`, in their order; nothing for a user who
    /// isn't there.
    async fn token_standings(
        &self,
        users: &[UserId],
        now: UnixMillis,
    ) -> Result<Vec<Option<TokenStanding>>, StoreError>;

    /// Which tokens of the user are valid at `now`; nothing if there is no such user.
    async fn token_standing(
        &self,
        user: UserId,
        now: UnixMillis,
    ) -> Result<Option<TokenStanding>, StoreError> {
        Ok(self.token_standings(&[user], now).await?.pop().flatten())
    }

    /// Whether the token was revoked, ended or not, as far as that is remembered.
    async fn is_token_revoked(&self, token_id: &str) -> Result<bool, StoreError>;

    /// Voids all tokens of the user, and leaves a notice. Returns whether there is such a user.
    async fn void_tokens(&self, user: UserId, now: UnixMillis) -> Result<bool, StoreError>;

    /// Revokes a token of the user, and leaves a notice. Revoking it twice is the same as once.
    async fn revoke_token(
        &self,
        user: UserId,
        token: RevokedToken,
        now: UnixMillis,
    ) -> Result<(), StoreError>;

    /// Deletes up to `limit` revoked tokens that expired at `expired_at` or before, and tells how many.
    async fn purge_revoked_tokens(
        &self,
        expired_at: UnixMillis,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Says that the user is about to be erased: live sessions end, with the reason `admin`, within a
    /// second wherever they are served, and none starts. Returns whether there is such a user.
    async fn begin_erasure(&self, user: UserId, now: UnixMillis) -> Result<bool, StoreError>;

    /// Takes [`begin_erasure`](Self::begin_erasure) back. Returns whether there is such a user.
    async fn cancel_erasure(&self, user: UserId, now: UnixMillis) -> Result<bool, StoreError>;

    /// Erases a user who has no live session: email, password, tokens and idempotency keys go, and
    /// what is left of the credits; the ledger and the history stay. Leaves a notice. Erasing one who
    /// is erased is a success.
    async fn erase_user(&self, erasure: Erasure) -> Result<(), EraseError>;

    // --- history ---

    /// Up to `limit` of the user's sessions, newest first, from before `before`.
    async fn sessions(
        &self,
        user: UserId,
        before: Option<SessionCursor>,
        limit: u32,
    ) -> Result<Vec<SessionRecord>, StoreError>;

    /// Up to `limit` live sessions of all users and nodes after `after`, by user and slot.
    async fn live_sessions(
        &self,
        after: Option<(UserId, SlotNumber)>,
        limit: u32,
    ) -> Result<Vec<LiveSessionOf>, StoreError>;

    /// One session of the user's.
    async fn session(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<Option<SessionRecord>, StoreError>;

    /// Up to `limit` of the user's ledger entries, newest first, from before the entry `before`.
    async fn ledger(
        &self,
        user: UserId,
        before: Option<EntryId>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>, StoreError>;

    // --- retention ---

    /// Deletes up to `limit` notices from before `before`, except the newest one; tells how many.
    async fn purge_notices(&self, before: UnixMillis, limit: u32) -> Result<u64, StoreError>;

    /// Up to `limit` sessions of all users in the order of their ids, after `after`.
    async fn sessions_by_id(
        &self,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OldSession>, StoreError>;

    /// Deletes those of `sessions` that ended before `before` and cost nothing, and tells how many;
    /// none that a key refers to, or whose user somebody else writes to just now.
    async fn delete_unpaid_sessions(
        &self,
        sessions: &[SessionId],
        before: UnixMillis,
    ) -> Result<u64, StoreError>;

    /// All runs of all nodes that are over.
    async fn ended_runs(&self) -> Result<Vec<RunSpan>, StoreError>;

    /// Deletes these runs, and tells how many; no session may have fallen into them. Never a current one.
    async fn delete_runs(&self, runs: &[RunSpan]) -> Result<u64, StoreError>;

    // --- audit ---

    /// Audits one page of users, those after `after` by id, against the laws; see [`audit`].
    async fn audit(
        &self,
        after: Option<UserId>,
        limits: audit::AuditLimits,
    ) -> Result<audit::AuditPage, StoreError>;

    /// How many users there are, with those who were erased.
    async fn count_users(&self) -> Result<u64, StoreError>;

    /// Rebuilds what is a cache of the ledger in the user's rows, or lists what that would do. Moves
    /// no credit, and touches nothing of a user with a live session.
    async fn repair(
        &self,
        user: UserId,
        mode: audit::RepairMode,
        now: UnixMillis,
    ) -> Result<audit::Repaired, StoreError>;

    // --- end ---

    /// Closes all connections; waits for those in use no longer than for a call.
    async fn close(&self);
}

/// Whether the database is there and has tables of ours. Makes nothing.
pub async fn exists(settings: &StoreSettings) -> Result<bool, StoreError> {
    match &settings.location {
        StoreLocation::Postgres(address) => postgres::exists(address, settings).await,
        StoreLocation::Sqlite(path) => sqlite::exists(path).await,
    }
}

/// Opens the database, and brings its schema up to date.
pub async fn open(settings: &StoreSettings) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(Database::open(settings).await?))
}

//! All that the page knows. The reducer changes it, the components draw it.

use schema::{
    Credits, Millis, SessionId, UnixMillis,
    ledger::LedgerEntry,
    session::{ActiveSession, EndReason, LiveBalance, SessionRecord},
};

use crate::{
    api::{IdempotencyKey, Token},
    clock::{LocalTime, ServerClock},
    countdown::Level,
    feed::Feed,
    notice::{NoticeNumber, Notices},
    spark::Spark,
};

/// Counts logins and log-outs. An answer that belongs to an earlier one is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginNumber(u32);

impl LoginNumber {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Counts sockets. What comes from an earlier one is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketNumber(u32);

impl SocketNumber {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// The page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What is on the screen.
    pub screen: Screen,
    /// The notices over it.
    pub notices: Notices,
    /// What a screen reader was told last.
    pub announcement: String,
    /// Whether the browser believes that there is a network.
    pub is_online: bool,
    /// The current login, or the lack of one.
    pub login: LoginNumber,
}

/// What is on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// The card to sign up or log in.
    Entry(Entry),
    /// The dashboard of somebody who is logged in.
    Dashboard(Box<Dashboard>),
}

/// What the card is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMode {
    /// To make an account.
    SignUp,
    /// To come back to one.
    LogIn,
}

/// A field of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The email.
    Email,
    /// The password.
    Password,
}

/// The card to sign up or log in. What is typed stays in the fields and never comes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub mode: EntryMode,
    /// Whether the password can be read.
    pub is_password_shown: bool,
    /// Whether an answer is awaited.
    pub is_busy: bool,
    /// What is wrong with the email.
    pub email_error: Option<String>,
    /// What is wrong with the password.
    pub password_error: Option<String>,
    /// What is wrong otherwise.
    pub form_error: Option<String>,
    /// When to try again, if the server said so.
    pub retry_at: Option<LocalTime>,
    /// Why the user is here, if there was a dashboard before.
    pub reason: Option<String>,
}

impl Entry {
    /// An empty card.
    pub const fn new(mode: EntryMode, reason: Option<String>) -> Self {
        Self {
            mode,
            is_password_shown: false,
            is_busy: false,
            email_error: None,
            password_error: None,
            form_error: None,
            retry_at: None,
            reason,
        }
    }
}

/// The dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dashboard {
    /// What proves the login.
    pub token: Token,
    /// Whose it is, once that is known.
    pub email: Option<String>,
    /// The balance, once one is known.
    pub live: Option<Live>,
    /// What the ring's full turn stands for: what there was when the live session started and what came
    /// in since; without a session the balance itself. It follows from the balance alone, so that the
    /// ring means the same after a reload.
    pub whole: Credits,
    /// How near the end is.
    pub level: Level,
    /// The session that the server called low.
    pub called_low: Option<SessionId>,
    /// The connection.
    pub link: Link,
    /// The email of the user whom this page showed before another tab logged in.
    pub followed_from: Option<String>,
    /// What the user asked for and has no answer to.
    pub pending: Option<Pending>,
    /// The notice that says that a command's outcome is unknown.
    pub doubt: Option<NoticeNumber>,
    /// How the last session ended, if one ended while the page was open.
    pub last_end: Option<SessionEnd>,
    /// Whether the card is up that says so.
    pub is_end_card_up: bool,
    /// A session that is over without a word how. The history will tell.
    pub unexplained: Option<ActiveSession>,
    /// The panel about the login, if it is open.
    pub account: Option<Account>,
    /// Which list is open.
    pub tab: Tab,
    /// The sessions.
    pub sessions: Feed<SessionRecord>,
    /// The movements of the wallet.
    pub ledger: Feed<LedgerEntry>,
    /// The balance of the last minutes.
    pub spark: Spark,
    /// The balance that a screen reader was told last, in tens.
    pub announced_tens: i64,
}

/// The panel about the login. What is typed stays in the fields and never comes here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Whether an answer is awaited.
    pub is_busy: bool,
    /// What is wrong with the current password.
    pub current_error: Option<String>,
    /// What is wrong with the new one.
    pub new_error: Option<String>,
    /// What is wrong otherwise.
    pub form_error: Option<String>,
}

/// The balance as the server said it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The balance and the session.
    pub balance: LiveBalance,
    /// The server's clock.
    pub clock: ServerClock,
    /// When the server was heard last, by the page's own clock.
    pub heard_at: LocalTime,
}

/// The connection to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The socket that counts.
    pub socket: SocketNumber,
    /// What it is doing.
    pub phase: LinkPhase,
    /// How many attempts in a row have failed.
    pub failures: u32,
    /// Why the server wants no connection now, in its own words.
    pub refusal: Option<String>,
}

impl Link {
    /// Whether there was an attempt to connect that failed, and none has worked since.
    pub const fn is_lost(&self) -> bool {
        match self.phase {
            LinkPhase::Connecting { .. } => self.failures > 0,
            LinkPhase::Live { .. } => false,
            LinkPhase::Waiting { .. } => true,
        }
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPhase {
    /// No balance has come through it yet.
    Connecting {
        /// Since when.
        since: LocalTime,
    },
    /// Balances come through it.
    Live {
        /// When the last message came.
        heard_at: LocalTime,
    },
    /// There is none; the next attempt is planned.
    Waiting {
        /// For when.
        until: LocalTime,
    },
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It starts a session.
    Start,
    /// It stops the session.
    Stop,
}

/// A command without a final answer. While there is one, no other is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What it does.
    pub verb: Verb,
    /// Its name, the same each time it is sent.
    pub key: IdempotencyKey,
    /// How many times its outcome stayed unknown.
    pub unknowns: u32,
    /// Where it stands.
    pub phase: PendingPhase,
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingPhase {
    /// It was sent.
    Sent,
    /// Its outcome is unknown; it is sent again at an instant.
    Unknown {
        /// When.
        retry_at: LocalTime,
    },
    /// It was carried out; the balance that shows it is on its way.
    Done,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Which.
    pub session_id: SessionId,
    /// When it started, if that is known.
    pub started_at: Option<UnixMillis>,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// Why.
    pub reason: EndReason,
    /// What it cost.
    pub consumed: Credits,
    /// For how long it was served, once the history has said so: pauses and the server's downtime
    /// don't count, so it may be less than the time from start to end.
    pub served: Option<Millis>,
}

impl SessionEnd {
    /// How the session of `record` ended, if it did.
    pub fn of(record: &SessionRecord) -> Option<Self> {
        Some(Self {
            session_id: record.session_id,
            started_at: Some(record.started_at),
            ended_at: record.ended_at?,
            reason: record.end_reason?,
            consumed: record.credits_consumed,
            served: Some(record.served_ms),
        })
    }

    /// How long it was: as served, or as the clock went where that is all there is to tell.
    pub fn length(&self) -> Option<Millis> {
        self.served
            .or_else(|| self.started_at.map(|at| self.ended_at.since(at)))
    }
}

/// A list of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    /// The sessions.
    Sessions,
    /// The movements of the wallet.
    Wallet,
}

impl Dashboard {
    /// A dashboard that knows nothing but its token and connects.
    pub fn new(token: Token, now: LocalTime) -> Self {
        Self {
            token,
            email: None,
            live: None,
            whole: Credits::ZERO,
            level: Level::Fine,
            called_low: None,
            link: Link {
                socket: SocketNumber::default().next(),
                phase: LinkPhase::Connecting { since: now },
                failures: 0,
                refusal: None,
            },
            followed_from: None,
            pending: None,
            doubt: None,
            last_end: None,
            is_end_card_up: false,
            unexplained: None,
            account: None,
            tab: Tab::Sessions,
            sessions: Feed::default(),
            ledger: Feed::default(),
            spark: Spark::default(),
            announced_tens: 0,
        }
    }

    /// How the last session ended, as far as it is known: also of one that ended before the page was opened.
    pub fn latest_end(&self) -> Option<SessionEnd> {
        let newest = self.sessions.rows().first();
        self.last_end.or_else(|| newest.and_then(SessionEnd::of))
    }

    /// The live session, if there is one.
    pub fn session(&self) -> Option<ActiveSession> {
        self.live.and_then(|live| live.balance.session)
    }

    /// The instant that the screen is true for: `now` as long as messages come, and after that the
    /// instant of the last one. What has happened since is not known, and downtime is free, so no time
    /// runs on without the server.
    pub fn known_until(&self, now: LocalTime) -> LocalTime {
        match self.live {
            Some(live) if !self.is_live() => live.heard_at,
            _ => now,
        }
    }

    /// Whether messages come through the connection.
    pub const fn is_live(&self) -> bool {
        matches!(self.link.phase, LinkPhase::Live { .. })
    }
}

//! The reducer as a specification: what happens, and what the page knows and does after it.

mod account;
mod balance;
mod command;
mod entry;
mod link;
mod login;

use schema::{
    Credits, EntryId, ErrorCode, Millis, SessionId, UnixMillis, UserId,
    account::User,
    ledger::{EntryKind, LedgerEntry},
    session::{
        Active, ActiveSession, EndReason, LiveBalance, SessionRecord, SessionStarted,
        SessionStopped,
    },
    websocket::{CreditUpdate, ServerMessage},
};

use super::{initial, reduce};
use crate::{
    action::{Action, Effect},
    api::{Answer, Call, Failure, Refusal, Token},
    clock::{LocalTime, Moment},
    feed::Page,
    model::{Dashboard, Entry, Screen, State},
};

/// The page's clock reads this much ahead of the server's.
const AHEAD_MS: i64 = 1_000_000;

/// A page on which things happen.
struct Test {
    state: State,
    /// The server's time, in ms.
    now: i64,
    entropy: u128,
}

impl Test {
    /// A page that was opened without a token.
    fn new() -> Self {
        Self {
            state: initial(),
            now: 0,
            entropy: 7,
        }
    }

    /// A page that was opened with a token.
    fn opened() -> Self {
        let mut test = Self::new();
        test.act(Action::Opened(Some(token("t"))));
        test
    }

    /// A page that is connected, with a balance of 100 and no session.
    fn idle() -> Self {
        let mut test = Self::opened();
        test.say(update(100, 0, None));
        test
    }

    /// A page on which session 1 runs: started at 0 with 100 credits, at 1 credit every 6 s.
    fn running() -> Self {
        let mut test = Self::idle();
        test.say(update(100, 0, Some(session(1, 0, 100, 0))));
        test
    }

    fn act(&mut self, action: Action) -> Vec<Effect> {
        let state = std::mem::replace(&mut self.state, initial());
        let moment = Moment {
            now: LocalTime::new(self.now + AHEAD_MS),
            entropy: self.entropy,
        };
        self.entropy += 1;
        let (state, effects) = reduce(state, action, moment);
        self.state = state;
        effects
    }

    /// Lets time pass, and something become due.
    fn wait(&mut self, millis: i64) -> Vec<Effect> {
        self.now += millis;
        self.act(Action::Tick)
    }

    /// The socket that counts says something.
    fn say(&mut self, message: ServerMessage) -> Vec<Effect> {
        let socket = self.dashboard().link.socket;
        self.act(Action::SocketSaid(socket, message))
    }

    /// The socket that counts closes.
    fn close(&mut self, code: u16) -> Vec<Effect> {
        let socket = self.dashboard().link.socket;
        self.act(Action::SocketClosed(socket, code, String::new()))
    }

    /// A call of the current login is answered.
    fn answer(&mut self, call: Call, answer: Answer) -> Vec<Effect> {
        let login = self.state.login;
        self.act(Action::Answered(login, call, Ok(answer)))
    }

    /// A call of the current login fails.
    fn refuse(&mut self, call: Call, failure: Failure) -> Vec<Effect> {
        let login = self.state.login;
        self.act(Action::Answered(login, call, Err(failure)))
    }

    fn dashboard(&self) -> &Dashboard {
        match &self.state.screen {
            Screen::Dashboard(dashboard) => dashboard,
            Screen::Entry(_) => panic!("no dashboard is shown"),
        }
    }

    fn entry(&self) -> &Entry {
        match &self.state.screen {
            Screen::Entry(entry) => entry,
            Screen::Dashboard(_) => panic!("no card is shown"),
        }
    }

    fn credits(&self) -> i64 {
        self.dashboard().live.unwrap().balance.credits.get()
    }

    fn session_id(&self) -> Option<i64> {
        self.dashboard()
            .session()
            .map(|session| session.session_id.get())
    }

    fn notices(&self) -> Vec<&str> {
        self.state
            .notices
            .list()
            .iter()
            .map(|notice| notice.text.as_str())
            .collect()
    }
}

/// The calls among `effects`.
fn calls<'a>(effects: &'a [Effect]) -> Vec<&'a Call> {
    let call = |effect: &'a Effect| match effect {
        Effect::Call(_, _, call) => Some(call),
        _ => None,
    };
    effects.iter().filter_map(call).collect()
}

/// Whether a socket is opened.
fn connects(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Connect(..)))
}

/// Whether the sessions are asked for.
fn reloads(effects: &[Effect]) -> bool {
    calls(effects)
        .iter()
        .any(|call| matches!(call, Call::Sessions(_)))
}

fn token(text: &str) -> Token {
    Token::new(text.to_owned())
}

fn amount(credits: i64) -> Credits {
    Credits::new(credits).unwrap()
}

fn unix(millis: i64) -> UnixMillis {
    UnixMillis::new(millis).unwrap()
}

fn ms(millis: i64) -> Millis {
    Millis::new(millis).unwrap()
}

fn session_id(id: i64) -> SessionId {
    SessionId::new(id).unwrap()
}

/// Session `id`, started at `started_at` with `opening` credits at 1 per 6 s, having cost `consumed`.
fn session(id: i64, started_at: i64, opening: i64, consumed: i64) -> ActiveSession {
    ActiveSession {
        session_id: session_id(id),
        started_at: unix(started_at),
        consumed: amount(consumed),
        credits_per_interval: amount(1),
        interval_ms: ms(6_000),
        next_charge_at: Some(unix(started_at + (consumed + 1) * 6_000)),
        depletes_at: Some(unix(started_at + opening * 6_000)),
    }
}

fn balance(credits: i64, as_of: i64, session: Option<ActiveSession>) -> LiveBalance {
    LiveBalance {
        credits: amount(credits),
        as_of: unix(as_of),
        session,
    }
}

fn update(credits: i64, as_of: i64, session: Option<ActiveSession>) -> ServerMessage {
    let active = session.is_some();
    ServerMessage::CreditUpdate(CreditUpdate {
        credits: amount(credits),
        as_of: unix(as_of),
        active,
        session,
        resumed: None,
    })
}

fn ended(id: i64, reason: EndReason, ended_at: i64, consumed: i64, left: i64) -> ServerMessage {
    ServerMessage::SessionStopped {
        session_id: session_id(id),
        reason,
        ended_at: unix(ended_at),
        credits_consumed: amount(consumed),
        final_credits: amount(left),
    }
}

fn user(credits: i64, as_of: i64, session: Option<ActiveSession>) -> User {
    User {
        id: UserId::new(5).unwrap(),
        email: "ada@example.com".to_owned(),
        credits: amount(credits),
        as_of: unix(as_of),
        created_at: unix(0),
        session,
    }
}

fn active(balance: LiveBalance) -> Answer {
    Answer::Active(Box::new(Active {
        active: balance.session.is_some(),
        balance,
    }))
}

fn started(id: i64, started_at: i64) -> Answer {
    let message = "Session started".to_owned();
    Answer::Started(SessionStarted {
        message,
        session_id: session_id(id),
        started_at: unix(started_at),
    })
}

fn stopped(id: i64, reason: EndReason, ended_at: i64, consumed: i64, left: i64) -> Answer {
    Answer::Stopped(SessionStopped {
        message: "Session stopped".to_owned(),
        session_id: session_id(id),
        credits_consumed: amount(consumed),
        final_credits: amount(left),
        ended_at: unix(ended_at),
        reason,
    })
}

fn record(id: i64, ended: Option<(i64, EndReason)>, consumed: i64) -> SessionRecord {
    SessionRecord {
        session_id: session_id(id),
        started_at: unix(0),
        ended_at: ended.map(|(at, _)| unix(at)),
        credits_consumed: amount(consumed),
        end_reason: ended.map(|(_, reason)| reason),
        served_ms: ms(ended.map_or(0, |(at, _)| at)),
        credits_per_interval: amount(1),
        interval_ms: ms(6_000),
    }
}

fn sessions(rows: Vec<SessionRecord>) -> Answer {
    Answer::Sessions(Page {
        rows,
        next_cursor: None,
    })
}

fn movements(ids: &[i64], next_cursor: Option<&str>) -> Answer {
    let entry = |id: &i64| LedgerEntry {
        entry_id: EntryId::new(*id).unwrap(),
        at: unix(0),
        kind: EntryKind::Usage,
        amount: schema::CreditsChange::outgoing(amount(1)),
        balance_after: amount(99),
        session_id: None,
        reason: None,
    };
    Answer::Ledger(Page {
        rows: ids.iter().map(entry).collect(),
        next_cursor: next_cursor.map(str::to_owned),
    })
}

/// The server's no, with a sentence that is the code's name.
fn no(code: ErrorCode, retry_after: Option<i64>) -> Failure {
    let sentence = format!("{code:?}.");
    Failure::Refused(Refusal {
        code: Some(code),
        sentence,
        field: None,
        retry_after: retry_after.map(ms),
    })
}

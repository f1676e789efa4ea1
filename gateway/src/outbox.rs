//! What waits to be sent to one websocket: the latest balance, a few events, perhaps the end.
//!
//! Balances conflate, events don't (law 10). The hub fills the outbox and never waits; the socket's
//! task empties it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schema::{
    session::LiveBalance,
    websocket::{CloseCode, ServerMessage},
};
use tokio::sync::Notify;

/// Why a socket is to be closed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The code that the client gets.
    pub code: CloseCode,
    /// The reason that the client gets.
    pub reason: &'static str,
    /// How long to wait before, so that many clients don't come back at once.
    pub after: Duration,
}

impl Closing {
    /// Closing at once.
    pub const fn now(code: CloseCode, reason: &'static str) -> Self {
        Self { code, reason, after: Duration::ZERO }
    }
}

/// The next thing to do for a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this event.
    Event(ServerMessage),
    /// Send this balance.
    Balance(LiveBalance),
    /// Close it.
    Close(Closing),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    events_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<ServerMessage>,
    balance: Option<LiveBalance>,
    /// The balance that was put in last, sent or not.
    latest: Option<LiveBalance>,
    closing: Option<Closing>,
}

impl Outbox {
    /// An empty outbox for up to `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Self { waiting: Mutex::default(), changed: Notify::new(), events_max }
    }

    /// Puts in what the engine told. An older balance than the latest is dropped, unless it tells of
    /// another session: the engine tells in order, so what it says last is right.
    pub fn put_balance(&self, balance: LiveBalance) {
        let mut waiting = self.waiting();
        let is_stale = waiting.latest.is_some_and(|latest| {
            balance.as_of < latest.as_of && session_of(balance) == session_of(latest)
        });
        if !is_stale {
            waiting.put(balance);
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Puts in what was asked for, unless the engine has told something that is no older.
    pub fn put_snapshot(&self, balance: LiveBalance) {
        let mut waiting = self.waiting();
        if waiting.latest.is_none_or(|latest| balance.as_of > latest.as_of) {
            waiting.put(balance);
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Puts in an event. If there are too many, the socket is closed instead.
    pub fn put_event(&self, event: ServerMessage) {
        let mut waiting = self.waiting();
        if waiting.events.len() < self.events_max {
            waiting.events.push_back(event);
        } else {
            waiting.closing.get_or_insert(Closing::now(CloseCode::TooSlow, "Too slow"));
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Closes the socket. The first reason to do so stands, unless a later one is sooner.
    pub fn close(&self, closing: Closing) {
        let mut waiting = self.waiting();
        if waiting.closing.is_none_or(|before| closing.after < before.after) {
            waiting.closing = Some(closing);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes the balance alone, for the first message.
    pub fn take_balance(&self) -> Option<LiveBalance> {
        self.waiting().balance.take()
    }

    /// Waits for the next thing to do. Dropping the future loses nothing.
    pub async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.waiting().take() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn put(&mut self, balance: LiveBalance) {
        self.balance = Some(balance);
        self.latest = Some(balance);
    }

    /// The end comes first; then events, since the balance is the state after them.
    fn take(&mut self) -> Option<Next> {
        if let Some(closing) = self.closing.take() {
            return Some(Next::Close(closing));
        }
        if let Some(event) = self.events.pop_front() {
            return Some(Next::Event(event));
        }
        self.balance.take().map(Next::Balance)
    }
}

fn session_of(balance: LiveBalance) -> Option<schema::SessionId> {
    balance.session.map(|session| session.session_id)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use schema::{Credits, UnixMillis};

    use super::*;

    fn balance(as_of: i64, credits: i64) -> LiveBalance {
        let (as_of, credits) = (UnixMillis::new(as_of).unwrap(), Credits::new(credits).unwrap());
        LiveBalance { credits, as_of, session: None }
    }

    fn event(seconds_left: i64) -> ServerMessage {
        ServerMessage::BalanceLow { credits: Credits::ZERO, seconds_left }
    }

    fn drain(outbox: &Outbox) -> Vec<Next> {
        std::iter::from_fn(|| outbox.next().now_or_never()).collect()
    }

    #[test]
    fn balances_conflate_and_events_do_not() {
        let outbox = Outbox::new(2);
        outbox.put_balance(balance(1, 100));
        outbox.put_event(event(1));
        outbox.put_balance(balance(3, 98));
        outbox.put_event(event(2));
        outbox.put_balance(balance(2, 99));
        outbox.put_snapshot(balance(3, 77));
        let expected = [Next::Event(event(1)), Next::Event(event(2)), Next::Balance(balance(3, 98))];
        assert_eq!(drain(&outbox), expected);
        outbox.put_balance(balance(2, 99));
        assert_eq!(drain(&outbox), [], "what was sent is not taken back");
    }

    #[test]
    fn events_that_do_not_fit_end_the_socket() {
        let outbox = Outbox::new(1);
        outbox.put_event(event(1));
        outbox.put_event(event(2));
        let closed = Closing::now(CloseCode::TooSlow, "Too slow");
        assert_eq!(outbox.next().now_or_never(), Some(Next::Close(closed)));
    }

    #[test]
    fn the_sooner_end_stands() {
        let outbox = Outbox::new(1);
        let later = Closing { code: CloseCode::GoingAway, reason: "Going away", after: Duration::from_secs(1) };
        let now = Closing::now(CloseCode::NotAllowed, "Invalid token");
        outbox.close(later);
        outbox.close(now);
        outbox.close(later);
        assert_eq!(drain(&outbox), [Next::Close(now)]);
    }
}

//! What waits to be sent to one websocket: the latest balance, a few events, perhaps the end.
//!
//! Balances conflate, events don't (law 10). The hub fills the outbox and never waits; the socket's
//! task empties it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schema::{session::LiveBalance, websocket::CloseCode};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

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
        Self {
            code,
            reason,
            after: Duration::ZERO,
        }
    }
}

/// Something that happened, as it is sent: all sockets of a user share the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number in the user's stream.
    pub seq: u64,
    /// The message.
    pub text: Utf8Bytes,
}

/// The next thing to do for a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this event.
    Event(Event),
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
    events: VecDeque<Event>,
    /// The balance to be sent, and how many of the events were told before it.
    balance: Option<(usize, LiveBalance)>,
    /// The balance that was put in last, sent or not.
    latest: Option<LiveBalance>,
    closing: Option<Closing>,
}

impl Outbox {
    /// An empty outbox for up to `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Notify::new(),
            events_max,
        }
    }

    /// Puts in what the engine told, in place of what it told before. It tells in order, so only one
    /// thing can be out of order: a balance of the same live session as the snapshot, but older. A
    /// balance that says nothing new is dropped too.
    pub fn put_balance(&self, balance: LiveBalance) {
        let mut waiting = self.waiting();
        let is_news = waiting.latest.is_none_or(|latest| {
            let same_session =
                session_of(balance).filter(|session| session_of(latest) == Some(*session));
            let is_older = same_session.is_some() && balance.as_of < latest.as_of;
            let as_before = LiveBalance {
                as_of: latest.as_of,
                ..balance
            };
            !is_older && as_before != latest
        });
        if is_news {
            waiting.put(balance);
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Puts in what was asked for, unless the engine has told something: the snapshot may have been
    /// taken before that.
    pub fn put_snapshot(&self, balance: LiveBalance) {
        let mut waiting = self.waiting();
        if waiting.latest.is_none() {
            waiting.put(balance);
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Puts in an event. If there are too many, the socket is closed instead.
    pub fn put_event(&self, event: Event) {
        let mut waiting = self.waiting();
        if waiting.events.len() < self.events_max {
            waiting.events.push_back(event);
        } else {
            waiting
                .closing
                .get_or_insert(Closing::now(CloseCode::TooSlow, "Too slow"));
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Closes the socket. The first reason to do so stands, unless a later one is sooner.
    pub fn close(&self, closing: Closing) {
        let mut waiting = self.waiting();
        if waiting
            .closing
            .is_none_or(|before| closing.after < before.after)
        {
            waiting.closing = Some(closing);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes the balance alone, for the first message.
    pub fn take_balance(&self) -> Option<LiveBalance> {
        self.waiting().balance.take().map(|(_, balance)| balance)
    }

    /// Waits for the next thing to do. Dropping the future loses nothing.
    pub async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    /// What there is to do now, if there is something.
    pub fn take(&self) -> Option<Next> {
        self.waiting().take()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn put(&mut self, balance: LiveBalance) {
        self.balance = Some((self.events.len(), balance));
        self.latest = Some(balance);
    }

    /// The end comes first; the rest in the order in which it was told.
    fn take(&mut self) -> Option<Next> {
        if let Some(closing) = self.closing.take() {
            return Some(Next::Close(closing));
        }
        if let Some((0, balance)) = self.balance {
            self.balance = None;
            return Some(Next::Balance(balance));
        }
        let event = self.events.pop_front()?;
        if let Some((events_before, _)) = &mut self.balance {
            *events_before -= 1;
        }
        Some(Next::Event(event))
    }
}

fn session_of(balance: LiveBalance) -> Option<schema::SessionId> {
    balance.session.map(|session| session.session_id)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use schema::{Credits, Millis, SessionId, UnixMillis, session::ActiveSession};

    use super::*;

    fn idle(as_of: i64, credits: i64) -> LiveBalance {
        let (as_of, credits) = (
            UnixMillis::new(as_of).unwrap(),
            Credits::new(credits).unwrap(),
        );
        LiveBalance {
            credits,
            as_of,
            session: None,
        }
    }

    fn live(as_of: i64, credits: i64) -> LiveBalance {
        let session = ActiveSession {
            session_id: SessionId::new(1).unwrap(),
            started_at: UnixMillis::EPOCH,
            consumed: Credits::ZERO,
            credits_per_interval: Credits::ZERO,
            interval_ms: Millis::ZERO,
            next_charge_at: None,
            depletes_at: None,
        };
        LiveBalance {
            session: Some(session),
            ..idle(as_of, credits)
        }
    }

    fn event(seq: u64) -> Event {
        Event {
            seq,
            text: format!("event {seq}").into(),
        }
    }

    fn drain(outbox: &Outbox) -> Vec<Next> {
        std::iter::from_fn(|| outbox.next().now_or_never()).collect()
    }

    #[test]
    fn balances_conflate_and_events_do_not() {
        let outbox = Outbox::new(3);
        outbox.put_balance(live(1, 100));
        outbox.put_event(event(1));
        outbox.put_balance(live(2, 99));
        outbox.put_event(event(2));
        outbox.put_balance(live(3, 98));
        outbox.put_event(event(3));
        let expected = [
            Next::Event(event(1)),
            Next::Event(event(2)),
            Next::Balance(live(3, 98)),
            Next::Event(event(3)),
        ];
        assert_eq!(
            drain(&outbox),
            expected,
            "each stands where it was told last"
        );
    }

    #[test]
    fn snapshot_and_news_meet_in_any_order() {
        type Put = fn(&Outbox, LiveBalance);
        const TOLD: Put = Outbox::put_balance;
        const ASKED: Put = Outbox::put_snapshot;
        let check = |puts: &[(Put, LiveBalance)], shown: LiveBalance| {
            let outbox = Outbox::new(1);
            for (put, balance) in puts {
                put(&outbox, *balance);
            }
            assert_eq!(drain(&outbox), [Next::Balance(shown)]);
        };
        check(&[(ASKED, idle(5, 100))], idle(5, 100));
        check(&[(TOLD, live(4, 100)), (ASKED, idle(5, 100))], live(4, 100));
        check(&[(ASKED, idle(5, 100)), (TOLD, live(4, 100))], live(4, 100));
        check(&[(ASKED, idle(5, 100)), (TOLD, idle(4, 150))], idle(4, 150));
        check(&[(ASKED, live(5, 99)), (TOLD, live(4, 100))], live(5, 99));
        let told_twice = [
            (ASKED, live(5, 99)),
            (TOLD, live(4, 100)),
            (TOLD, live(6, 98)),
        ];
        check(&told_twice, live(6, 98));
        check(&[(ASKED, live(5, 99)), (TOLD, idle(5, 99))], idle(5, 99));
        check(&[(ASKED, idle(5, 99)), (TOLD, idle(6, 99))], idle(5, 99));
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
        let later = Closing {
            code: CloseCode::GoingAway,
            reason: "Going away",
            after: Duration::from_secs(1),
        };
        let now = Closing::now(CloseCode::NotAllowed, "Invalid token");
        outbox.close(later);
        outbox.close(now);
        outbox.close(later);
        assert_eq!(drain(&outbox), [Next::Close(now)]);
    }
}

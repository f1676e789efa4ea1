//! What waits to be sent to one websocket: the latest balance, a few events, perhaps the end.
//!
//! Balances conflate, events don't (law 10). The hub fills the outbox and never waits; the socket's
//! task empties it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use schema::{session::LiveBalance, websocket::CloseCode};
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

/// See the module's documentation. There is one for each client, so it is kept small.
#[derive(Debug)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    events_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The task that empties it, while that waits.
    reader: Option<Waker>,
    events: VecDeque<Event>,
    /// The balance that was put in last, sent or not.
    latest: Option<LiveBalance>,
    /// If it is to be sent: how many of the events were told before it.
    latest_after: Option<usize>,
    /// Boxed, since most never get one.
    closing: Option<Box<Closing>>,
}

impl Outbox {
    /// An empty outbox for up to `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
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
            Waiting::wake_reader(waiting);
        }
    }

    /// Puts in what was asked for, unless the engine has told something: the snapshot may have been
    /// taken before that.
    pub fn put_snapshot(&self, balance: LiveBalance) {
        let mut waiting = self.waiting();
        if waiting.latest.is_none() {
            waiting.put(balance);
            Waiting::wake_reader(waiting);
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
                .get_or_insert_with(|| Closing::now(CloseCode::TooSlow, "Too slow").into());
        }
        Waiting::wake_reader(waiting);
    }

    /// Closes the socket. The first reason to do so stands, unless a later one is sooner.
    pub fn close(&self, closing: Closing) {
        let mut waiting = self.waiting();
        if waiting
            .closing
            .as_ref()
            .is_none_or(|before| closing.after < before.after)
        {
            waiting.closing = Some(closing.into());
        }
        Waiting::wake_reader(waiting);
    }

    /// The balance that was put in last, to be sent now, whatever waits. It is not given out again unless
    /// events wait that were told before it.
    pub fn latest(&self) -> Option<LiveBalance> {
        let mut waiting = self.waiting();
        if waiting.latest_after == Some(0) {
            waiting.latest_after = None;
        }
        waiting.latest
    }

    /// The next thing to do, once there is something.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Next> {
        let mut waiting = self.waiting();
        if let Some(next) = waiting.take() {
            return Poll::Ready(next);
        }
        let waker = context.waker();
        match &mut waiting.reader {
            Some(reader) => reader.clone_from(waker),
            None => waiting.reader = Some(waker.clone()),
        }
        Poll::Pending
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
    /// Wakes the task that empties it, once that can look at it.
    fn wake_reader(mut waiting: MutexGuard<'_, Self>) {
        let reader = waiting.reader.take();
        drop(waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn put(&mut self, balance: LiveBalance) {
        self.latest = Some(balance);
        self.latest_after = Some(self.events.len());
    }

    /// The end comes first; the rest in the order in which it was told.
    fn take(&mut self) -> Option<Next> {
        if let Some(closing) = self.closing.take() {
            return Some(Next::Close(*closing));
        }
        if self.latest_after == Some(0) {
            self.latest_after = None;
            return self.latest.map(Next::Balance);
        }
        let event = self.events.pop_front()?;
        if self.events.is_empty() {
            // Events are rare, and what they took comes back.
            self.events = VecDeque::new();
        }
        self.latest_after = self.latest_after.map(|events| events.saturating_sub(1));
        Some(Next::Event(event))
    }
}

fn session_of(balance: LiveBalance) -> Option<schema::SessionId> {
    balance.session.map(|session| session.session_id)
}

#[cfg(test)]
mod tests {
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
        std::iter::from_fn(|| outbox.take()).collect()
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
        assert_eq!(outbox.take(), Some(Next::Close(closed)));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_each_thing_that_is_put_in() {
        type Put = fn(&Outbox);
        let puts: [(Put, Next); 3] = [
            (
                |outbox| outbox.put_balance(live(1, 100)),
                Next::Balance(live(1, 100)),
            ),
            (|outbox| outbox.put_event(event(1)), Next::Event(event(1))),
            (
                |outbox| outbox.close(Closing::now(CloseCode::TooSlow, "Too slow")),
                Next::Close(Closing::now(CloseCode::TooSlow, "Too slow")),
            ),
        ];
        let outbox = std::sync::Arc::new(Outbox::new(1));
        for (put, expected) in puts {
            let reader = std::sync::Arc::clone(&outbox);
            let waiting = tokio::spawn(async move {
                std::future::poll_fn(|context| reader.poll_next(context)).await
            });
            tokio::task::yield_now().await;
            put(&outbox);
            assert_eq!(waiting.await.unwrap(), expected);
        }
    }

    #[test]
    fn the_latest_balance_is_given_out_of_turn_and_then_only_in_its_place() {
        let outbox = Outbox::new(1);
        outbox.put_balance(live(1, 100));
        assert_eq!(outbox.latest(), Some(live(1, 100)));
        assert_eq!(outbox.take(), None, "it was given out");
        outbox.put_event(event(1));
        outbox.put_balance(live(2, 99));
        assert_eq!(outbox.latest(), Some(live(2, 99)));
        let expected = [Next::Event(event(1)), Next::Balance(live(2, 99))];
        assert_eq!(drain(&outbox), expected, "an event was told before it");
        assert_eq!(outbox.latest(), Some(live(2, 99)), "also when all is sent");
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

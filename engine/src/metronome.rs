//! One timing wheel for all countdowns: it wakes a session when its next deadline is due.
//!
//! A wake is only a nudge. What is due then follows from facts and the time, so a late, doubled or
//! stale wake changes no charge. A session asks for a wake only if none is due earlier, so the wheel
//! holds about one entry a session.

use futures_util::StreamExt;
use ractor::ActorRef;
use schema::{Millis, UnixMillis};
use tokio::sync::mpsc;
use tokio_util::time::DelayQueue;

use crate::{clock::Clock, session::SessionMessage};

/// The furthest ahead that a wake is set, as the wheel has an end: one day. Waking early is harmless.
const AHEAD_MAX: Millis = match Millis::new(24 * 3_600_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// A wake that a session asks for.
struct Wake {
    session: ActorRef<SessionMessage>,
    at: UnixMillis,
}

/// The wheel's handle. Clones share it; the wheel stops when the last is dropped.
#[derive(Clone)]
pub struct Metronome {
    wakes: mpsc::UnboundedSender<Wake>,
}

impl Metronome {
    /// Starts the wheel.
    pub fn start(clock: Clock) -> Self {
        let (wakes, asked) = mpsc::unbounded_channel();
        tokio::spawn(turn(clock, asked));
        Self { wakes }
    }

    /// Wakes `session` once `at` is reached, with [`SessionMessage::Wake`].
    pub fn wake(&self, session: ActorRef<SessionMessage>, at: UnixMillis) {
        // It fails only when the runtime is shutting down, when nobody is to be woken any more.
        let _stopped = self.wakes.send(Wake { session, at });
    }
}

/// Turns the wheel until nobody can ask for a wake any more.
async fn turn(clock: Clock, mut asked: mpsc::UnboundedReceiver<Wake>) {
    let mut wheel = DelayQueue::new();
    loop {
        tokio::select! {
            wake = asked.recv() => {
                let Some(wake) = wake else { return };
                let soonest = clock.now().checked_add(AHEAD_MAX).unwrap_or(UnixMillis::MAX);
                let due = clock.instant_of(wake.at.min(soonest));
                wheel.insert_at(wake, due);
            }
            Some(due) = wheel.next(), if !wheel.is_empty() => {
                let Wake { session, at } = due.into_inner();
                // A session that is gone needs no wake.
                let _gone = session.cast(SessionMessage::Wake { at });
            }
        }
    }
}

//! One clock for all countdowns: it wakes a session when its next deadline is due.
//!
//! A wake is only a nudge. What is due then follows from facts and the time, so a late, doubled or
//! stale wake changes no charge. Each session has one alarm, so there is at most one entry for each.
//!
//! The entries are [`Wakes`] and not a timing wheel, so that an entry goes the moment its session does.
//! In a wheel whose entries could only run out, a retired session's mailbox stayed in memory until
//! its next settlement would have been due: 5 KB each for up to 15 minutes.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ractor::ActorRef;
use schema::UnixMillis;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    clock::Clock,
    session::SessionMessage,
    wakes::{WakeNumber, Wakes},
};

/// How many sessions are woken before others may have the processor.
const BATCH_MAX: usize = 256;
/// The longest sleep: the clock may be raised meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The clock's handle. Clones share it; it stops when the last of them and of its alarms is dropped.
#[derive(Clone)]
pub struct Metronome {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    wakes: Mutex<Wakes<ActorRef<SessionMessage>>>,
    alarms_made: AtomicU64,
    /// Something is due earlier than what was the first, or nobody is left to be woken.
    changed: Arc<Notify>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// One session's alarm. It is silent once this is dropped.
pub struct Alarm {
    metronome: Metronome,
    number: WakeNumber,
    at: Option<UnixMillis>,
}

impl Metronome {
    /// Starts it.
    pub fn start(clock: Clock) -> Self {
        let shared = Arc::new(Shared {
            clock,
            wakes: Mutex::default(),
            alarms_made: AtomicU64::new(0),
            changed: Arc::default(),
        });
        tokio::spawn(run(Arc::downgrade(&shared), Arc::clone(&shared.changed)));
        Self { shared }
    }

    /// An alarm that is not set.
    pub fn alarm(&self) -> Alarm {
        Alarm {
            metronome: self.clone(),
            number: WakeNumber::new(self.shared.alarms_made.fetch_add(1, Ordering::Relaxed)),
            at: None,
        }
    }
}

impl Alarm {
    /// Wakes `session` once `at` is reached, with [`SessionMessage::Wake`], unless it will be woken
    /// before.
    pub fn set(&mut self, session: &ActorRef<SessionMessage>, at: UnixMillis) {
        if self.at.is_some_and(|before| before <= at) {
            return;
        }
        let shared = &self.metronome.shared;
        let mut wakes = shared.wakes();
        if let Some(before) = self.at.replace(at) {
            wakes.remove(before, self.number);
        }
        let is_first = wakes.insert(at, self.number, session.clone());
        drop(wakes);
        if is_first {
            shared.changed.notify_one();
        }
    }

    /// Takes note that it rang for `at`.
    pub fn rang(&mut self, at: UnixMillis) {
        self.at.take_if(|set| *set == at);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.metronome.shared.wakes().remove(at, self.number);
        }
    }
}

impl Shared {
    /// The map is valid after any panic: each change of it is a single step.
    fn wakes(&self) -> MutexGuard<'_, Wakes<ActorRef<SessionMessage>>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes some of those who are due; returns when the next one will be.
    fn wake_some(&self) -> Option<Instant> {
        let (due, next) = {
            let mut wakes = self.wakes();
            let due = wakes.take_due(self.clock.now(), BATCH_MAX);
            (due, wakes.next_at())
        };
        for (at, session) in due {
            // A session that is gone needs no wake.
            let _gone = session.cast(SessionMessage::Wake { at });
        }
        next.map(|at| self.clock.instant_of(at))
    }
}

/// Wakes sessions until nobody is left to be woken.
async fn run(shared: Weak<Shared>, changed: Arc<Notify>) {
    loop {
        let Some(next) = shared.upgrade().map(|shared| shared.wake_some()) else {
            return;
        };
        let now = Instant::now();
        match next {
            Some(next) if next <= now => tokio::task::yield_now().await,
            Some(next) => tokio::select! {
                () = sleep_until(next.min(now + SLEEP_MAX)) => {}
                () = changed.notified() => {}
            },
            None => changed.notified().await,
        }
    }
}

//! What a user's client does, and what it is told.

use std::{collections::BTreeMap, fmt, ops::AddAssign, sync::Arc, time::Duration};

use engine::{
    Engine,
    engine::{StartError, Started, StopError, Stopped},
    keys::{Fingerprint, IdempotencyKey, RequestKey},
    store::{Adjustment, Store},
};
use rand::{RngExt, rngs::StdRng};
use schema::{Credits, CreditsChange, UserId, ledger::EntryKind, session::EndReason};

use crate::{
    Serving,
    support::{memory::MemoryStore, world::pass},
};

/// How often a request is sent at most whose outcome stays unknown.
const SENDS_MAX: u32 = 4;
/// What a start and a stop ask for, and a request that is neither.
const START: Fingerprint = Fingerprint::new([1; 32]);
const STOP: Fingerprint = Fingerprint::new([2; 32]);
const OTHER: Fingerprint = Fingerprint::new([3; 32]);

/// What one user's client has been told.
#[derive(Default)]
pub struct History {
    /// Starts that were acknowledged, each once.
    pub started: Vec<Started>,
    /// Stops that were acknowledged.
    pub stopped: Vec<Stopped>,
    /// Replies that the outcome is unknown.
    pub unknown_starts: usize,
    pub unknown_stops: usize,
    /// Starts and stops that were given up without knowing what became of them.
    pub lost_starts: usize,
    pub lost_stops: usize,
    /// Credits that came in.
    pub granted: i64,
    /// Requests that were sent again after they had been answered, and answered the same.
    pub repeated: usize,
    /// Starts that a live session of another node refused, and that ran against one there.
    pub rivalled: usize,
}

/// How often what happened.
#[derive(Default)]
pub struct Counts {
    pub sessions: usize,
    pub started: usize,
    pub stopped: usize,
    pub unknown: usize,
    pub repeated: usize,
    pub rivalled: usize,
}

/// A user's client.
pub struct Client {
    user: UserId,
    chance: StdRng,
    serving: Serving,
    rival: Engine,
    store: Arc<MemoryStore>,
    history: History,
    keys: u32,
    grants: u32,
    /// What was answered under each key.
    starts: BTreeMap<IdempotencyKey, Started>,
    stops: BTreeMap<IdempotencyKey, Stopped>,
}

impl Client {
    pub fn new(
        user: UserId,
        chance: StdRng,
        serving: Serving,
        rival: Engine,
        store: Arc<MemoryStore>,
    ) -> Self {
        Self {
            user,
            chance,
            serving,
            rival,
            store,
            history: History::default(),
            keys: 0,
            grants: 0,
            starts: BTreeMap::new(),
            stops: BTreeMap::new(),
        }
    }

    /// Starts, stops, looks and gets credits at random until time is up.
    pub async fn run(mut self, active_ms: u64) -> History {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(active_ms);
        while tokio::time::Instant::now() < deadline {
            match self.chance.random_range(0..14) {
                0..4 => self.start().await,
                4 => self.start_twice().await,
                5..9 => self.stop().await,
                9 => drop(self.engine().balance(self.user).await),
                10..13 => self.repeat().await,
                _ => self.grant().await,
            }
            pass(self.chance.random_range(0..15_000)).await;
        }
        self.history
    }

    /// The engine that serves now, or now and then the one before it.
    fn engine(&mut self) -> Engine {
        let place = usize::from(self.chance.random_bool(0.2));
        self.serving.lock().unwrap()[place].clone()
    }

    /// A new key for about half of all requests.
    fn any_key(&mut self) -> Option<IdempotencyKey> {
        self.keys += 1;
        let key = IdempotencyKey::new(format!("key-{}", self.keys).as_bytes()).unwrap();
        self.chance.random_bool(0.5).then_some(key)
    }

    async fn start(&mut self) {
        let key = self.any_key();
        let request = key.clone().map(|key| request(key, START));
        let mut sends = 1;
        loop {
            match self
                .engine()
                .start_session(self.user, request.clone())
                .await
            {
                Ok(started) => {
                    self.history.started.push(started);
                    self.starts.extend(key.map(|key| (key, started)));
                    return;
                }
                Err(StartError::OutcomeUnknown) => self.history.unknown_starts += 1,
                // After an unknown outcome it says nothing of the sending before.
                Err(StartError::Unavailable) if sends > 1 => {}
                Err(StartError::UserUnknown | StartError::KeyConflict) => panic!("not so"),
                Err(_) => return,
            }
            if request.is_none() || sends == SENDS_MAX {
                self.history.lost_starts += 1;
                return;
            }
            sends += 1;
            pass(self.chance.random_range(0..3_000)).await;
        }
    }

    /// Starts here and on the other node at once: only one may win.
    async fn start_twice(&mut self) {
        let engine = self.engine();
        let (here, there) = tokio::join!(
            engine.start_session(self.user, None),
            self.rival.start_session(self.user, None)
        );
        if let (Ok(_), Err(StartError::SessionActive)) | (Err(StartError::SessionActive), Ok(_)) =
            (&here, &there)
        {
            self.history.rivalled += 1;
        }
        for result in [here, there] {
            match result {
                Ok(started) => self.history.started.push(started),
                Err(StartError::OutcomeUnknown) => {
                    self.history.unknown_starts += 1;
                    self.history.lost_starts += 1;
                }
                Err(error) => assert!(!matches!(error, StartError::UserUnknown)),
            }
        }
    }

    async fn stop(&mut self) {
        let key = self.any_key();
        let request = key.clone().map(|key| request(key, STOP));
        let mut sends = 1;
        loop {
            let engine = self.engine();
            let stopped = engine.stop_session(self.user, EndReason::User, request.clone());
            match stopped.await {
                Ok(stopped) => {
                    self.history.stopped.push(stopped);
                    self.stops.extend(key.map(|key| (key, stopped)));
                    return;
                }
                Err(StopError::OutcomeUnknown) => self.history.unknown_stops += 1,
                Err(StopError::Unavailable) if sends > 1 => {}
                Err(StopError::KeyConflict) => panic!("not so"),
                Err(StopError::NoActiveSession) if sends > 1 => return,
                Err(_) => break,
            }
            if request.is_none() || sends == SENDS_MAX {
                self.history.lost_stops += 1;
                return;
            }
            sends += 1;
            pass(self.chance.random_range(0..3_000)).await;
        }
        // Perhaps the other node serves the session.
        match self
            .rival
            .stop_session(self.user, EndReason::User, None)
            .await
        {
            Ok(stopped) => self.history.stopped.push(stopped),
            Err(StopError::OutcomeUnknown) => {
                self.history.unknown_stops += 1;
                self.history.lost_stops += 1;
            }
            Err(error) => assert!(!matches!(error, StopError::KeyConflict)),
        }
    }

    /// Sends a request again that was answered before, or another one under its key.
    async fn repeat(&mut self) {
        let engine = self.engine();
        let is_other = self.chance.random_bool(0.2);
        let fingerprint = |own| if is_other { OTHER } else { own };
        if self.chance.random_bool(0.5) {
            let place = self.chance.random_range(0..self.starts.len().max(1));
            let Some((key, first)) = self.starts.iter().nth(place) else {
                return;
            };
            let request = request(key.clone(), fingerprint(START));
            match engine.start_session(self.user, Some(request)).await {
                Ok(again) => assert_eq!((&again, is_other), (first, false)),
                Err(StartError::KeyConflict) => assert!(is_other),
                Err(StartError::OutcomeUnknown | StartError::Unavailable) => return,
                Err(error) => panic!("a start was refused that had been done: {error}"),
            }
        } else {
            let place = self.chance.random_range(0..self.stops.len().max(1));
            let Some((key, first)) = self.stops.iter().nth(place) else {
                return;
            };
            let request = request(key.clone(), fingerprint(STOP));
            let again = engine.stop_session(self.user, EndReason::User, Some(request));
            match again.await {
                Ok(again) => assert_eq!((&again, is_other), (first, false)),
                Err(StopError::KeyConflict) => assert!(is_other),
                Err(StopError::OutcomeUnknown | StopError::Unavailable) => return,
                Err(error) => panic!("a stop was refused that had been done: {error}"),
            }
        }
        self.history.repeated += 1;
    }

    async fn grant(&mut self) {
        self.grants += 1;
        let amount = self.chance.random_range(1..30);
        let at = self.engine().clock().now();
        let adjustment = Adjustment {
            user: self.user,
            kind: EntryKind::Grant,
            amount: CreditsChange::incoming(Credits::new(amount).unwrap()),
            at,
            reason: "for the simulation".to_owned(),
            operator: "simulation".to_owned(),
            idempotency_key: format!("grant-{}", self.grants),
        };
        // Whether it was done is not known until it is: the same key, again and again.
        while self.store.adjust(adjustment.clone()).await.is_err() {
            pass(50).await;
        }
        self.history.granted += amount;
    }
}

fn request(key: IdempotencyKey, fingerprint: Fingerprint) -> RequestKey {
    RequestKey { key, fingerprint }
}

impl History {
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: 0,
            started: self.started.len(),
            stopped: self.stopped.len(),
            unknown: self.unknown_starts + self.unknown_stops,
            repeated: self.repeated,
            rivalled: self.rivalled,
        }
    }
}

impl Counts {
    pub fn all_sorts_happened(&self) -> bool {
        let Self {
            sessions,
            started,
            stopped,
            unknown,
            repeated,
            rivalled,
        } = *self;
        [sessions, started, stopped, unknown, repeated, rivalled]
            .into_iter()
            .all(|count| count > 0)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.started += other.started;
        self.stopped += other.stopped;
        self.unknown += other.unknown;
        self.repeated += other.repeated;
        self.rivalled += other.rivalled;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sessions,
            started,
            stopped,
            unknown,
            repeated,
            rivalled,
        } = self;
        write!(
            f,
            "{sessions} sessions, {started} starts and {stopped} stops acknowledged, {unknown} outcomes unknown, \
             {repeated} requests repeated, {rivalled} starts that another node's session refused"
        )
    }
}

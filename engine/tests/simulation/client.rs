//! What a user's client does, and what it is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine::{
    Engine,
    engine::{StartError, Started, StopError, Stopped},
    keys::{Fingerprint, IdempotencyKey, RequestKey},
    store::{AdjustError, Adjustment, Shortfall, Store},
};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use schema::{Credits, CreditsChange, UnixMillis, UserId, ledger::EntryKind, session::EndReason};

use crate::{
    ACTIVE_MS, Serving,
    support::{
        memory::MemoryStore,
        world::{BEGIN, ms, pass},
    },
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
    /// What an operator gave, less what was taken back.
    pub adjusted: i64,
    /// Requests that were sent again after they had been answered, and answered the same.
    pub repeated: usize,
    /// Starts on two nodes at once of which one was refused.
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
    adjustments: u32,
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
            adjustments: 0,
            starts: BTreeMap::new(),
            stops: BTreeMap::new(),
        }
    }

    /// Starts, stops, looks and gets credits at random until time is up.
    pub async fn run(mut self) -> History {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(ACTIVE_MS);
        while tokio::time::Instant::now() < deadline {
            match self.chance.random_range(0..17) {
                0..4 => self.start().await,
                4 => self.start_while_adjusted().await,
                5 => self.start_twice().await,
                6..11 => self.stop().await,
                11 => drop(self.engine().balance(self.user).await),
                12..15 => self.repeat().await,
                15 => {
                    let engine = self.engine();
                    close_to_depletion(&engine, self.user, &mut self.chance).await;
                    self.adjust().await;
                }
                _ => self.adjust().await,
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
        self.history.take_start(here);
        self.history.take_start(there);
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

    /// Starts, and an operator does something at the same time.
    async fn start_while_adjusted(&mut self) {
        let (engine, adjustment) = (self.engine(), self.any_adjustment());
        let (user, wait) = (self.user, self.chance.random_range(0..40));
        let (started, adjusted) = tokio::join!(engine.start_session(user, None), async {
            pass(wait).await;
            adjusted(&self.store, adjustment).await
        });
        self.history.take_start(started);
        self.history.adjusted += adjusted;
    }

    async fn adjust(&mut self) {
        let adjustment = self.any_adjustment();
        self.history.adjusted += adjusted(&self.store, adjustment).await;
    }

    /// What an operator's clock says, which may be off by up to a year.
    fn any_instant(&mut self) -> UnixMillis {
        const YEAR_MS: i64 = 365 * 24 * 3_600_000;
        let now = self.engine().clock().now();
        let off_by = match self.chance.random_range(0..4) {
            0 => 0,
            1 => self.chance.random_range(-5_000..5_000),
            2 => self.chance.random_range(-7_200_000..7_200_000),
            _ => self.chance.random_range(-YEAR_MS..YEAR_MS),
        };
        UnixMillis::new(now.get() + off_by).unwrap()
    }

    fn any_adjustment(&mut self) -> Adjustment {
        self.adjustments += 1;
        Adjustment {
            at: self.any_instant(),
            idempotency_key: format!("adjustment-{}", self.adjustments),
            ..drawn(&mut self.chance, self.user, &self.history)
        }
    }
}

fn request(key: IdempotencyKey, fingerprint: Fingerprint) -> RequestKey {
    RequestKey { key, fingerprint }
}

/// Waits until the user's credits are about to run out, if that is soon: then writers race.
async fn close_to_depletion(engine: &Engine, user: UserId, chance: &mut StdRng) {
    let Ok(balance) = engine.balance(user).await else {
        return;
    };
    let depletes_at = balance.session.and_then(|session| session.depletes_at);
    let left = depletes_at.map_or(0, |at| at.since(engine.clock().now()).get());
    if left < 30_000 {
        let early = chance.random_range(0..300);
        pass(left.saturating_sub(early).max(0).unsigned_abs()).await;
    }
}

impl History {
    /// Takes note of a start that won't be sent again.
    fn take_start(&mut self, result: Result<Started, StartError>) {
        match result {
            Ok(started) => self.started.push(started),
            Err(StartError::OutcomeUnknown) => {
                self.unknown_starts += 1;
                self.lost_starts += 1;
            }
            Err(error) => assert!(!matches!(error, StartError::UserUnknown)),
        }
    }
}

/// What an operator might do: give credits, take some back, or refund a session.
fn drawn(chance: &mut StdRng, user: UserId, history: &History) -> Adjustment {
    let stopped = history.stopped.as_slice();
    let (kind, session) = match (chance.random_range(0..5), stopped.choose(chance)) {
        (0..2, _) => (EntryKind::Grant, None),
        (2, Some(stopped)) => (EntryKind::Refund, Some(stopped.session)),
        _ => (EntryKind::Revoke, None),
    };
    let amount = Credits::new(chance.random_range(1..60)).unwrap();
    Adjustment {
        user,
        kind,
        amount: if kind == EntryKind::Revoke {
            CreditsChange::outgoing(amount)
        } else {
            CreditsChange::incoming(amount)
        },
        session,
        shortfall: if chance.random_bool(0.5) {
            Shortfall::TakeWhatIsFree
        } else {
            Shortfall::Refuse
        },
        at: ms(BEGIN),
        reason: "for the simulation".to_owned(),
        operator: "simulation".to_owned(),
        idempotency_key: String::new(),
    }
}

/// Makes the adjustment, with the same key until its outcome is known. Returns what it moved.
async fn adjusted(store: &MemoryStore, adjustment: Adjustment) -> i64 {
    loop {
        match store.adjust(adjustment.clone()).await {
            Ok(adjusted) => return adjusted.amount.get(),
            Err(AdjustError::MoreThanFree { .. } | AdjustError::MoreThanSpent { .. }) => return 0,
            Err(AdjustError::Store(_)) => pass(50).await,
            Err(error) => panic!("{error}"),
        }
    }
}

//! What was asked of the server and what it answered, as the clients saw it, and when it was alive.
//!
//! This is the only evidence that the checker believes besides the records that the server shows in
//! the end. Nothing here is judged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schema::{
    Credits, SessionId,
    session::{LiveBalance, SessionStarted, SessionStopped},
    websocket::ServerMessage,
};
use serde::Serialize;
use tokio::sync::Notify;

use crate::moment::{Moment, Stopwatch};

/// One of the run's users, by number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UserIndex(pub usize);

/// An operation, by number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct OperationId(pub usize);

/// What an operator does to a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Adjustment {
    /// Gives credits.
    Grant,
    /// Takes credits back.
    Revoke,
    /// Gives back what a session cost.
    Refund(SessionId),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A new user.
    SignUp,
    /// Start a session.
    Start,
    /// Stop the session.
    Stop,
    /// Change the wallet, by the command line.
    Adjust(Adjustment, Credits),
}

/// What an acknowledgement said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The user exists.
    SignedUp,
    /// The session lives.
    Started(SessionStarted),
    /// The session has ended.
    Stopped(SessionStopped),
    /// The wallet has changed.
    Adjusted,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The server says that it is done.
    Acknowledged(Reply),
    /// The server says that it may not be done, and why. It holds for earlier attempts too.
    Refused(String),
    /// The server can't do it just now, and says that this attempt did nothing.
    Postponed(String),
    /// It may have been done or not.
    Unknown(String),
}

/// One time that an operation was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Right before it was sent.
    pub sent: Moment,
    /// Right after the reply, or when it was given up.
    pub ended: Moment,
    /// What came of it.
    pub outcome: Outcome,
}

/// Something asked for, under one idempotency key, as often as it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// For whose wallet.
    pub user: UserIndex,
    /// What.
    pub request: Request,
    /// The idempotency key; of an adjustment also the reason, by which its ledger entry is known.
    pub key: String,
    /// In the order in which they were sent.
    pub attempts: Vec<Attempt>,
}

/// What the replies alone say about an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It was done.
    Acknowledged,
    /// It was not done.
    Refused,
    /// It may have been done or not.
    Unknown,
}

impl Operation {
    /// The first acknowledgement, with the attempt that got it.
    pub fn acknowledged(&self) -> Option<(&Attempt, &Reply)> {
        self.replies().next()
    }

    /// Every acknowledgement.
    pub fn replies(&self) -> impl Iterator<Item = (&Attempt, &Reply)> {
        self.attempts
            .iter()
            .filter_map(|attempt| match &attempt.outcome {
                Outcome::Acknowledged(reply) => Some((attempt, reply)),
                _ => None,
            })
    }

    /// Whether some attempt's outcome was unknown when it ended.
    pub fn was_unknown(&self) -> bool {
        self.unknown().next().is_some()
    }

    /// When it was first sent.
    pub fn first_sent(&self) -> Option<Moment> {
        self.attempts.iter().map(|attempt| attempt.sent).min()
    }

    /// What the replies alone say. The server knows an operation again by its key, so a refusal also
    /// tells that no earlier attempt was done.
    pub fn resolution(&self) -> Resolution {
        if self.acknowledged().is_some() {
            return Resolution::Acknowledged;
        }
        let refused = self
            .attempts
            .iter()
            .filter(|attempt| matches!(attempt.outcome, Outcome::Refused(_)))
            .map(|attempt| attempt.sent)
            .max();
        let is_settled =
            |unknown: &Attempt| refused.is_some_and(|refused| refused >= unknown.ended);
        if self.unknown().all(is_settled) {
            Resolution::Refused
        } else {
            Resolution::Unknown
        }
    }

    /// The attempts whose outcome was unknown when they ended.
    pub fn unknown(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .iter()
            .filter(|attempt| matches!(attempt.outcome, Outcome::Unknown(_)))
    }
}

/// A balance that a user was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sighting {
    /// Who asked.
    pub user: UserIndex,
    /// Right before it was asked for.
    pub sent: Moment,
    /// Right after it was told.
    pub ended: Moment,
    /// What was told.
    pub balance: LiveBalance,
}

/// What one websocket said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stream {
    /// Who watched.
    pub user: UserIndex,
    /// When it was opened.
    pub opened: Moment,
    /// What it said, and when.
    pub messages: Vec<(Moment, ServerMessage)>,
}

/// How a process of the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// By SIGKILL.
    Killed,
    /// By SIGTERM, in order.
    Terminated,
    /// Because another process took its node's name over.
    Superseded,
}

/// A stretch in which a process was stopped by SIGSTOP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Suspension {
    /// Right before and right after the signal that stopped it.
    pub stopped: (Moment, Moment),
    /// Right before and right after the signal that let it go on.
    pub continued: (Moment, Moment),
}

/// One process of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Life {
    /// Right before it was started.
    pub spawned: Moment,
    /// When it said that it was ready, if it lived to.
    pub ready: Option<Moment>,
    /// When it was last certainly alive: right before it was killed, told to end or superseded.
    pub doomed: Option<Moment>,
    /// When it was certainly dead.
    pub ended: Option<Moment>,
    /// How it ended.
    pub ending: Option<Ending>,
    /// When it was suspended.
    pub suspensions: Vec<Suspension>,
}

/// A process of the server, by number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LifeId(usize);

/// All that happened.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was asked for, in the order in which it was decided on.
    pub operations: Vec<Operation>,
    /// The balances told.
    pub sightings: Vec<Sighting>,
    /// What websockets said.
    pub streams: Vec<Stream>,
    /// The processes, in the order in which they were started.
    pub lives: Vec<Life>,
    /// What is wrong by itself, whatever the records say.
    pub complaints: Vec<String>,
}

/// A stream, by number from 0.
#[derive(Clone, Copy, Debug)]
pub struct StreamId(usize);

/// Writes the history down. Clones write the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    stopwatch: Stopwatch,
    history: Arc<Mutex<History>>,
    run: Arc<str>,
    decided: Arc<Notify>,
}

impl Recorder {
    /// An empty history of the run named `run`, whose time `stopwatch` tells.
    pub fn new(stopwatch: Stopwatch, run: &str) -> Self {
        Self {
            stopwatch,
            history: Arc::default(),
            run: run.into(),
            decided: Arc::default(),
        }
    }

    /// The time now.
    pub fn now(&self) -> Moment {
        self.stopwatch.now()
    }

    /// Decides on an operation: from now on it has a key.
    pub fn decide(&self, user: UserIndex, request: Request) -> (OperationId, String) {
        let mut history = self.lock();
        let id = OperationId(history.operations.len());
        let key = format!("{}-{}", self.run, id.0);
        history.operations.push(Operation {
            user,
            request,
            key: key.clone(),
            attempts: Vec::new(),
        });
        self.decided.notify_waiters();
        (id, key)
    }

    /// Returns when the next operation is decided on.
    pub async fn decided(&self) {
        self.decided.notified().await;
    }

    /// An attempt has ended.
    pub fn attempted(&self, operation: OperationId, attempt: Attempt) {
        if let Some(operation) = self.lock().operations.get_mut(operation.0) {
            operation.attempts.push(attempt);
        }
    }

    /// A balance was told.
    pub fn saw(&self, sighting: Sighting) {
        self.lock().sightings.push(sighting);
    }

    /// A websocket of `user` is open.
    pub fn opened(&self, user: UserIndex) -> StreamId {
        let opened = self.now();
        let mut history = self.lock();
        history.streams.push(Stream {
            user,
            opened,
            messages: Vec::new(),
        });
        StreamId(history.streams.len() - 1)
    }

    /// A websocket said something.
    pub fn heard(&self, stream: StreamId, message: ServerMessage) {
        let at = self.now();
        if let Some(stream) = self.lock().streams.get_mut(stream.0) {
            stream.messages.push((at, message));
        }
    }

    /// A process is about to be started.
    pub fn spawning(&self) -> LifeId {
        let spawned = self.now();
        let mut history = self.lock();
        history.lives.push(Life {
            spawned,
            ready: None,
            doomed: None,
            ended: None,
            ending: None,
            suspensions: Vec::new(),
        });
        LifeId(history.lives.len() - 1)
    }

    /// Notes something about a process.
    pub fn life(&self, life: LifeId, note: impl FnOnce(&mut Life)) {
        if let Some(life) = self.lock().lives.get_mut(life.0) {
            note(life);
        }
    }

    /// Something is wrong whatever the records say.
    pub fn complain(&self, what: impl Into<String>) {
        let at = self.now();
        self.lock()
            .complaints
            .push(format!("at {at}: {}", what.into()));
    }

    /// Looks at the history so far.
    pub fn read<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.lock())
    }

    /// The history is only ever appended to: it is valid after any panic.
    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

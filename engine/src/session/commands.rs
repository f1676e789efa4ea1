//! What callers ask of a session: that it start, that it stop. And those who wait for it.
//!
//! A request with an idempotency key that is on its way already joins those who wait for it; one that
//! asks for something else under that key is refused. What was done under a key before is the
//! journal's to notice: it refuses the fact.

use std::ops::{Deref, DerefMut};

use billing::{Settlement, SlotNumber, StartRejection, StopRejection};
use schema::{SessionId, UnixMillis, session::EndReason};

use super::{SessionState, WalletState};
use crate::{
    engine::{StartError, Started, StopError, Stopped},
    keys::{IdempotencyKey, RequestKey},
    reply::Reply,
    watermark::Stamp,
};

/// Where a start is answered.
pub type StartReply = Reply<Result<Started, StartError>>;
/// Where a stop is answered.
pub type StopReply = Reply<Result<Stopped, StopError>>;

/// What callers asked for and wait for. Mostly that is nothing, and then it takes no more than a
/// pointer: a live session is asked for something twice in its life.
#[derive(Default)]
pub(super) struct Commands(Option<Box<Asked>>);

/// What callers asked for and wait for, if they do.
#[derive(Default)]
pub(super) struct Asked {
    /// The callers who wait for the start to be recorded, and the start's stamp.
    pub(super) starting: Option<Starting>,
    pub(super) start_stamp: Option<Stamp>,
    /// Callers who wait for the end to be recorded, in the order in which they came, and the first
    /// one's stamp.
    pub(super) stopping: Vec<Stopping>,
    pub(super) stop_stamp: Option<Stamp>,
    /// How many of them, the first ones, have their keys in the settlement that is with the journal.
    pub(super) covered_stops: usize,
    /// Those whose keys came too late for it. While there are any, what is with the journal is theirs.
    pub(super) late: Option<LateStops>,
    /// A session that is ended because nobody took its start's reply.
    pub(super) abandoned: Option<Abandoned>,
    /// Starts that wait until the session before them is settled.
    pub(super) queued_starts: Vec<(Option<RequestKey>, StartReply)>,
}

static NOTHING: Asked = Asked {
    starting: None,
    start_stamp: None,
    stopping: Vec::new(),
    stop_stamp: None,
    covered_stops: 0,
    late: None,
    abandoned: None,
    queued_starts: Vec::new(),
};

impl Commands {
    /// Gives the memory back that nothing needs any more.
    pub(super) fn tidy(&mut self) {
        self.0.take_if(|asked| asked.is_nothing());
    }
}

impl Deref for Commands {
    type Target = Asked;

    fn deref(&self) -> &Asked {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Commands {
    fn deref_mut(&mut self) -> &mut Asked {
        self.0.get_or_insert_default()
    }
}

impl Asked {
    fn is_nothing(&self) -> bool {
        let Self {
            starting,
            start_stamp,
            stopping,
            stop_stamp,
            // Without stops it counts none.
            covered_stops: _,
            late,
            abandoned,
            queued_starts,
        } = self;
        starting.is_none()
            && start_stamp.is_none()
            && stopping.is_empty()
            && stop_stamp.is_none()
            && late.is_none()
            && abandoned.is_none()
            && queued_starts.is_empty()
    }
}

/// The callers who wait for one start to be recorded.
pub(super) struct Starting {
    /// The key that all of them gave.
    pub(super) key: Option<RequestKey>,
    pub(super) replies: Vec<StartReply>,
}

/// A caller who waits for the session's end to be recorded.
pub(super) struct Stopping {
    pub(super) key: Option<RequestKey>,
    /// When the session was to stop, and why.
    pub(super) at: UnixMillis,
    pub(super) reason: EndReason,
    pub(super) reply: StopReply,
}

/// Callers whose stops met an end that was with the journal already, without their keys. These are
/// recorded after it, with the same settlement once more, and only then they are answered.
pub(super) struct LateStops {
    pub(super) settlement: Settlement,
    pub(super) stopped: Stopped,
    pub(super) waiting: Vec<(RequestKey, StopReply)>,
}

/// A session that was recorded for nobody, and the key of its start.
pub(super) struct Abandoned {
    pub(super) session: SessionId,
    pub(super) key: Option<IdempotencyKey>,
}

/// What a request is to one that is on its way.
enum Twin {
    /// They have nothing to do with each other.
    No,
    /// It is the same once more.
    Yes,
    /// It has the key of the other one, and asks for something else.
    Conflict,
}

impl Twin {
    fn of(request: Option<&RequestKey>, other: Option<&RequestKey>) -> Self {
        match (request, other) {
            (Some(request), Some(other)) if request == other => Self::Yes,
            (Some(request), Some(other)) if request.key == other.key => Self::Conflict,
            _ => Self::No,
        }
    }
}

impl SessionState {
    pub(super) fn start(&mut self, key: Option<RequestKey>, reply: StartReply) {
        if reply.is_closed() {
            // Its caller was told that the outcome is unknown: nothing has happened, nor will it.
            return;
        }
        if self.is_closing {
            let _gone = reply.send(Err(StartError::UserUnknown));
            return;
        }
        let key_of_start = self
            .commands
            .starting
            .as_ref()
            .and_then(|start| start.key.as_ref());
        match Twin::of(key.as_ref(), key_of_start) {
            Twin::No => {}
            Twin::Yes => {
                if let Some(starting) = &mut self.commands.starting {
                    starting.replies.push(reply);
                }
                return;
            }
            Twin::Conflict => {
                let _gone = reply.send(Err(StartError::KeyConflict));
                return;
            }
        }
        let mut keys_of_stops = self.commands.stopping.iter().map(|stop| stop.key.as_ref());
        if keys_of_stops.any(|other| !matches!(Twin::of(key.as_ref(), other), Twin::No)) {
            let _gone = reply.send(Err(StartError::KeyConflict));
            return;
        }

        if matches!(&self.wallet, WalletState::Ready(wallet) if wallet.sessions().is_empty()) {
            if self.unpaid.must_be_read() {
                self.commands.queued_starts.push((key, reply));
                self.read_again();
                return;
            }
            let now = self.now();
            if let Some(retry_after) = self.unpaid.wait(now) {
                let _gone = reply.send(Err(StartError::TooManyUnpaid { retry_after }));
                return;
            }
        }
        let stamp = self.context.watermark.stamp();
        let at = self.catch_up(stamp.moment());
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        if wallet.sessions().is_empty() {
            if self.unpaid.must_be_read() {
                self.commands.queued_starts.push((key, reply));
                self.read_again();
                return;
            }
            if let Some(retry_after) = self.unpaid.wait(at) {
                let _gone = reply.send(Err(StartError::TooManyUnpaid { retry_after }));
                return;
            }
        }
        // Nothing is served while time stands still.
        let id = self
            .context
            .ids
            .next()
            .filter(|_| stamp.moment().is_serving);
        let Some(id) = id else {
            let _gone = reply.send(Err(StartError::Unavailable));
            return;
        };
        match wallet.start(at, id, SlotNumber::default(), self.context.settings.tariff) {
            Ok(()) => {
                let replies = vec![reply];
                self.commands.starting = Some(Starting { key, replies });
                self.commands.start_stamp = Some(stamp);
            }
            Err(StartRejection::Settling) => self.commands.queued_starts.push((key, reply)),
            Err(StartRejection::SessionActive) => {
                let _gone = reply.send(Err(StartError::SessionActive));
            }
            Err(StartRejection::InsufficientCredits) if self.leaves_at.take().is_some() => {
                // Somebody may have topped it up since it was read.
                self.commands.queued_starts.push((key, reply));
                self.read_again();
            }
            Err(StartRejection::InsufficientCredits) => {
                let _gone = reply.send(Err(StartError::InsufficientCredits));
            }
        }
    }

    pub(super) fn stop(&mut self, reason: EndReason, key: Option<RequestKey>, reply: StopReply) {
        if let Some(late) = &mut self.commands.late
            && let Some(request) = &key
            && late.waiting.iter().any(|(other, _)| other == request)
        {
            late.waiting.push((request.clone(), reply));
            return;
        }
        let key_of_start = self
            .commands
            .starting
            .as_ref()
            .and_then(|start| start.key.as_ref());
        let mut others = self.commands.stopping.iter().map(|stop| stop.key.as_ref());
        let is_conflict = |other| matches!(Twin::of(key.as_ref(), other), Twin::Conflict);
        if is_conflict(key_of_start) || others.any(is_conflict) {
            let _gone = reply.send(Err(StopError::KeyConflict));
            return;
        }

        let stamp = self.context.watermark.stamp();
        let at = self.catch_up(stamp.moment());
        let WalletState::Ready(wallet) = &mut self.wallet else {
            return;
        };
        let Some(id) = wallet.sessions().first().map(|session| session.id) else {
            let _gone = reply.send(Err(StopError::NoActiveSession));
            return;
        };
        match wallet.stop(at, id, reason) {
            Ok(_) => {
                self.commands.stopping.push(Stopping {
                    key,
                    at,
                    reason,
                    reply,
                });
                self.commands.stop_stamp.get_or_insert(stamp);
            }
            Err(StopRejection::NoActiveSession) => {
                let _gone = reply.send(Err(StopError::NoActiveSession));
            }
        }
    }

    /// Tells everybody who waits for a session's end that there is no session.
    pub(super) fn refuse_stops(&mut self) {
        for stop in self.commands.stopping.drain(..) {
            let _gone = stop.reply.send(Err(StopError::NoActiveSession));
        }
        self.commands.covered_stops = 0;
        self.commands.stop_stamp = None;
    }
}

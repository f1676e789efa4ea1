//! The session actor: one for each user with a live session. It owns the wallet's countdown.
//!
//! The supervisor sends it requests, the metronome wakes it, the journal answers it. It decides with
//! the pure state machine in `billing`, lets the journal record what it decided, one fact at a time,
//! and answers callers only when their fact is durable. It never writes to a database, never waits
//! for one while it handles a message, and never charges by ticks: a wake only shows what time made
//! true already.

mod commands;
mod deadlines;
mod outcomes;
mod reading;
mod telling;
mod unpaid;

pub use self::unpaid::UnpaidSessions;

use std::{sync::Arc, time::Duration};

use billing::{Settlement, Wallet, WalletVersion};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::{
    Millis, UnixMillis, UserId,
    session::{EndReason, LiveBalance},
};
use tokio::time::Instant;
use tracing::Span;

use self::commands::{Commands, StartReply, StopReply};
use crate::{
    batched::ReadError,
    context::Context,
    count::Count,
    engine::BalanceError,
    facts::{FIRST_READING, Fact, FactOutcome, Recording, WalletReading},
    journal::Entry,
    keys::RequestKey,
    metronome::Alarm,
    reply::Reply,
    supervisor::SupervisorMessage,
    watermark::Stamp,
};

/// How long an actor stays that has nothing to do: whoever starts again at once need not wait for
/// the wallet to be read. A start and a stop then cost the database half as much as they would.
const STAY: Millis = Millis::literal(1_000);

/// The wait before something is tried again that failed for no reason of the caller's.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a caller asks of a user's session; routed by the supervisor.
#[derive(Debug)]
pub enum Request {
    /// Start a session.
    Start(Option<RequestKey>, StartReply),
    /// Stop the session.
    Stop(EndReason, Option<RequestKey>, StopReply),
    /// Tell the live balance; nothing where there is no live session.
    Balance(Reply<Result<Option<LiveBalance>, BalanceError>>),
    /// Somebody watches the balance from now on, or nobody does.
    Watch(Watched),
    /// Somebody else wrote to the wallet.
    Notice,
}

/// Whether somebody watches a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Somebody does: every change of the balance is told.
    Yes,
    /// Nobody does: the session sleeps between its deadlines.
    No,
}

/// What a session is told.
#[derive(Debug)]
pub enum SessionMessage {
    /// A caller's request; from the supervisor.
    Request(Request),
    /// A deadline may be due; from the metronome.
    Wake {
        /// The instant that the wake was set for.
        at: UnixMillis,
    },
    /// What became of the fact on its way; from the journal.
    Outcome {
        /// The fact.
        fact: Fact,
        /// What became of it.
        outcome: FactOutcome,
        /// What the fact held back.
        stamp: Option<Stamp>,
    },
    /// The wallet was read; from the task that read it.
    Loaded(Result<Option<WalletReading>, ReadError>),
    /// Show the live state to the mirror; from the supervisor.
    Mirror,
    /// Time stands still, or goes on; from the supervisor.
    TimeChanged,
    /// Try again what failed a moment ago; from the session's own timer.
    Retry,
    /// Nothing is left to do and nothing is on its way: stop; from the supervisor.
    Retire,
}

/// What a session starts from.
pub enum Origin {
    /// The database, to be read at the first occasion.
    Database {
        /// The version of the wallet since which changes are news to those who watch it.
        since: WalletVersion,
    },
    /// A wallet as recovery rebuilt it.
    Recovered {
        /// The wallet.
        wallet: Wallet,
        /// How many runs it was rebuilt from.
        runs: usize,
    },
}

/// What a session starts with.
pub struct SessionArguments {
    /// Whose.
    pub user: UserId,
    /// What all sessions share.
    pub context: Arc<Context>,
    /// Where its wallet comes from.
    pub origin: Origin,
    /// Whether somebody watches.
    pub watched: Watched,
}

/// The actor.
pub struct SessionActor;

/// Where the wallet's contents are.
enum WalletState {
    /// Being read for the first time; requests wait.
    Loading(Vec<Request>),
    /// Here.
    Ready(Wallet),
}

/// Whether the wallet has to be read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reload {
    NotNeeded,
    Needed,
    /// It is being read, or will be after a moment.
    Underway,
    /// It is being read, and has changed since.
    UnderwayOutdated,
}

/// A session's state.
pub struct SessionState {
    user: UserId,
    context: Arc<Context>,
    wallet: WalletState,
    /// The version since which changes are news when the wallet is read for the first time.
    news_since: WalletVersion,
    /// How many of our node's runs the wallet knows.
    runs: usize,
    watched: Watched,
    reload: Reload,
    /// Whether a fact is with the journal; no other is sent meanwhile.
    is_in_flight: bool,
    /// What callers asked for and wait for.
    commands: Commands,
    unpaid: UnpaidSessions,
    /// Until when it stays without anything to do. Meanwhile others may have written to the wallet.
    leaves_at: Option<UnixMillis>,
    /// Whether the user is about to be erased, or is.
    is_closing: bool,
    /// How many requests were handled; the supervisor knows how many it sent.
    handled: u64,
    alarm: Alarm,
    settle_at: UnixMillis,
    is_low_told: bool,
    /// The balance that was told last, while somebody watches.
    told: Option<Box<LiveBalance>>,
    live: Count,
    busy: Count,
}

impl Actor for SessionActor {
    type Msg = SessionMessage;
    type State = SessionState;
    type Arguments = SessionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SessionMessage>,
        arguments: SessionArguments,
    ) -> Result<SessionState, ActorProcessingErr> {
        let SessionArguments {
            user,
            context,
            origin,
            watched,
        } = arguments;
        let mut state = SessionState {
            user,
            wallet: WalletState::Loading(Vec::new()),
            news_since: FIRST_READING,
            runs: 0,
            watched,
            reload: Reload::NotNeeded,
            is_in_flight: false,
            commands: Commands::default(),
            unpaid: UnpaidSessions::unread(context.settings.unpaid_sessions_per_hour_max),
            leaves_at: None,
            is_closing: false,
            handled: 0,
            alarm: context.metronome.alarm(),
            settle_at: UnixMillis::MAX,
            is_low_told: false,
            told: None,
            live: Count::new(Arc::clone(&context), |context| &context.live_sessions),
            busy: Count::new(Arc::clone(&context), |context| &context.busy_sessions),
            context,
        };
        match origin {
            Origin::Database { since } => {
                state.news_since = since;
                state.load(&myself, since);
            }
            Origin::Recovered { wallet, runs } => {
                state.adopt(wallet, runs);
                state.follow_up(&myself);
            }
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMessage>,
        message: SessionMessage,
        state: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SessionMessage::Request(request) => {
                state.handled += 1;
                state.handle_request(request);
            }
            SessionMessage::Wake { at } => state.wake(at),
            SessionMessage::Outcome {
                fact,
                outcome,
                stamp,
            } => state.take_outcome(&myself, &fact, outcome, stamp),
            SessionMessage::Loaded(result) => state.take_wallet(&myself, result),
            SessionMessage::Mirror => state.mirror(),
            SessionMessage::TimeChanged => {
                state.advance();
                state.mirror();
            }
            SessionMessage::Retry => state.reload = Reload::Needed,
            SessionMessage::Retire => {
                myself.stop(None);
                return Ok(());
            }
        }
        state.follow_up(&myself);
        Ok(())
    }
}

// --- requests ---

impl SessionState {
    fn handle_request(&mut self, request: Request) {
        if let Request::Watch(watched) = request {
            self.watched = watched;
            self.told = None;
            return;
        }
        match &mut self.wallet {
            WalletState::Loading(waiting) => waiting.push(request),
            WalletState::Ready(_) => match request {
                Request::Start(key, reply) => self.start(key, reply),
                Request::Stop(reason, key, reply) => self.stop(reason, key, reply),
                // Of an actor that only stays for a while, the database knows better.
                Request::Balance(reply) if self.leaves_at.is_some() => {
                    let _gone = reply.send(Ok(None));
                }
                Request::Balance(reply) => {
                    let balance = self.live_balance_now();
                    let _gone = reply.send(Ok(balance));
                }
                Request::Watch(_) => {}
                Request::Notice => self.read_again(),
            },
        }
    }

    /// Has the wallet read again, from now on.
    fn read_again(&mut self) {
        self.reload = match self.reload {
            Reload::NotNeeded | Reload::Needed => Reload::Needed,
            Reload::Underway | Reload::UnderwayOutdated => Reload::UnderwayOutdated,
        };
    }
}

// --- after every message ---

impl SessionState {
    /// Records, tells and arms what the message just handled made necessary.
    fn follow_up(&mut self, myself: &ActorRef<SessionMessage>) {
        self.record_next(myself);
        // Whoever only stays for a while may not know of the latest changes.
        if self.watched == Watched::Yes && self.leaves_at.is_none() {
            self.tell_balance();
        }
        self.tell_low();
        self.set_wake(myself);
        self.report(myself);
        self.commands.tidy();
    }

    /// Sends the next fact to the journal, unless one is on its way or the wallet is being read.
    fn record_next(&mut self, myself: &ActorRef<SessionMessage>) {
        let WalletState::Ready(wallet) = &self.wallet else {
            if self.reload == Reload::Needed {
                self.load(myself, self.news_since);
            }
            return;
        };
        if self.is_in_flight {
            return;
        }
        if let Some(late) = &self.commands.late {
            let keys = late.waiting.iter().map(|(request, _)| request.clone());
            let recording = self.recording(Fact::Settlement(late.settlement), keys.collect());
            self.send(myself, recording, None);
            return;
        }
        if matches!(self.reload, Reload::Underway | Reload::UnderwayOutdated) {
            return;
        }
        if self.reload == Reload::Needed {
            let since = wallet.version();
            self.load(myself, since);
            return;
        }
        // In the order of their instants: what ended before a session started is recorded before it.
        let due = wallet.settlement_due();
        let opening = wallet.unrecorded_start();
        let opening = opening.filter(|opening| due.is_none_or(|due| due.at > opening.started_at));
        if let Some(opening) = opening {
            let key = self
                .commands
                .starting
                .as_ref()
                .and_then(|start| start.key.clone());
            let recording = self.recording(Fact::Opening(opening), Vec::from_iter(key));
            let stamp = self.commands.start_stamp.take();
            self.send(myself, recording, stamp);
        } else if let Some(settlement) = due {
            let keys = self
                .commands
                .stopping
                .iter()
                .filter_map(|stop| stop.key.clone());
            let mut recording = self.recording(Fact::Settlement(settlement), keys.collect());
            let abandoned = self.commands.abandoned.as_ref();
            recording.forgotten = abandoned
                .filter(|abandoned| abandoned.session == settlement.session)
                .and_then(|abandoned| abandoned.key.clone());
            self.commands.covered_stops = self.commands.stopping.len();
            let stamp = self.commands.stop_stamp.take();
            self.send(myself, recording, stamp);
        } else if let Some(settlement) = self.interim_settlement() {
            let recording = self.recording(Fact::Settlement(settlement), Vec::new());
            self.send(myself, recording, None);
        }
    }

    /// `fact` with the keys that are used from now on.
    fn recording(&self, fact: Fact, keys: Vec<RequestKey>) -> Recording {
        let at = self.context.timeline.now();
        Recording {
            keys,
            at,
            ..fact.into()
        }
    }

    fn send(
        &mut self,
        myself: &ActorRef<SessionMessage>,
        recording: Recording,
        stamp: Option<Stamp>,
    ) {
        self.is_in_flight = true;
        self.context.journal.record(Entry {
            recording,
            stamp,
            session: myself.clone(),
            span: self.span_of_caller(),
            decided_at: Instant::now(),
        });
    }

    /// The span of who waits for the next fact, if anybody does. Of several, the first.
    fn span_of_caller(&self) -> Span {
        let start = self
            .commands
            .starting
            .as_ref()
            .and_then(|start| start.replies.first());
        let span = start.map(Reply::span);
        let span = span.or_else(|| Some(self.commands.stopping.first()?.reply.span()));
        let span = span.or_else(|| Some(self.commands.late.as_ref()?.waiting.first()?.1.span()));
        span.cloned().unwrap_or_else(Span::none)
    }

    /// The settlement in between, if one is due.
    fn interim_settlement(&mut self) -> Option<Settlement> {
        let WalletState::Ready(wallet) = &self.wallet else {
            return None;
        };
        let now = wallet.instant();
        if now < self.settle_at {
            return None;
        }
        let session = wallet.sessions().first()?;
        self.settle_at =
            next_settlement(session.started_at, now, self.context.settings.settle_every);
        wallet.interim_settlement(session.id)
    }

    /// Tells the engine whether something is to be recorded, and the supervisor if nothing is left
    /// to do at all.
    fn report(&mut self, myself: &ActorRef<SessionMessage>) {
        let has_unrecorded_end =
            matches!(&self.wallet, WalletState::Ready(wallet) if wallet.settlement_due().is_some());
        let is_recording = self.is_in_flight
            || has_unrecorded_end
            || self.commands.starting.is_some()
            || !self.commands.stopping.is_empty();
        self.busy.set(usize::from(is_recording));
        let is_idle = !is_recording
            && self.reload == Reload::NotNeeded
            && match &self.wallet {
                WalletState::Loading(waiting) => waiting.is_empty(),
                WalletState::Ready(wallet) => wallet.sessions().is_empty(),
            };
        if !is_idle {
            self.leaves_at = None;
            return;
        }
        // By the clock, which goes on while nothing is served.
        let now = self.context.timeline.clock().now();
        let stay_until = || now.checked_add(STAY).unwrap_or(now);
        let leaves_at = *self.leaves_at.get_or_insert_with(stay_until);
        if now < leaves_at {
            self.alarm.set(myself, leaves_at);
        } else {
            let idle = SupervisorMessage::Idle {
                session: myself.get_id(),
                user: self.user,
                version: match &self.wallet {
                    WalletState::Ready(wallet) => Some(wallet.version()),
                    WalletState::Loading(_) => None,
                },
                handled: self.handled,
            };
            let _stopped = self.context.supervisor.cast(idle);
        }
    }
}

/// The first instant after `now` at which a session's charge is to be settled: whole periods after
/// its start, so that sessions that started apart are settled apart.
fn next_settlement(started_at: UnixMillis, now: UnixMillis, every: Millis) -> UnixMillis {
    let periods = now.since(started_at).get() / every.get().max(1) + 1;
    let after = periods
        .checked_mul(every.get())
        .and_then(|after| Millis::new(after).ok());
    after
        .and_then(|after| started_at.checked_add(after))
        .unwrap_or(UnixMillis::MAX)
}

/// Reminds the session to try again after a moment.
fn retry_later(session: ActorRef<SessionMessage>) {
    tokio::spawn(async move {
        tokio::time::sleep(RETRY_AFTER).await;
        let _gone = session.cast(SessionMessage::Retry);
    });
}

//! The supervisor: keeps one session actor for each user with a live session, and routes to it.
//!
//! It never waits for the database, nor for any actor but one that it spawns. A session that failed
//! is started again from recorded facts, once everything that it had sent to the journal has its
//! outcome; requests wait meanwhile.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use billing::{Wallet, WalletVersion};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use schema::UserId;
use tokio::sync::oneshot;

use crate::{
    context::Context,
    engine::{StartError, StopError},
    facts::FIRST_READING,
    session::{Origin, Request, SessionActor, SessionArguments, SessionMessage, Watched},
};

/// The wait before a failed session is started again, so that one that fails at once can't spin.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// How many places for sessions may be kept that are not in use.
const SPARE_MAX: usize = 4_096;

/// What the supervisor is told.
pub enum SupervisorMessage {
    /// What all sessions share, and the wallets to go on with; from the engine, first of all.
    Begin {
        /// What all sessions share.
        context: Arc<Context>,
    },
    /// A recovered wallet with a live session; from recovery.
    Adopt {
        /// The wallet.
        wallet: Wallet,
        /// How many runs it was rebuilt from.
        runs: usize,
    },
    /// A caller's request; from the engine.
    Request(UserId, Request),
    /// A watcher is told the balance of a user without a session; from the engine.
    Told {
        /// Whose.
        user: UserId,
        /// The version of the wallet that it is of.
        version: WalletVersion,
    },
    /// A session has nothing left to do; from that session.
    Idle {
        /// Which actor says so.
        session: ActorId,
        /// Whose.
        user: UserId,
        /// The version of the wallet that it knows; None if it never read it.
        version: Option<WalletVersion>,
        /// How many requests it has handled.
        handled: u64,
    },
    /// A failed session may be started again; from the supervisor's own task.
    Restart(UserId),
    /// Answer once every message before this one was handled; from the engine.
    Barrier(oneshot::Sender<()>),
    /// Have every session show its state to the mirror; from the mirror.
    Mirror,
    /// Tell which of these users have no session actor; from the mirror.
    WithoutSession(Vec<UserId>, oneshot::Sender<HashSet<UserId>>),
    /// Have every session look at the time, which stands still or goes on since; from the journal.
    TimeChanged,
}

/// The actor.
pub struct Supervisor;

/// A session as the supervisor sees it.
struct Entry {
    session: ActorRef<SessionMessage>,
    /// How many requests were sent to it.
    sent: u64,
}

/// The supervisor's state.
#[derive(Default)]
pub struct SupervisorState {
    context: Option<Arc<Context>>,
    sessions: HashMap<UserId, Entry>,
    /// Users whose session failed, with the requests that wait until it is back.
    restarting: HashMap<UserId, Vec<Request>>,
    /// Users whose balance somebody watches, each with the version of the wallet that the watchers have
    /// been told of while no session is there: what came in since is news. `FIRST_READING` if none was.
    watched: HashMap<UserId, WalletVersion>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<SupervisorMessage>,
        (): (),
    ) -> Result<SupervisorState, ActorProcessingErr> {
        Ok(SupervisorState::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Begin { context } => state.context = Some(context),
            SupervisorMessage::Adopt { wallet, runs } => {
                let user = wallet.user();
                let origin = Origin::Recovered { wallet, runs };
                state.spawn(&myself, user, origin).await;
            }
            SupervisorMessage::Request(user, request) => {
                state.route(&myself, user, request).await;
            }
            SupervisorMessage::Told { user, version } => state.told(user, version),
            SupervisorMessage::Idle {
                session,
                user,
                version,
                handled,
            } => state.retire(session, user, version, handled),
            SupervisorMessage::Restart(user) => state.restart(&myself, user).await,
            SupervisorMessage::Barrier(reply) => {
                let _gone = reply.send(());
            }
            SupervisorMessage::Mirror => state.tell_all(|| SessionMessage::Mirror),
            SupervisorMessage::WithoutSession(users, reply) => {
                let is_without = |user: &UserId| {
                    !state.sessions.contains_key(user) && !state.restarting.contains_key(user)
                };
                let _gone = reply.send(users.into_iter().filter(is_without).collect());
            }
            SupervisorMessage::TimeChanged => state.tell_all(|| SessionMessage::TimeChanged),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        // A session that stopped was retired. Only a failed one is news.
        if let SupervisionEvent::ActorFailed(cell, error) = event {
            tracing::error!(error = %error, "a session actor failed");
            state.lost(&myself, cell.get_id());
        }
        Ok(())
    }
}

impl SupervisorState {
    /// Hands `request` to the user's session, if there is one or the request makes one.
    async fn route(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        user: UserId,
        request: Request,
    ) {
        if let Request::Watch(watched) = request {
            match watched {
                Watched::Yes => {
                    self.watched.entry(user).or_insert(FIRST_READING);
                }
                Watched::No => {
                    self.watched.remove(&user);
                }
            }
        }
        if let Some(waiting) = self.restarting.get_mut(&user) {
            waiting.push(request);
            return;
        }
        if !self.sessions.contains_key(&user) {
            let needs_session = match &request {
                Request::Start(..) => true,
                // A dashboard without a session is to see credits that come in.
                Request::Notice => self.watched.contains_key(&user),
                Request::Stop(..) | Request::Balance(_) | Request::Watch(_) => false,
            };
            if !needs_session {
                answer_without_session(request);
                return;
            }
            let since = self.told_since(user);
            self.spawn(myself, user, Origin::Database { since }).await;
        }
        if let Some(entry) = self.sessions.get_mut(&user) {
            entry.sent += 1;
            // A session that failed a moment ago drops the request; its caller learns that the
            // outcome is unknown.
            let _failed = entry.session.cast(SessionMessage::Request(request));
        }
    }

    async fn spawn(&mut self, myself: &ActorRef<SupervisorMessage>, user: UserId, origin: Origin) {
        let Some(context) = self.context.clone() else {
            tracing::error!(user = user.get(), "a session was asked for too early");
            return;
        };
        let watched = if self.watched.contains_key(&user) {
            Watched::Yes
        } else {
            Watched::No
        };
        let arguments = SessionArguments {
            user,
            context,
            origin,
            watched,
        };
        match SessionActor::spawn_linked(None, SessionActor, arguments, myself.get_cell()).await {
            Ok((session, _)) => {
                self.sessions.insert(user, Entry { session, sent: 0 });
            }
            // Requests are dropped with it: their callers learn that the outcome is unknown.
            Err(error) => tracing::error!(
                user = user.get(),
                error = &error as &dyn std::error::Error,
                "a session actor did not start"
            ),
        }
    }

    /// Lets a session go that has handled all that was sent to it and has nothing left to do.
    fn retire(
        &mut self,
        session: ActorId,
        user: UserId,
        version: Option<WalletVersion>,
        handled: u64,
    ) {
        let is_done = |entry: &Entry| entry.session.get_id() == session && entry.sent == handled;
        if self.sessions.get(&user).is_some_and(is_done)
            && let Some(entry) = self.sessions.remove(&user)
        {
            let _failed = entry.session.cast(SessionMessage::Retire);
            if let (Some(told), Some(version)) = (self.watched.get_mut(&user), version) {
                *told = version;
            }
            // After a crowd the memory comes back.
            if self.sessions.capacity() > 4 * self.sessions.len() + SPARE_MAX {
                self.sessions.shrink_to(2 * self.sessions.len());
            }
        }
    }

    /// A watcher of a user without a session was told the balance as of `version`. Others may have been
    /// told an earlier one, and what came in between is still news to them.
    fn told(&mut self, user: UserId, version: WalletVersion) {
        if let Some(told) = self.watched.get_mut(&user)
            && *told == FIRST_READING
        {
            *told = version;
        }
    }

    /// The version since which changes of the wallet are news to those who watch it.
    fn told_since(&self, user: UserId) -> WalletVersion {
        self.watched.get(&user).copied().unwrap_or(FIRST_READING)
    }

    /// Takes note that a session failed. It is started again once the journal is through with what
    /// it had sent.
    fn lost(&mut self, myself: &ActorRef<SupervisorMessage>, session: ActorId) {
        let Some(context) = self.context.clone() else {
            return;
        };
        let lost = self
            .sessions
            .iter()
            .find(|(_, entry)| entry.session.get_id() == session);
        let Some(user) = lost.map(|(user, _)| *user) else {
            return;
        };
        self.sessions.remove(&user);
        self.restarting.insert(user, Vec::new());
        let myself = myself.clone();
        tokio::spawn(async move {
            context.journal.flushed().await;
            tokio::time::sleep(RESTART_AFTER).await;
            let _stopped = myself.cast(SupervisorMessage::Restart(user));
        });
    }

    async fn restart(&mut self, myself: &ActorRef<SupervisorMessage>, user: UserId) {
        let waiting = self.restarting.remove(&user).unwrap_or_default();
        let since = self.told_since(user);
        self.spawn(myself, user, Origin::Database { since }).await;
        for request in waiting {
            self.route(myself, user, request).await;
        }
    }

    fn tell_all(&self, message: impl Fn() -> SessionMessage) {
        for entry in self.sessions.values() {
            let _failed = entry.session.cast(message());
        }
    }
}

/// Returns once the supervisor has handled all that was sent to it before.
pub async fn routed(supervisor: &ActorRef<SupervisorMessage>) {
    let (reply, handled) = oneshot::channel();
    // The supervisor is gone only when the process is going.
    let _stopped = supervisor.cast(SupervisorMessage::Barrier(reply));
    let _stopped = handled.await;
}

/// Answers a request for a user without a live session here.
fn answer_without_session(request: Request) {
    match request {
        Request::Start(_, reply) => {
            let _gone = reply.send(Err(StartError::Unavailable));
        }
        Request::Stop(_, _, reply) => {
            let _gone = reply.send(Err(StopError::NoActiveSession));
        }
        Request::Balance(reply) => {
            let _gone = reply.send(Ok(None));
        }
        Request::Watch(_) | Request::Notice => {}
    }
}

//! The engine's front door: start it, call it, stop it.

mod answers;

pub use self::answers::{BalanceError, StartError, Started, StopError, Stopped};
pub use crate::journal::Displacement;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use billing::{Tariff, WalletVersion};
use ractor::{Actor, DerivedActorRef};
use schema::{
    Millis, UnixMillis, UserId,
    session::{EndReason, LiveBalance},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use self::answers::CallError;
use crate::{
    batched::Batched,
    clock::Clock,
    context::{Context, Wallets},
    facts::{NodeName, ProcessId, ResumePolicy, WalletAsked},
    ids::SessionIds,
    journal::{Journal, JournalArguments},
    keys::{Answer, KeyTurn, KeyTurns, RequestKey},
    metrics::EngineMetrics,
    metronome::Metronome,
    mirror::{Mirror, MirrorArguments, NoTls, RedisUrl},
    notices, recovery,
    reply::Reply,
    retention::{self, RetentionSettings},
    session::{FIRST_READING, Request, UnpaidSessions, Watched},
    store::{Store, StoreError},
    supervisor::{self, Supervisor, SupervisorMessage},
    timeline::Timeline,
    update::UserUpdate,
    watermark::Watermark,
};

/// How often a shutdown looks whether all is recorded.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// How long a stop waits to learn whether its key was used before it fixes the session's end all the
/// same. The journal looks again, under the user's lock.
const STOP_HELD_BACK_FOR: Duration = Duration::from_millis(500);

/// From how far on it is told that the clock is ahead of the wall clock: less is the moment between two
/// runs.
const LEAD_TOLD: Millis = Millis::literal(1_000);

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The name that sessions are served under.
    pub node: NodeName,
    /// The tariff of new sessions.
    pub tariff: Tariff,
    /// How often a live session's charge is moved into the ledger.
    pub settle_every: Millis,
    /// With how much time left the balance is low.
    pub low_balance: Millis,
    /// Whether sessions go on that were live when the node was last alive.
    pub resume: ResumePolicy,
    /// For how long live sessions go on, charged, while nothing can be recorded. Then they pause.
    pub outage_grace: Duration,
    /// How long a caller waits before an outcome is unknown.
    pub call_timeout: Duration,
    /// How many calls may wait for the engine at once; past that they are refused.
    pub calls_max: usize,
    /// How many sessions an hour a user may stop before they cost anything; 0 for any number.
    pub unpaid_sessions_per_hour_max: usize,
    /// For how long history is kept.
    pub retention: RetentionSettings,
    /// Where the live state is mirrored, if anywhere.
    pub redis_url: Option<RedisUrl>,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineStartError {
    /// The database failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The mirror can't speak TLS.
    #[error("the mirror at REDIS_URL can't be used")]
    Mirror(#[from] NoTls),
    /// An actor could not be started.
    #[error("an actor did not start")]
    Actor(#[from] ractor::SpawnErr),
}

/// The running engine. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    context: Arc<Context>,
    /// How many calls may still be taken on.
    calls: Arc<Semaphore>,
    /// Whose turn it is under each idempotency key.
    turns: KeyTurns,
    is_draining: Arc<AtomicBool>,
}

impl Engine {
    /// Begins the node's next run, takes over its live sessions and starts all actors. What happens
    /// to balances is cast to `updates`.
    pub async fn start(
        settings: EngineSettings,
        store: Arc<dyn Store>,
        clock: Clock,
        updates: DerivedActorRef<UserUpdate>,
    ) -> Result<Self, EngineStartError> {
        let began = Instant::now();
        let metrics = Arc::new(EngineMetrics::new(store.errors()));
        let latest_notice = store.latest_notice().await?;
        let ids = SessionIds::start(Arc::clone(&store)).await?;
        let process = ProcessId::random();
        let run = store
            .begin_run(&settings.node, &process, clock.reading(), settings.resume)
            .await?;
        let earlier_runs = store.earlier_runs(&run, UnixMillis::EPOCH).await?;
        let epoch = run.epoch;
        let timeline = Timeline::new(clock.clone(), run, earlier_runs);
        warn_of_lead(&clock);

        let (supervisor, _) = Supervisor::spawn(None, Supervisor, ()).await?;
        let watermark = Watermark::new(timeline.clone());
        let journal = Journal::start(JournalArguments {
            timeline: timeline.clone(),
            store: Arc::clone(&store),
            watermark: watermark.clone(),
            grace: settings.outage_grace,
            resume_policy: settings.resume,
            metrics: Arc::clone(&metrics),
            supervisor: supervisor.clone(),
        })
        .await?;
        let mirror = match &settings.redis_url {
            Some(url) => {
                // A value is renewed at every settlement; one that missed two has nobody to renew it.
                let ttl_seconds = (2 * settings.settle_every.get() / 1_000).max(1);
                let arguments = MirrorArguments {
                    redis: url.clone(),
                    config: url.config()?,
                    ttl_seconds,
                    store: Arc::clone(&store),
                    supervisor: supervisor.clone(),
                    metrics: Arc::clone(&metrics),
                };
                Some(Mirror::start(arguments).await?)
            }
            None => None,
        };
        let calls = Arc::new(Semaphore::new(settings.calls_max));
        let context = Arc::new(Context {
            store: Arc::clone(&store),
            wallets: wallets_of(Arc::clone(&store), timeline.clone(), &settings),
            metronome: Metronome::start(clock),
            settings,
            timeline,
            ids,
            watermark,
            journal,
            mirror,
            updates,
            supervisor: supervisor.clone(),
            metrics,
            live_sessions: AtomicUsize::new(0),
            busy_sessions: AtomicUsize::new(0),
        });
        let _stopped = supervisor.cast(SupervisorMessage::Begin {
            context: Arc::clone(&context),
        });
        let adopted = recovery::adopt_all(&context, &supervisor).await?;
        let engine = Self {
            context,
            calls,
            turns: KeyTurns::default(),
            is_draining: Arc::default(),
        };
        if let Some(mirror) = &engine.context.mirror {
            mirror.begin();
        }
        let metrics = &engine.context.metrics;
        metrics.recovery_seconds.set(began.elapsed().as_secs_f64());
        metrics.recovered_sessions.set(adopted.cast_signed());
        tracing::info!(
            node = engine.context.settings.node.as_str(),
            epoch,
            sessions = adopted,
            "the engine runs"
        );
        tokio::spawn(retention::run(
            Arc::clone(&store),
            engine.context.settings.retention,
            engine.context.timeline.clone(),
            supervisor.clone(),
        ));
        tokio::spawn(notices::listen(store, supervisor, latest_notice));
        Ok(engine)
    }

    /// Starts a session for `user`; returns when it is durable. With a key it is done once, however
    /// often it is asked for within 24 hours: then its first success is returned again.
    #[tracing::instrument(level = "debug", skip_all, fields(user = user.get()))]
    pub async fn start_session(
        &self,
        user: UserId,
        key: Option<RequestKey>,
    ) -> Result<Started, StartError> {
        let result = self.start_unless_refused(user, key).await;
        self.context.metrics.started(&result);
        result
    }

    async fn start_unless_refused(
        &self,
        user: UserId,
        key: Option<RequestKey>,
    ) -> Result<Started, StartError> {
        if !self.context.journal.is_recording()
            || !self.context.timeline.is_serving()
            || self.context.journal.queued() >= self.context.settings.calls_max
        {
            return Err(StartError::Unavailable);
        }
        let (_permit, _turn) = self.admit(user, key.as_ref()).await?;
        let asked = self.ask(user, |reply| Request::Start(key.clone(), reply));
        match (asked.await?, key) {
            (Err(StartError::KeyConflict), _) => Err(StartError::KeyConflict),
            (Err(refusal), Some(request)) => match self.kept(user, &request).await {
                Ok(Kept::Answer(Answer::Started(started))) => Ok(started),
                Ok(Kept::Answer(Answer::Stopped(_)) | Kept::Conflict) => {
                    Err(StartError::KeyConflict)
                }
                Ok(Kept::Nothing) => Err(refusal),
                Err(_) => Err(StartError::OutcomeUnknown),
            },
            (result, _) => result,
        }
    }

    /// Stops the session of `user`; returns when its end is durable. With a key it is done once,
    /// however often it is asked for within 24 hours: then its first success is returned again.
    #[tracing::instrument(level = "debug", skip_all, fields(user = user.get()))]
    pub async fn stop_session(
        &self,
        user: UserId,
        reason: EndReason,
        key: Option<RequestKey>,
    ) -> Result<Stopped, StopError> {
        let (_permit, _turn) = self.admit(user, key.as_ref()).await?;
        if let Some(request) = &key
            && self.context.journal.is_recording()
        {
            let kept = tokio::time::timeout(STOP_HELD_BACK_FOR, self.kept(user, request));
            match kept.await {
                Ok(Ok(Kept::Answer(Answer::Stopped(stopped)))) => return Ok(stopped),
                Ok(Ok(Kept::Answer(Answer::Started(_)) | Kept::Conflict)) => {
                    return Err(StopError::KeyConflict);
                }
                Ok(Ok(Kept::Nothing) | Err(_)) | Err(_) => {}
            }
        }
        let asked = self.ask(user, |reply| Request::Stop(reason, key.clone(), reply));
        match (asked.await?, key) {
            (Err(StopError::KeyConflict), _) => Err(StopError::KeyConflict),
            (Err(refusal), Some(request)) => match self.kept(user, &request).await {
                Ok(Kept::Answer(Answer::Stopped(stopped))) => Ok(stopped),
                Ok(Kept::Answer(Answer::Started(_)) | Kept::Conflict) => {
                    Err(StopError::KeyConflict)
                }
                Ok(Kept::Nothing) => Err(refusal),
                Err(_) => Err(StopError::OutcomeUnknown),
            },
            (result, _) => result,
        }
    }

    /// What was answered under the key before.
    async fn kept(&self, user: UserId, request: &RequestKey) -> Result<Kept, StoreError> {
        let now = self.context.timeline.now();
        let kept = self.context.store.kept_answer(user, &request.key, now);
        let kept = kept.await.inspect_err(|error| {
            tracing::warn!(
                user = user.get(),
                error = error as &dyn std::error::Error,
                "can't read an idempotency key"
            );
        })?;
        Ok(match kept {
            None => Kept::Nothing,
            Some(kept) if kept.fingerprint == request.fingerprint => Kept::Answer(kept.answer),
            Some(_) => Kept::Conflict,
        })
    }

    /// The live balance of `user` now, with the live session if there is one.
    #[tracing::instrument(level = "debug", skip_all, fields(user = user.get()))]
    pub async fn balance(&self, user: UserId) -> Result<LiveBalance, BalanceError> {
        let (_permit, _) = self.admit(user, None).await?;
        match self.ask(user, Request::Balance).await?? {
            Some(balance) => Ok(balance),
            None => Ok(self.recorded_balance(user).await?.0),
        }
    }

    /// The same for somebody who watches the user: what comes in from now on is told as an event.
    #[tracing::instrument(level = "debug", skip_all, fields(user = user.get()))]
    pub async fn balance_for_watcher(&self, user: UserId) -> Result<LiveBalance, BalanceError> {
        let (_permit, _) = self.admit(user, None).await?;
        if let Some(balance) = self.ask(user, Request::Balance).await?? {
            return Ok(balance);
        }
        let (balance, version) = self.recorded_balance(user).await?;
        self.cast(SupervisorMessage::Told { user, version });
        Ok(balance)
    }

    /// The balance of a user without a live session, as the ledger has it, and the wallet's version.
    async fn recorded_balance(
        &self,
        user: UserId,
    ) -> Result<(LiveBalance, WalletVersion), BalanceError> {
        let since = FIRST_READING;
        match self.context.wallets.get(WalletAsked { user, since }).await {
            Ok(Some(reading)) => {
                let balance = LiveBalance {
                    credits: reading.record.credits,
                    as_of: self.context.timeline.now(),
                    session: None,
                };
                Ok((balance, reading.record.version))
            }
            Ok(None) => Err(BalanceError::UserUnknown),
            Err(error) => {
                tracing::warn!(
                    user = user.get(),
                    error = error.as_ref() as &dyn std::error::Error,
                    "can't read a balance"
                );
                Err(BalanceError::Unavailable)
            }
        }
    }

    /// Says that somebody watches the balance of `user` from now on: every change of it is cast to
    /// the updates, beginning with the balance now if a session is live.
    pub fn watch(&self, user: UserId) {
        self.cast(SupervisorMessage::Request(
            user,
            Request::Watch(Watched::Yes),
        ));
    }

    /// Says that nobody watches the balance of `user` any more.
    pub fn unwatch(&self, user: UserId) {
        self.cast(SupervisorMessage::Request(
            user,
            Request::Watch(Watched::No),
        ));
    }

    /// Shows nothing of `user`, who was erased, to other systems any more. Without Redis just now, what
    /// it shows ends by itself.
    pub fn forget(&self, user: UserId) {
        if let Some(mirror) = &self.context.mirror {
            mirror.forget(user);
        }
    }

    /// How many sessions are live here.
    pub fn live_sessions(&self) -> usize {
        self.context.live_sessions.load(Ordering::Relaxed)
    }

    /// The engine's metrics, brought up to date.
    pub fn metrics(&self) -> &EngineMetrics {
        let Context {
            metrics,
            timeline,
            journal,
            settings,
            ..
        } = self.context.as_ref();
        // None of these counts comes near the end of an i64.
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.live_sessions.set(count(self.live_sessions()));
        metrics.recording.set(i64::from(journal.is_recording()));
        metrics.queue_facts.set(count(journal.queued()));
        let waiting = settings.calls_max - self.calls.available_permits();
        metrics.calls_waiting.set(count(waiting));
        // The clock goes on while time stands still: what is not durable shows however long it is so.
        let lag = timeline.clock().now().since(journal.alive_at());
        metrics
            .alive_lag_seconds
            .set(lag.to_duration().as_secs_f64());
        let lead = timeline.clock().lead().to_duration();
        metrics.clock_lead_seconds.set(lead.as_secs_f64());
        metrics
    }

    /// Whether the journal gets its facts into the database.
    pub fn is_recording(&self) -> bool {
        self.context.journal.is_recording()
    }

    /// Returns when the engine can't go on, because its run may write no more, with the reason.
    pub async fn superseded(&self) -> Displacement {
        self.context.journal.displaced().await
    }

    /// Whether the engine's run may write no more.
    pub fn is_superseded(&self) -> bool {
        self.context.journal.is_displaced()
    }

    /// The engine's clock.
    pub fn clock(&self) -> &Clock {
        self.context.timeline.clock()
    }

    /// The engine's store, for accounts, history and audits.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.context.store
    }

    /// Drains sessions, journal and mirror, in this order. Live sessions stay live in the database
    /// and go on in the next run; nothing is served after this. Gives up on what is not recorded
    /// after `patience`.
    pub async fn shutdown(&self, patience: Duration) {
        self.is_draining.store(true, Ordering::Release);
        let drained = tokio::time::timeout(patience, async {
            supervisor::routed(&self.context.supervisor).await;
            while self.context.busy_sessions.load(Ordering::Acquire) > 0 {
                self.context.journal.flushed().await;
                tokio::time::sleep(DRAIN_POLL).await;
            }
            self.context.journal.finish().await;
        });
        if drained.await.is_err() {
            tracing::error!(
                sessions = self.context.busy_sessions.load(Ordering::Relaxed),
                "stopping although not everything is recorded"
            );
        }
        if let Some(mirror) = &self.context.mirror {
            mirror.finish().await;
        }
        self.context.supervisor.stop(None);
    }

    /// Takes a call on, if there is room for it, when its turn under its key has come.
    async fn admit(
        &self,
        user: UserId,
        key: Option<&RequestKey>,
    ) -> Result<(SemaphorePermit<'_>, Option<KeyTurn>), CallError> {
        // One that was superseded doesn't know any more what is live.
        if self.is_draining.load(Ordering::Acquire) || self.is_superseded() {
            return Err(CallError::NotTaken);
        }
        let permit = self.calls.try_acquire().map_err(|_| {
            self.context.metrics.calls_refused.inc();
            CallError::NotTaken
        })?;
        let Some(request) = key else {
            return Ok((permit, None));
        };
        let turn = self.turns.take(user, request.key.clone());
        // Who waits for longer than a call may take learns no more than whoever has the turn.
        let turn = tokio::time::timeout(self.context.settings.call_timeout, turn);
        Ok((permit, Some(turn.await.map_err(|_| CallError::NoReply)?)))
    }

    /// Sends `user` a request that is answered, and waits for the answer for as long as a call may.
    async fn ask<T>(
        &self,
        user: UserId,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, CallError> {
        let (reply, mut answer) = Reply::channel();
        self.cast(SupervisorMessage::Request(user, request(reply)));
        if let Ok(answer) =
            tokio::time::timeout(self.context.settings.call_timeout, &mut answer).await
        {
            return answer.map_err(|_| CallError::NoReply);
        }
        // From here on nobody can answer; an answer of this very moment still counts.
        answer.close();
        answer.try_recv().map_err(|_| CallError::NoReply)
    }

    fn cast(&self, message: SupervisorMessage) {
        // The supervisor is gone only when the process is going.
        let _stopped = self.context.supervisor.cast(message);
    }
}

/// Says how far the clock is ahead of the wall clock, if people can notice.
fn warn_of_lead(clock: &Clock) {
    let lead = clock.lead();
    if lead >= LEAD_TOLD {
        tracing::warn!(
            lead_s = lead.get() / 1_000,
            "this node's clock is ahead of the wall clock, which was ahead when the node ran last or is behind \
             now: times are told ahead by as much, until the node has been stopped for that long"
        );
    }
}

/// What a key says of a request.
enum Kept {
    /// The key is not in use.
    Nothing,
    /// The request was answered like this before.
    Answer(Answer),
    /// The key belongs to another request.
    Conflict,
}

/// Reads wallets from `store`.
fn wallets_of(store: Arc<dyn Store>, timeline: Timeline, settings: &EngineSettings) -> Wallets {
    let counts_unpaid = settings.unpaid_sessions_per_hour_max > 0;
    Batched::new(move |asked| {
        let store = Arc::clone(&store);
        let unpaid_since = counts_unpaid.then(|| UnpaidSessions::since(timeline.now()));
        Box::pin(async move { store.wallets(&asked, unpaid_since).await })
    })
}

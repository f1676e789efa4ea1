//! The journal: records what sessions decide, in batches.
//!
//! Group commit without a timer: while one batch is being written the next one gathers, so batches
//! grow with the load by themselves. Sessions send it facts and get each fact's outcome back; once a
//! second it also records that the node is alive, up to the instant before which nothing that a
//! caller asked for is unrecorded.
//!
//! While the database is away a batch is repeated until its outcome is known; every fact may be
//! repeated. The journal never drops a fact and never reorders one user's.
//!
//! It owns the node's run. If the database is away for longer than the grace it lets time stand
//! still; and when time stands still, for this reason or because the process was suspended, it begins
//! the next run as soon as everything is recorded that was asked for in the last one.

mod writer;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr};
use schema::UnixMillis;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::Span;

use self::writer::Writer;
use crate::{
    facts::{FactOutcome, NodeRun, Recording, ResumePolicy},
    metrics::{EngineMetrics, Standstill},
    session::SessionMessage,
    store::Store,
    supervisor::SupervisorMessage,
    timeline::Timeline,
    watermark::{Stamp, Watermark},
};

/// How many facts one transaction takes at most. Past some hundreds a larger batch only waits longer.
const BATCH_MAX: usize = 1_000;
/// How often the node is recorded to be alive. A crash costs at most about this much served time.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the next run can begin, while time stands still.
const HALTED_EVERY: Duration = Duration::from_millis(50);
/// What the journal is told.
#[derive(Debug)]
pub enum JournalMessage {
    /// Record a fact; from a session.
    Record(Entry),
    /// Record that the node is alive; from the journal's own interval.
    Alive,
    /// Answer once all that was sent before has its outcome; from the supervisor and the engine.
    Barrier(oneshot::Sender<()>),
    /// A batch has its outcomes; from the task that wrote it.
    Written(Batch, Vec<FactOutcome>),
    /// The next run has begun; from the task that recorded it.
    Begun(NodeRun),
    /// The run may write no more; from the task that tried to.
    Displaced(Displacement),
}

/// Why a run may write no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displacement {
    /// Another process has taken over the node's name.
    Superseded,
    /// The database lacks what it had acknowledged to the run.
    WentBack,
}

/// A fact on its way, and whom to tell what became of it.
#[derive(Debug)]
pub struct Entry {
    /// The fact, with its keys.
    pub recording: Recording,
    /// What it holds back until it is recorded; comes back with the outcome.
    pub stamp: Option<Stamp>,
    /// Whom to tell.
    pub session: ActorRef<SessionMessage>,
    /// The span of the request that it comes from, if it comes from one.
    pub span: Span,
    /// When it was decided.
    pub decided_at: Instant,
}

/// Facts that are written together.
#[derive(Debug)]
pub struct Batch {
    entries: Vec<Entry>,
    alive_at: Option<UnixMillis>,
}

/// What the journal starts with.
pub struct JournalArguments {
    /// The runs that it writes for, now and later.
    pub timeline: Timeline,
    /// Where it writes.
    pub store: Arc<dyn Store>,
    /// How far `alive_at` may go.
    pub watermark: Watermark,
    /// For how long sessions go on while nothing can be recorded.
    pub grace: Duration,
    /// What a later run does with the sessions of the one before.
    pub resume_policy: ResumePolicy,
    /// Where it counts what it does.
    pub metrics: Arc<EngineMetrics>,
    /// Is told that time stands still, or goes on.
    pub supervisor: ActorRef<SupervisorMessage>,
}

/// What the journal shows of itself to others.
#[derive(Debug)]
struct Status {
    /// Facts that wait or are being written.
    queued: AtomicUsize,
    /// The greatest instant that the node is known to have been alive at, should it crash.
    alive_at: AtomicI64,
    is_recording: AtomicBool,
    displaced: watch::Sender<Option<Displacement>>,
}

impl Status {
    /// Notes that the node is durably known to have been alive at `instant`.
    fn prove(&self, instant: UnixMillis) {
        self.alive_at.store(instant.get(), Ordering::Relaxed);
    }

    fn alive_at(&self) -> UnixMillis {
        let alive_at = UnixMillis::new(self.alive_at.load(Ordering::Relaxed));
        alive_at.unwrap_or_else(|_| unreachable!("only instants are put there"))
    }
}

/// A handle to the journal. Clones are the same journal.
#[derive(Clone)]
pub struct Journal {
    actor: ActorRef<JournalMessage>,
    status: Arc<Status>,
}

impl Journal {
    /// Starts the journal.
    pub async fn start(arguments: JournalArguments) -> Result<Self, SpawnErr> {
        let (displaced, _) = watch::channel(None);
        let timeline = arguments.timeline.clone();
        let status = Arc::new(Status {
            queued: AtomicUsize::new(0),
            alive_at: AtomicI64::new(timeline.runs().current.started_at.get()),
            is_recording: AtomicBool::new(true),
            displaced,
        });
        let (actor, _) = JournalActor::spawn(
            None,
            JournalActor {
                status: Arc::clone(&status),
            },
            arguments,
        )
        .await?;
        tokio::spawn(beat(actor.clone(), timeline));
        Ok(Self { actor, status })
    }

    /// Records `entry`; its outcome is cast to its session.
    pub fn record(&self, entry: Entry) {
        self.status.queued.fetch_add(1, Ordering::Relaxed);
        // It fails only when the journal has stopped, after the sessions did.
        let _stopped = self.actor.cast(JournalMessage::Record(entry));
    }

    /// Returns once all that was sent before has its outcome.
    pub async fn flushed(&self) {
        let (reply, flushed) = oneshot::channel();
        let _stopped = self.actor.cast(JournalMessage::Barrier(reply));
        // An error means that the journal has stopped: nothing is in flight any more.
        let _ = flushed.await;
    }

    /// Records that the node is alive, returns once that is durable, and stops.
    pub async fn finish(&self) {
        let _stopped = self.actor.cast(JournalMessage::Alive);
        self.flushed().await;
        self.actor.stop(None);
    }

    /// How many facts wait or are being written.
    pub fn queued(&self) -> usize {
        self.status.queued.load(Ordering::Relaxed)
    }

    /// Up to which instant the node is durably known to have been alive.
    pub fn alive_at(&self) -> UnixMillis {
        self.status.alive_at()
    }

    /// Whether the last attempt to write succeeded.
    pub fn is_recording(&self) -> bool {
        self.status.is_recording.load(Ordering::Relaxed)
    }

    /// Whether the run may write no more.
    pub fn is_displaced(&self) -> bool {
        self.status.displaced.borrow().is_some()
    }

    /// Returns when the run may write no more, with the reason.
    pub async fn displaced(&self) -> Displacement {
        let mut displaced = self.status.displaced.subscribe();
        loop {
            if let Some(displacement) = *displaced.borrow_and_update() {
                return displacement;
            }
            // The sender lives in `self`, so that waiting can't fail.
            let _ = displaced.changed().await;
        }
    }
}

/// Reminds the journal to record that the node is alive, until the journal has stopped.
async fn beat(journal: ActorRef<JournalMessage>, timeline: Timeline) {
    // The reading shows a suspension, and that there was none.
    while journal.cast(JournalMessage::Alive).is_ok() {
        tokio::time::sleep(if timeline.is_serving() {
            ALIVE_EVERY
        } else {
            HALTED_EVERY
        })
        .await;
    }
}

/// The actor behind [`Journal`].
struct JournalActor {
    status: Arc<Status>,
}

/// What waits, and what is being written.
struct JournalState {
    arguments: JournalArguments,
    run: NodeRun,
    /// When something was recorded last, by the clock, which never stands still.
    recorded_at: UnixMillis,
    waiting: VecDeque<Entry>,
    is_alive_due: bool,
    is_writing: bool,
    /// When the batch that is being written was begun.
    begun_at: Instant,
    /// Whether time stands still because nothing could be recorded.
    is_outage: bool,
    /// How many batches' worth of things were asked for, and how many of these are done: facts and
    /// alive times, counted alike.
    asked: u64,
    done: u64,
    /// Each is answered once `done` reaches its number.
    barriers: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Actor for JournalActor {
    type Msg = JournalMessage;
    type State = JournalState;
    type Arguments = JournalArguments;

    async fn pre_start(
        &self,
        _: ActorRef<JournalMessage>,
        arguments: JournalArguments,
    ) -> Result<JournalState, ActorProcessingErr> {
        Ok(JournalState {
            run: arguments.timeline.runs().current,
            recorded_at: arguments.timeline.clock().now(),
            arguments,
            waiting: VecDeque::new(),
            is_alive_due: false,
            is_writing: false,
            begun_at: Instant::now(),
            is_outage: false,
            asked: 0,
            done: 0,
            barriers: VecDeque::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<JournalMessage>,
        message: JournalMessage,
        state: &mut JournalState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JournalMessage::Record(entry) => {
                state.asked += 1;
                state.waiting.push_back(entry);
            }
            JournalMessage::Alive => state.beat(),
            JournalMessage::Barrier(reply) => state.barriers.push_back((state.asked, reply)),
            JournalMessage::Written(batch, outcomes) => self.deliver(batch, outcomes, state),
            JournalMessage::Begun(run) => {
                self.status.prove(run.started_at);
                state.go_on(run);
            }
            JournalMessage::Displaced(displacement) => {
                tracing::error!(
                    node = state.run.node.as_str(),
                    "{}",
                    match displacement {
                        Displacement::Superseded => "another process runs under this node name",
                        Displacement::WentBack => "the database lacks what it had acknowledged",
                    }
                );
                // It stays, writes nothing more and answers nobody: what it holds is not known.
                self.status.displaced.send_replace(Some(displacement));
                return Ok(());
            }
        }
        self.write_next(&myself, state);
        Ok(())
    }
}

impl JournalState {
    /// Asks to record that the node is alive; lets time stand still if that has failed for too long.
    fn beat(&mut self) {
        let JournalArguments {
            timeline,
            grace,
            supervisor,
            ..
        } = &self.arguments;
        let unrecorded_for = timeline.clock().now().since(self.recorded_at).to_duration();
        if unrecorded_for > *grace && timeline.is_serving() {
            tracing::warn!("nothing can be recorded: sessions pause, uncharged");
            timeline.halt();
            self.is_outage = true;
            let _stopped = supervisor.cast(SupervisorMessage::TimeChanged);
        }
        if !self.is_alive_due {
            self.asked += 1;
            self.is_alive_due = true;
        }
    }

    /// Lets time go on in `run`.
    fn go_on(&mut self, run: NodeRun) {
        self.arguments.metrics.stands_still(if self.is_outage {
            Standstill::Outage
        } else {
            Standstill::Suspension
        });
        self.is_outage = false;
        self.is_writing = false;
        self.recorded_at = self.arguments.timeline.clock().now();
        self.run = run.clone();
        self.arguments.timeline.resume(run);
        // Only now: whoever reads this may rely on it.
        tracing::info!(
            node = self.run.node.as_str(),
            epoch = self.run.epoch,
            "time goes on in the next run"
        );
        let _stopped = self
            .arguments
            .supervisor
            .cast(SupervisorMessage::TimeChanged);
    }
}

impl JournalActor {
    fn writer(&self, state: &JournalState) -> Writer {
        Writer {
            run: state.run.clone(),
            store: Arc::clone(&state.arguments.store),
            status: Arc::clone(&self.status),
        }
    }

    /// Tells the sessions what became of their facts.
    fn deliver(&self, batch: Batch, outcomes: Vec<FactOutcome>, state: &mut JournalState) {
        state.is_writing = false;
        state.recorded_at = state.arguments.timeline.clock().now();
        state.done += batch.entries.len() as u64 + u64::from(batch.alive_at.is_some());
        self.measure(&batch, state);
        self.status
            .queued
            .fetch_sub(batch.entries.len(), Ordering::Relaxed);
        assert_eq!(
            batch.entries.len(),
            outcomes.len(),
            "each fact of a batch has an outcome"
        );
        for (entry, outcome) in batch.entries.into_iter().zip(outcomes) {
            let told = SessionMessage::Outcome {
                fact: entry.recording.fact,
                outcome,
                stamp: entry.stamp,
            };
            if entry.session.cast(told).is_err() {
                tracing::warn!(
                    user = entry.recording.fact.user().get(),
                    "a session was gone before its fact was recorded"
                );
            }
        }
        while state
            .barriers
            .front()
            .is_some_and(|(asked, _)| *asked <= state.done)
        {
            if let Some((_, reply)) = state.barriers.pop_front() {
                let _gone = reply.send(());
            }
        }
    }

    /// Notes that `batch` is durable now.
    fn measure(&self, batch: &Batch, state: &JournalState) {
        if let Some(alive_at) = batch.alive_at {
            self.status.prove(alive_at);
        }
        if batch.entries.is_empty() {
            return;
        }
        let metrics = &state.arguments.metrics;
        // No batch has more than a thousand.
        let facts = u32::try_from(batch.entries.len()).unwrap_or(u32::MAX);
        metrics.batch_facts.observe(f64::from(facts));
        metrics
            .batch_seconds
            .observe(state.begun_at.elapsed().as_secs_f64());
        for entry in &batch.entries {
            let lag = entry.decided_at.elapsed();
            metrics.settlement_lag.observe(lag.as_secs_f64());
        }
    }

    /// Begins to write what waits, unless a batch is being written.
    fn write_next(&self, myself: &ActorRef<JournalMessage>, state: &mut JournalState) {
        if state.is_writing {
            return;
        }
        if let Some(cut) = state.arguments.timeline.halted_at()
            && state.arguments.watermark.is_clear()
        {
            state.is_writing = true;
            let (writer, arguments) = (self.writer(state), &state.arguments);
            let clock = arguments.timeline.clock().clone();
            let next = writer.begin_next_run(cut, clock, arguments.resume_policy, myself.clone());
            tokio::spawn(next);
            return;
        }
        if state.waiting.is_empty() && !state.is_alive_due {
            // Nothing is asked for that is not done: a barrier put now need not wait.
            state.barriers.drain(..).for_each(|(_, reply)| {
                let _gone = reply.send(());
            });
            return;
        }
        let mut entries = Vec::new();
        let mut next = VecDeque::new();
        let mut users = std::collections::HashSet::new();
        // At most one fact for each user in a batch; what comes second waits for the next one.
        while entries.len() < BATCH_MAX
            && let Some(entry) = state.waiting.pop_front()
        {
            if users.insert(entry.recording.fact.user()) {
                entries.push(entry);
            } else {
                next.push_back(entry);
            }
        }
        next.append(&mut state.waiting);
        state.waiting = next;
        let alive_at = state
            .is_alive_due
            .then(|| state.arguments.watermark.reached());
        state.is_alive_due = false;
        state.is_writing = true;
        state.begun_at = Instant::now();

        let writer = self.writer(state);
        tokio::spawn(writer.write(Batch { entries, alive_at }, myself.clone()));
    }
}

//! The journal: records what sessions decide, in batches.
//!
//! Group commit without a timer: while one batch is being written the next one gathers, so batches
//! grow with the load by themselves. Users are dealt into [lanes](crate::lanes), each with a batch of its
//! own under way. Sessions send it facts and get each fact's outcome back; once a second it also records
//! that the node is alive, up to the instant before which nothing that a caller asked for is unrecorded.
//!
//! While the database is away a batch is repeated until its outcome is known; every fact may be
//! repeated. The journal never drops a fact and never reorders one user's.
//!
//! It owns the node's run. If the database is away for longer than the grace it lets time stand
//! still; and when time stands still, for this reason or because the process was suspended, it begins
//! the next run as soon as everything is recorded that was asked for in the last one.

mod lane;
mod progress;
mod writer;

use std::{
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

use self::{
    lane::{Lane, Numbered},
    progress::Progress,
    writer::Writer,
};
use crate::{
    facts::{FactOutcome, NodeRun, Recording, ResumePolicy},
    lanes::Lanes,
    metrics::{EngineMetrics, Standstill},
    session::SessionMessage,
    store::Store,
    supervisor::SupervisorMessage,
    timeline::Timeline,
    watermark::{Stamp, Watermark},
};

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
    /// It is recorded that the node was alive then; from the task that recorded it.
    KeptAlive(UnixMillis),
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

/// Facts of one lane that are written together.
#[derive(Debug)]
pub struct Batch {
    lane: usize,
    entries: Vec<Numbered>,
    begun_at: Instant,
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

    fn is_displaced(&self) -> bool {
        self.displaced.borrow().is_some()
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
        self.status.is_displaced()
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
    dealing: Lanes,
    lanes: Vec<Lane>,
    /// The numbers of what asks to record that the node is alive: that waits, and that is being done.
    alive_due: Option<u64>,
    alive_under_way: Option<u64>,
    /// When it was recorded last, by the clock, which never stands still.
    alive_recorded_at: UnixMillis,
    /// Whether the next run is being begun.
    is_beginning: bool,
    /// Whether time stands still because nothing could be recorded.
    is_outage: bool,
    progress: Progress,
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
        let dealing = arguments.store.lanes();
        Ok(JournalState {
            run: arguments.timeline.runs().current,
            alive_recorded_at: arguments.timeline.clock().now(),
            arguments,
            dealing,
            lanes: (0..dealing.count()).map(|_| Lane::default()).collect(),
            alive_due: None,
            alive_under_way: None,
            is_beginning: false,
            is_outage: false,
            progress: Progress::default(),
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
                let number = state.progress.ask();
                let lane = state.dealing.of(entry.recording.fact.user());
                state.lanes[lane].push(Numbered { number, entry });
            }
            JournalMessage::Alive => state.beat(),
            JournalMessage::Barrier(reply) => state.progress.wait(reply),
            JournalMessage::Written(batch, outcomes) => self.deliver(batch, outcomes, state),
            JournalMessage::KeptAlive(alive_at) => {
                self.status.prove(alive_at);
                state.alive_recorded_at = state.arguments.timeline.clock().now();
                state
                    .progress
                    .done(state.alive_under_way.take().into_iter());
            }
            JournalMessage::Begun(run) => {
                self.status.prove(run.started_at);
                state.go_on(run);
            }
            // Each lane notices by itself.
            JournalMessage::Displaced(_) if self.status.is_displaced() => {}
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
        // Each lane may be the one that waits.
        let writing_since = self.lanes.iter().filter_map(Lane::writing_since);
        let since = writing_since.fold(self.alive_recorded_at, UnixMillis::min);
        let unrecorded_for = timeline.clock().now().since(since).to_duration();
        if unrecorded_for > *grace && timeline.is_serving() {
            tracing::warn!("nothing can be recorded: sessions pause, uncharged");
            timeline.halt();
            self.is_outage = true;
            let _stopped = supervisor.cast(SupervisorMessage::TimeChanged);
        }
        if self.alive_due.is_none() {
            self.alive_due = Some(self.progress.ask());
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
        self.is_beginning = false;
        self.alive_recorded_at = self.arguments.timeline.clock().now();
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
        state.lanes[batch.lane].end();
        Self::measure(&batch, &state.arguments.metrics);
        self.status
            .queued
            .fetch_sub(batch.entries.len(), Ordering::Relaxed);
        assert_eq!(
            batch.entries.len(),
            outcomes.len(),
            "each fact of a batch has an outcome"
        );
        let numbers: Vec<u64> = batch.entries.iter().map(|entry| entry.number).collect();
        for (Numbered { entry, .. }, outcome) in batch.entries.into_iter().zip(outcomes) {
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
        state.progress.done(numbers.into_iter());
    }

    /// Notes that `batch` is durable now.
    fn measure(batch: &Batch, metrics: &EngineMetrics) {
        // No batch has more than a thousand.
        let facts = u32::try_from(batch.entries.len()).unwrap_or(u32::MAX);
        metrics.batch_facts.observe(f64::from(facts));
        metrics
            .batch_seconds
            .observe(batch.begun_at.elapsed().as_secs_f64());
        for Numbered { entry, .. } in &batch.entries {
            let lag = entry.decided_at.elapsed();
            metrics.settlement_lag.observe(lag.as_secs_f64());
        }
    }

    /// Begins to write what waits, in each lane that writes nothing.
    fn write_next(&self, myself: &ActorRef<JournalMessage>, state: &mut JournalState) {
        if self.status.is_displaced() || state.is_beginning {
            return;
        }
        if let Some(cut) = state.arguments.timeline.halted_at()
            && state.arguments.watermark.is_clear()
        {
            let is_writing = state.alive_under_way.is_some()
                || state
                    .lanes
                    .iter()
                    .any(|lane| lane.writing_since().is_some());
            // What is under way is of the run that is over; then nothing more is.
            if !is_writing {
                state.is_beginning = true;
                let (writer, arguments) = (self.writer(state), &state.arguments);
                let clock = arguments.timeline.clock().clone();
                let policy = arguments.resume_policy;
                tokio::spawn(writer.begin_next_run(cut, clock, policy, myself.clone()));
            }
            return;
        }
        if state.alive_under_way.is_none()
            && let Some(number) = state.alive_due.take()
        {
            state.alive_under_way = Some(number);
            let alive_at = state.arguments.watermark.reached();
            tokio::spawn(self.writer(state).keep_alive(alive_at, myself.clone()));
        }
        let now = state.arguments.timeline.clock().now();
        for lane in 0..state.lanes.len() {
            if let Some(entries) = state.lanes[lane].begin(now) {
                let batch = Batch {
                    lane,
                    entries,
                    begun_at: Instant::now(),
                };
                tokio::spawn(self.writer(state).write(batch, myself.clone()));
            }
        }
    }
}

//! What the engine counts and measures of itself, for whoever watches over it.
//!
//! Names follow Prometheus: base units, `_total` for counters (which the encoder adds). Deliberately
//! absent: where the numbers are served.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use schema::{Credits, session::EndReason};

use crate::{engine::StartError, store::StoreError};

/// One label with its value.
type Label = [(&'static str, &'static str); 1];

/// A gauge of a length of time.
type Seconds = Gauge<f64, AtomicU64>;

/// The engine's metrics. They count from the start of the process.
#[derive(Debug)]
pub struct EngineMetrics {
    session_starts: Family<Label, Counter>,
    session_ends: Family<Label, Counter>,
    credits_charged: Counter,
    /// From a fact's decision to its being durable, in seconds.
    pub(crate) settlement_lag: Histogram,
    pub(crate) batch_facts: Histogram,
    pub(crate) batch_seconds: Histogram,
    standstills: Family<Label, Counter>,
    pub(crate) mirror_up: Gauge,
    pub(crate) mirror_queue: Gauge,
    pub(crate) recovery_seconds: Seconds,
    pub(crate) recovered_sessions: Gauge,
    store_errors: StoreErrors,
    pub(crate) live_sessions: Gauge,
    pub(crate) recording: Gauge,
    pub(crate) alive_lag_seconds: Seconds,
    pub(crate) clock_lead_seconds: Seconds,
    pub(crate) queue_facts: Gauge,
    pub(crate) calls_waiting: Gauge,
    pub(crate) calls_refused: Counter,
}

/// Why time stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standstill {
    /// Nothing could be recorded for too long.
    Outage,
    /// The process was suspended.
    Suspension,
}

/// Failed calls to the database, by kind. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct StoreErrors(Family<Label, Counter>);

impl EngineMetrics {
    /// Nothing counted yet. The store counts its errors itself.
    pub(crate) fn new(store_errors: StoreErrors) -> Self {
        let lengths_of_time = || exponential_buckets(0.000_5, 2.0, 17);
        Self {
            session_starts: Family::default(),
            session_ends: Family::default(),
            credits_charged: Counter::default(),
            settlement_lag: Histogram::new(lengths_of_time()),
            batch_facts: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            batch_seconds: Histogram::new(lengths_of_time()),
            standstills: Family::default(),
            mirror_up: Gauge::default(),
            mirror_queue: Gauge::default(),
            recovery_seconds: Seconds::default(),
            recovered_sessions: Gauge::default(),
            store_errors,
            live_sessions: Gauge::default(),
            recording: Gauge::default(),
            alive_lag_seconds: Seconds::default(),
            clock_lead_seconds: Seconds::default(),
            queue_facts: Gauge::default(),
            calls_waiting: Gauge::default(),
            calls_refused: Counter::default(),
        }
    }

    /// Names them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.begin_at_zero();
        self.register_sessions(registry);
        self.register_recording(registry);
        self.store_errors.register(registry);
    }

    /// Has every label there from the start, so that the first event shows as an increase.
    fn begin_at_zero(&self) {
        for outcome in START_OUTCOMES {
            self.session_starts
                .get_or_create(&[("outcome", outcome)])
                .inc_by(0);
        }
        for reason in EndReason::ALL {
            let label = [("reason", reason.as_str())];
            self.session_ends.get_or_create(&label).inc_by(0);
        }
        for cause in [Standstill::Outage, Standstill::Suspension] {
            self.standstills
                .get_or_create(&[("cause", cause.name())])
                .inc_by(0);
        }
    }

    fn register_sessions(&self, registry: &mut Registry) {
        let mut name = |name, help, metric: &dyn Registered| metric.register(registry, name, help);
        name(
            "live_sessions",
            "Sessions that are live in this process",
            &self.live_sessions,
        );
        name(
            "session_starts",
            "Starts that were asked for, by outcome",
            &self.session_starts,
        );
        name(
            "session_ends",
            "Ends of sessions that became durable, by reason",
            &self.session_ends,
        );
        name(
            "credits_charged",
            "Credits that sessions moved out of wallets",
            &self.credits_charged,
        );
    }

    fn register_recording(&self, registry: &mut Registry) {
        let mut name = |name, help, metric: &dyn Registered| metric.register(registry, name, help);
        name(
            "recording",
            "Whether facts get into the database: 1 if so",
            &self.recording,
        );
        name(
            "alive_lag_seconds",
            "How much served time a crash at this moment would give away",
            &self.alive_lag_seconds,
        );
        name(
            "clock_lead_seconds",
            "How far this node's time is ahead of the wall clock, because that was ahead once",
            &self.clock_lead_seconds,
        );
        name(
            "settlement_lag_seconds",
            "From the decision of a fact, such as a start, an end or a settlement, to its being durable",
            &self.settlement_lag,
        );
        name(
            "journal_batch_facts",
            "Facts in one transaction of the journal",
            &self.batch_facts,
        );
        name(
            "journal_batch_seconds",
            "The time that one transaction of the journal took",
            &self.batch_seconds,
        );
        name(
            "journal_queue_facts",
            "Facts that wait to be durable",
            &self.queue_facts,
        );
        name(
            "standstills",
            "How often sessions paused, uncharged, by cause",
            &self.standstills,
        );
        name(
            "calls_waiting",
            "Calls that wait for the engine",
            &self.calls_waiting,
        );
        name(
            "calls_refused",
            "Calls that were refused because too many waited for the engine",
            &self.calls_refused,
        );
        name(
            "mirror_up",
            "Whether the mirror has a Redis: 1 if so",
            &self.mirror_up,
        );
        name(
            "mirror_queue_users",
            "Users whose state waits to be mirrored",
            &self.mirror_queue,
        );
        name(
            "recovery_seconds",
            "How long it took to take over the sessions at the start",
            &self.recovery_seconds,
        );
        name(
            "recovered_sessions",
            "Sessions that were taken over at the start",
            &self.recovered_sessions,
        );
    }

    /// A start was answered.
    pub(crate) fn started<T>(&self, result: &Result<T, StartError>) {
        let outcome = match result {
            Ok(_) => "started",
            Err(error) => start_error(*error),
        };
        self.session_starts
            .get_or_create(&[("outcome", outcome)])
            .inc();
    }

    /// An end became durable.
    pub(crate) fn ended(&self, reason: EndReason) {
        let label = [("reason", reason.as_str())];
        self.session_ends.get_or_create(&label).inc();
    }

    /// A settlement of so much became durable.
    pub(crate) fn charged(&self, credits: Credits) {
        self.credits_charged.inc_by(credits.get().unsigned_abs());
    }

    /// Time stands still.
    pub(crate) fn stands_still(&self, cause: Standstill) {
        self.standstills
            .get_or_create(&[("cause", cause.name())])
            .inc();
    }
}

impl StoreErrors {
    const KINDS: [&str; 6] = [
        "unavailable",
        "timed_out",
        "outcome_unknown",
        "superseded",
        "refused",
        "other",
    ];

    /// A call failed.
    pub(crate) fn count(&self, error: &StoreError) {
        let kind = match error {
            StoreError::Unavailable(_) => "unavailable",
            StoreError::TimedOut(_) => "timed_out",
            StoreError::OutcomeUnknown(_) => "outcome_unknown",
            StoreError::Superseded => "superseded",
            StoreError::Refused(_) => "refused",
            StoreError::Corrupt(_)
            | StoreError::Incompatible(_)
            | StoreError::WentBack
            | StoreError::Unfit(_)
            | StoreError::Address(_)
            | StoreError::RepeatedKey(_)
            | StoreError::FileGone { .. }
            | StoreError::File { .. } => "other",
        };
        self.0.get_or_create(&[("kind", kind)]).inc();
    }

    fn register(&self, registry: &mut Registry) {
        for kind in Self::KINDS {
            self.0.get_or_create(&[("kind", kind)]).inc_by(0);
        }
        registry.register(
            "store_errors",
            "Failed calls to the database, by kind",
            self.0.clone(),
        );
    }
}

impl Standstill {
    const fn name(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Suspension => "suspension",
        }
    }
}

const START_OUTCOMES: [&str; 8] = [
    "started",
    "insufficient_credits",
    "session_active",
    "too_many_unpaid",
    "key_conflict",
    "user_unknown",
    "unavailable",
    "unknown",
];

const fn start_error(error: StartError) -> &'static str {
    match error {
        StartError::InsufficientCredits => "insufficient_credits",
        StartError::SessionActive => "session_active",
        StartError::TooManyUnpaid { .. } => "too_many_unpaid",
        StartError::KeyConflict => "key_conflict",
        StartError::UserUnknown => "user_unknown",
        StartError::Unavailable => "unavailable",
        StartError::OutcomeUnknown => "unknown",
    }
}

/// A metric that shares its numbers with the registry.
trait Registered {
    fn register(&self, registry: &mut Registry, name: &'static str, help: &'static str);
}

impl<M: prometheus_client::registry::Metric + Clone> Registered for M {
    fn register(&self, registry: &mut Registry, name: &'static str, help: &'static str) {
        registry.register(name, help, self.clone());
    }
}

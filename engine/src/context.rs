//! What every session actor shares.

use std::sync::{Arc, atomic::AtomicUsize};

use billing::{AfterCut, Span};
use ractor::{ActorRef, DerivedActorRef};

use crate::{
    EngineSettings, clock::Clock, facts::NodeRun, ids::SessionIds, journal::Journal,
    metronome::Metronome, mirror::Mirror, store::Store, supervisor::SupervisorMessage,
    update::UserUpdate, watermark::Watermark,
};

/// What every session actor shares: references to its fellow actors, and what doesn't change while
/// the process runs.
pub struct Context {
    /// How the engine runs.
    pub settings: EngineSettings,
    /// The time.
    pub clock: Clock,
    /// The database, for reading wallets; writing is the journal's.
    pub store: Arc<dyn Store>,
    /// The run that this process serves.
    pub run: NodeRun,
    /// The node's earlier runs that its live sessions may have been served by.
    pub earlier_runs: Vec<Span>,
    /// What becomes of the sessions of those runs.
    pub after_cut: AfterCut,
    /// Ids for new sessions.
    pub ids: SessionIds,
    /// Stamps for what callers ask for.
    pub watermark: Watermark,
    /// Records facts.
    pub journal: Journal,
    /// Wakes sessions.
    pub metronome: Metronome,
    /// Shows live state to other systems.
    pub mirror: Option<Mirror>,
    /// Hears what happens to balances.
    pub updates: DerivedActorRef<UserUpdate>,
    /// Routes requests to sessions.
    pub supervisor: ActorRef<SupervisorMessage>,
    /// How many sessions are live.
    pub live_sessions: AtomicUsize,
    /// How many session actors have something to record, or wait for it to be.
    pub busy_sessions: AtomicUsize,
}

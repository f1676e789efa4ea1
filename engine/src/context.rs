//! What every session actor shares.

use std::sync::{Arc, atomic::AtomicUsize};

use ractor::{ActorRef, DerivedActorRef};
use schema::UserId;

use crate::{
    EngineSettings,
    batched::Batched,
    facts::{RecordedBalance, WalletAsked, WalletReading},
    ids::SessionIds,
    journal::Journal,
    metrics::EngineMetrics,
    metronome::Metronome,
    mirror::Mirror,
    store::Store,
    supervisor::SupervisorMessage,
    timeline::Timeline,
    update::UserUpdate,
    watermark::Watermark,
};

/// Reads wallets with their unpaid sessions of the last hour; nothing for a user who isn't there.
pub type Wallets = Batched<WalletAsked, Option<WalletReading>>;

/// Reads the balances in the ledger of users without a live session; `None` for a user who doesn't
/// exist.
pub type Balances = Batched<UserId, Option<RecordedBalance>>;

/// What every session actor shares: references to its fellow actors, and what doesn't change while
/// the process runs.
pub struct Context {
    /// How the engine runs.
    pub settings: EngineSettings,
    /// The time, and the runs that this process serves.
    pub timeline: Timeline,
    /// The database; writing is the journal's.
    pub store: Arc<dyn Store>,
    /// Reads wallets, many at a time.
    pub wallets: Wallets,
    /// Reads balances, many at a time.
    pub balances: Balances,
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
    /// What is counted and measured.
    pub metrics: Arc<EngineMetrics>,
    /// How many sessions are live.
    pub live_sessions: AtomicUsize,
    /// How many session actors have something to record, or wait for it to be.
    pub busy_sessions: AtomicUsize,
}

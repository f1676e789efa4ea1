//! An engine on a store in memory, and all that it says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use billing::{ChargedAt, Tariff};
use engine::{
    Clock, Engine, EngineSettings,
    engine::{StopError, Stopped},
    facts::{NodeName, ResumePolicy},
    retention::RetentionSettings,
    store::{AdjustError, Adjusted, Adjustment, Shortfall, Store},
    update::{News, UserUpdate},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::{
    Credits, CreditsChange, Millis, UnixMillis, UserId, ledger::EntryKind, session::EndReason,
    websocket::ServerMessage,
};

use super::memory::MemoryStore;

/// The instant at which every test begins, in ms since 1970.
pub const BEGIN: i64 = 1_700_000_000_000;

/// Keeps all updates.
struct Ear;

type Heard = Arc<Mutex<Vec<UserUpdate>>>;

impl Actor for Ear {
    type Msg = UserUpdate;
    type State = Heard;
    type Arguments = Heard;

    async fn pre_start(
        &self,
        _: ActorRef<UserUpdate>,
        heard: Heard,
    ) -> Result<Heard, ActorProcessingErr> {
        Ok(heard)
    }

    async fn handle(
        &self,
        _: ActorRef<UserUpdate>,
        update: UserUpdate,
        heard: &mut Heard,
    ) -> Result<(), ActorProcessingErr> {
        heard.lock().unwrap().push(update);
        Ok(())
    }
}

/// An engine on a store in memory.
pub struct World {
    pub store: Arc<MemoryStore>,
    pub engine: Engine,
    heard: Heard,
}

impl World {
    /// On an empty store, with the clock at [`BEGIN`].
    pub async fn begin() -> Self {
        Self::begin_on(
            Arc::new(MemoryStore::default()),
            Clock::start_at(ms(BEGIN)),
            settings(),
        )
        .await
    }

    /// On a store and a clock that may have seen another engine.
    pub async fn begin_on(store: Arc<MemoryStore>, clock: Clock, settings: EngineSettings) -> Self {
        let heard = Heard::default();
        let (ear, _) = Ear::spawn(None, Ear, Arc::clone(&heard)).await.unwrap();
        let engine = Engine::start(
            settings,
            Arc::clone(&store) as Arc<dyn Store>,
            clock,
            ear.get_derived(),
        );
        Self {
            engine: engine.await.unwrap(),
            store,
            heard,
        }
    }

    pub async fn stop(&self, user: UserId) -> Result<Stopped, StopError> {
        self.engine.stop_session(user, EndReason::User, None).await
    }

    /// The balances that were told, each with its time since the beginning.
    pub fn balances(&self) -> Vec<(i64, i64)> {
        let heard = self.heard.lock().unwrap();
        let balances = heard.iter().filter_map(|update| match &update.news {
            News::Balance(balance) => Some((balance.as_of.get() - BEGIN, balance.credits.get())),
            News::Event(_) => None,
        });
        balances.collect()
    }

    /// When the credits were told to run out, in the order of telling.
    pub fn told_depletions(&self) -> Vec<Option<UnixMillis>> {
        let heard = self.heard.lock().unwrap();
        let sessions = heard.iter().filter_map(|update| match &update.news {
            News::Balance(balance) => balance.session,
            News::Event(_) => None,
        });
        let mut told: Vec<_> = sessions.map(|session| session.depletes_at).collect();
        told.dedup();
        told
    }

    pub fn events(&self) -> Vec<ServerMessage> {
        let heard = self.heard.lock().unwrap();
        let events = heard.iter().filter_map(|update| match &update.news {
            News::Event(event) => Some(event.clone()),
            News::Balance(_) => None,
        });
        events.collect()
    }

    pub async fn grant(&self, user: UserId, credits: i64) {
        let amount = CreditsChange::incoming(Credits::new(credits).unwrap());
        self.adjust(user, EntryKind::Grant, amount).await.unwrap();
    }

    pub async fn revoke(&self, user: UserId, credits: i64) -> Result<Adjusted, AdjustError> {
        let amount = CreditsChange::outgoing(Credits::new(credits).unwrap());
        self.adjust(user, EntryKind::Revoke, amount).await
    }

    async fn adjust(
        &self,
        user: UserId,
        kind: EntryKind,
        amount: CreditsChange,
    ) -> Result<Adjusted, AdjustError> {
        let adjustment = Adjustment {
            user,
            kind,
            amount,
            session: None,
            shortfall: Shortfall::Refuse,
            at: self.engine.clock().now(),
            reason: "for the test".to_owned(),
            operator: "test".to_owned(),
            idempotency_key: format!("{} of {}", kind.as_str(), amount.get()),
        };
        self.store.adjust(adjustment).await
    }
}

pub fn ms(millis: i64) -> UnixMillis {
    UnixMillis::new(millis).unwrap()
}

pub fn settings() -> EngineSettings {
    let millis = |millis| Millis::new(millis).unwrap();
    EngineSettings {
        node: NodeName::new("test").unwrap(),
        tariff: Tariff::new(Credits::new(1).unwrap(), millis(6_000), ChargedAt::End).unwrap(),
        settle_every: millis(900_000),
        low_balance: millis(60_000),
        resume: ResumePolicy::Within(millis(600_000)),
        outage_grace: Duration::from_mins(1),
        call_timeout: Duration::from_secs(5),
        calls_max: 1_000,
        unpaid_sessions_per_hour_max: 60,
        retention: RetentionSettings::default(),
        redis_url: None,
    }
}

pub async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

//! The mirror: shows live state to other systems through Redis, in batches.
//!
//! Values are absolute and versioned, so that any of them may be written twice, late or never. One
//! user's values replace each other while they wait. When Redis fails, billing goes on untouched;
//! once it is back every session shows its state anew, and what Redis kept from before is corrected
//! ([`sweep`]). Nothing is ever decided from what Redis says, but what to correct there.
//!
//! It begins only when a recovery is over, as if Redis had been away until then: nobody waits for it, and
//! its values took a quarter of the time. (A million sessions on Postgres: ready after 24 s, now 16 s.)

mod address;
mod sweep;
mod trouble;

use std::{collections::HashMap, sync::Arc, time::Duration};

use billing::WalletVersion;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, KeysInterface},
    prelude::Config,
    types::{Builder, Expiration},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr};
use schema::{
    UserId,
    mirror::{MirroredSession, key},
    session::LiveBalance,
};
use tokio::time::Instant;

use crate::{metrics::EngineMetrics, store::Store, supervisor::SupervisorMessage};
pub use address::{InvalidRedisUrl, NoTls, RedisUrl};
use trouble::Trouble;

/// How many values one round trip takes at most.
const BATCH_MAX: usize = 1_000;
/// How long values gather after the batch before, unless they are enough for one. What Redis shows is that
/// much older, and a batch of a few costs nearly as much as one of a hundred.
const GATHER: Duration = Duration::from_millis(10);
/// How long Redis may take over one batch.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often Redis is asked whether it is still there, when there is nothing to write.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The wait before a lost Redis is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the mirror is told.
pub enum MirrorMessage {
    /// Find Redis, and show from now on; from the engine.
    Begin,
    /// Show this; from a session.
    Put(UserId, MirroredSession),
    /// Show nothing any more of this user; from a session, and from whoever knows that the user was erased.
    Forget(UserId),
    /// The batch that was on its way is through, or not; from the task that wrote it.
    Flushed(Result<Client, Error>),
    /// Values have gathered for long enough; from the mirror's own timer.
    Gathered,
    /// Redis has been asked for again; from the task that did.
    Connected(Result<Client, Error>),
    /// See whether Redis is still there; from the mirror's own interval.
    Ping,
}

/// What the mirror starts with.
pub struct MirrorArguments {
    /// Where Redis is, for people.
    pub redis: RedisUrl,
    /// Where Redis is, for the library.
    pub config: Config,
    /// For how long a value stays if nobody renews it, in seconds.
    pub ttl_seconds: i64,
    /// Where the truth is, for what Redis shows of users without a session here.
    pub store: Arc<dyn Store>,
    /// Whom to ask for everybody's state when Redis is back.
    pub supervisor: ActorRef<SupervisorMessage>,
    /// Where it shows how it is.
    pub metrics: Arc<EngineMetrics>,
}

/// A handle to the mirror. Clones are the same mirror.
#[derive(Clone)]
pub struct Mirror {
    actor: ActorRef<MirrorMessage>,
}

impl Mirror {
    /// Starts the mirror, which shows nothing before it is to [begin](Self::begin).
    pub async fn start(arguments: MirrorArguments) -> Result<Self, SpawnErr> {
        let (actor, _) = MirrorActor::spawn(None, MirrorActor, arguments).await?;
        Ok(Self { actor })
    }

    /// Has it find Redis, which need not be there yet, and then ask every session for its state.
    pub fn begin(&self) {
        // The mirror is gone only when the process is going.
        let _stopped = self.actor.cast(MirrorMessage::Begin);
    }

    /// Shows the user's state.
    pub fn put(&self, user: UserId, version: WalletVersion, balance: LiveBalance) {
        let LiveBalance {
            credits,
            as_of,
            session,
        } = balance;
        let value = MirroredSession {
            version: version.get(),
            as_of,
            credits,
            active: session.is_some(),
            session,
        };
        // The mirror is gone only when the process is going.
        let _stopped = self.actor.cast(MirrorMessage::Put(user, value));
    }

    /// Shows nothing of the user any more.
    pub fn forget(&self, user: UserId) {
        // The mirror is gone only when the process is going.
        let _stopped = self.actor.cast(MirrorMessage::Forget(user));
    }

    /// Writes what waits and stops; gives up after a moment.
    pub async fn finish(&self) {
        let _late = self.actor.drain_and_wait(Some(CALL_TIMEOUT)).await;
    }
}

/// The actor behind [`Mirror`].
struct MirrorActor;

/// Where Redis is.
enum Link {
    /// Not there; it is being asked for, or will be.
    Lost,
    /// There, and idle.
    Idle(Client),
    /// There, and a batch is on its way to it.
    Writing,
}

/// The newest value of each user that is to be shown, if anything is, and the link to Redis.
struct MirrorState {
    arguments: Arc<MirrorArguments>,
    waiting: HashMap<UserId, Option<MirroredSession>>,
    link: Link,
    /// When the last batch was sent.
    sent_at: Option<Instant>,
    /// Whether the timer runs.
    is_gathering: bool,
    trouble: Trouble,
}

impl Actor for MirrorActor {
    type Msg = MirrorMessage;
    type State = MirrorState;
    type Arguments = MirrorArguments;

    async fn pre_start(
        &self,
        _: ActorRef<MirrorMessage>,
        arguments: MirrorArguments,
    ) -> Result<MirrorState, ActorProcessingErr> {
        Ok(MirrorState {
            arguments: Arc::new(arguments),
            waiting: HashMap::new(),
            link: Link::Lost,
            sent_at: None,
            is_gathering: false,
            trouble: Trouble::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<MirrorMessage>,
        message: MirrorMessage,
        state: &mut MirrorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            MirrorMessage::Begin => {
                let arguments = Arc::clone(&state.arguments);
                tokio::spawn(connect(arguments, myself.clone(), Duration::ZERO));
                tokio::spawn(beat(myself.clone()));
            }
            // Without Redis there is nothing to keep: everybody is asked anew when it is back.
            MirrorMessage::Put(..) | MirrorMessage::Forget(_)
                if matches!(state.link, Link::Lost) => {}
            MirrorMessage::Put(user, value) => {
                state.waiting.insert(user, Some(value));
                state.flush(&myself);
            }
            MirrorMessage::Forget(user) => {
                state.waiting.insert(user, None);
                state.flush(&myself);
            }
            MirrorMessage::Flushed(Ok(client)) => {
                state.link = Link::Idle(client);
                state.works();
                state.flush(&myself);
            }
            MirrorMessage::Gathered => {
                state.is_gathering = false;
                state.flush(&myself);
            }
            MirrorMessage::Connected(Ok(client)) => state.found(&myself, client),
            MirrorMessage::Flushed(Err(error)) => {
                state.lost(&myself, &error, "the mirror lost Redis; billing goes on");
            }
            MirrorMessage::Connected(Err(error)) => {
                let told = "the mirror can't reach Redis; billing goes on, and it is tried again every second";
                state.lost(&myself, &error, told);
            }
            MirrorMessage::Ping => state.ping(&myself),
        }
        // No process has more users than an i64 can count.
        let waiting = i64::try_from(state.waiting.len()).unwrap_or(i64::MAX);
        state.arguments.metrics.mirror_queue.set(waiting);
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<MirrorMessage>,
        state: &mut MirrorState,
    ) -> Result<(), ActorProcessingErr> {
        if let Link::Idle(client) = std::mem::replace(&mut state.link, Link::Lost)
            && !state.waiting.is_empty()
        {
            let batch = std::mem::take(&mut state.waiting).into_iter().collect();
            write(&client, batch, state.arguments.ttl_seconds).await?;
        }
        Ok(())
    }
}

impl Link {
    /// The client of an idle Redis, which is busy from now on.
    fn take_idle(&mut self) -> Option<Client> {
        match std::mem::replace(self, Self::Writing) {
            Self::Idle(client) => Some(client),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl MirrorState {
    /// Begins to write what waits, if Redis is idle and enough has gathered.
    fn flush(&mut self, myself: &ActorRef<MirrorMessage>) {
        if self.waiting.is_empty() {
            return;
        }
        let since_sent = self.sent_at.map_or(GATHER, |sent_at| sent_at.elapsed());
        let left = GATHER.saturating_sub(since_sent);
        if !left.is_zero() && self.waiting.len() < BATCH_MAX {
            if !std::mem::replace(&mut self.is_gathering, true) {
                myself.send_after(left, || MirrorMessage::Gathered);
            }
            return;
        }
        let Some(client) = self.link.take_idle() else {
            return;
        };
        self.sent_at = Some(Instant::now());
        let users: Vec<UserId> = self.waiting.keys().copied().take(BATCH_MAX).collect();
        let batch = users
            .iter()
            .filter_map(|user| self.waiting.remove_entry(user))
            .collect();
        let (myself, ttl_seconds) = (myself.clone(), self.arguments.ttl_seconds);
        tokio::spawn(async move {
            let result = write(&client, batch, ttl_seconds).await;
            let _stopped = myself.cast(MirrorMessage::Flushed(result.map(|()| client)));
        });
    }

    /// Asks an idle Redis whether it is there: a connection can be dead and not know it.
    fn ping(&mut self, myself: &ActorRef<MirrorMessage>) {
        let Some(client) = self.link.take_idle() else {
            return;
        };
        let myself = myself.clone();
        tokio::spawn(async move {
            let result = client.ping::<()>(None).await;
            let _stopped = myself.cast(MirrorMessage::Flushed(result.map(|()| client)));
        });
    }

    /// Redis takes connections: has everybody show their state, and what is left from before corrected.
    fn found(&mut self, myself: &ActorRef<MirrorMessage>, client: Client) {
        tokio::spawn(sweep::run(client.clone(), Arc::clone(&self.arguments)));
        self.link = Link::Idle(client);
        let _stopped = self.arguments.supervisor.cast(SupervisorMessage::Mirror);
        // Whether it does what it is told shows when it was told something.
        self.ping(myself);
    }

    /// Redis did what it was told.
    fn works(&mut self) {
        if self.arguments.metrics.mirror_up.set(1) == 1 {
            return;
        }
        let redis = &self.arguments.redis;
        match self.trouble.end(Instant::now()) {
            Some(away) => {
                let away_s = away.as_secs();
                tracing::info!(%redis, away_s, "the mirror has Redis back");
            }
            None if !self.trouble.was_ever_told() => {
                tracing::info!(%redis, "the mirror is connected to Redis");
            }
            None => {}
        }
    }

    /// Forgets what waits and asks for Redis again, with a new client.
    fn lost(&mut self, myself: &ActorRef<MirrorMessage>, error: &Error, told: &str) {
        if self.trouble.meet(&error.to_string(), Instant::now()) {
            let redis = &self.arguments.redis;
            tracing::warn!(%redis, error = error as &dyn std::error::Error, "{told}");
        }
        self.link = Link::Lost;
        self.arguments.metrics.mirror_up.set(0);
        self.waiting = HashMap::new();
        tokio::spawn(connect(
            Arc::clone(&self.arguments),
            myself.clone(),
            RETRY_AFTER,
        ));
    }
}

/// Writes a batch in one round trip.
async fn write(
    client: &Client,
    batch: Vec<(UserId, Option<MirroredSession>)>,
    ttl_seconds: i64,
) -> Result<(), Error> {
    let pipeline = client.pipeline();
    for (user, value) in batch {
        let Some(value) = value else {
            pipeline.del::<(), _>(key(user)).await?;
            continue;
        };
        let json = serde_json::to_string(&value)
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?;
        let expiration = Some(Expiration::EX(ttl_seconds));
        pipeline
            .set::<(), _, _>(key(user), json, expiration, None, false)
            .await?;
    }
    pipeline.all::<()>().await
}

/// Connects anew after `wait`.
async fn connect(arguments: Arc<MirrorArguments>, mirror: ActorRef<MirrorMessage>, wait: Duration) {
    tokio::time::sleep(wait).await;
    let result = connected(&arguments).await;
    let _stopped = mirror.cast(MirrorMessage::Connected(result));
}

async fn connected(arguments: &MirrorArguments) -> Result<Client, Error> {
    let client = Builder::from_config(arguments.config.clone())
        .with_performance_config(|config| config.default_command_timeout = CALL_TIMEOUT)
        .with_connection_config(|config| {
            config.connection_timeout = CALL_TIMEOUT;
            config.internal_command_timeout = CALL_TIMEOUT;
            config.max_command_attempts = 1;
            config.max_command_buffer_len = 2 * BATCH_MAX;
        })
        .build()?;
    // No reconnect policy: a client that lost its connection is given up, never replayed.
    client.init().await?;
    Ok(client)
}

/// Reminds the mirror to look after its link, until it has stopped.
async fn beat(mirror: ActorRef<MirrorMessage>) {
    let mut interval = tokio::time::interval(PING_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if mirror.cast(MirrorMessage::Ping).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_redis_stays_lost_until_it_is_back() {
        let mut link = Link::Lost;
        assert!(link.take_idle().is_none());
        // Else everything that comes meanwhile would be kept.
        assert!(matches!(link, Link::Lost));
    }
}

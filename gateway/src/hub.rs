//! The hub: knows which sockets each user has open, and passes the engine's news to them.
//!
//! The engine casts it [`UserUpdate`]s, routes and sockets send it the other messages. It watches a
//! user at the engine from the user's first socket to the last. It never waits for a socket: what a
//! socket gets goes into its outbox. It never touches the database.
//!
//! It numbers the events of each user, and keeps the latest for a while, also after the user's last
//! socket has gone: so a client that comes back gets what it missed, or learns that it can't.

mod stream;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use engine::{
    Engine,
    store::TokenStanding,
    update::{News, UserUpdate},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use schema::{
    UserId,
    websocket::{CloseCode, StreamPosition},
};
use tokio::time::Instant;

use self::stream::{Seat, UserStream};
use crate::{
    access::is_valid,
    epochs::Epochs,
    key_ring::KeyId,
    outbox::{Closing, Outbox},
    tokens::Bearer,
};

/// Over how long at most the closing of all sockets is spread.
const SPREAD_MAX: Duration = Duration::from_secs(2);

/// How often streams are looked at that nobody listens to any more.
const FORGET_EVERY: Duration = Duration::from_secs(5);

/// How many streams are kept that nobody listens to. Past it the oldest go.
const DEPARTED_MAX: usize = 100_000;

/// What the hub can be told.
pub enum HubMessage {
    /// The engine runs: users can be watched from now on.
    EngineStarted(Engine),
    /// The engine's news for a user.
    Update(UserUpdate),
    /// A socket wants to be told the news of its user.
    Join(Join, RpcReplyPort<Result<Joined, JoinRefused>>),
    /// A socket is gone.
    Leave {
        /// Whose.
        user: UserId,
        /// Its seat.
        seat: SeatNumber,
    },
    /// Somebody wrote to a user: the sockets of tokens that are not valid any more close.
    TokensChanged {
        /// Whose.
        user: UserId,
        /// Which tokens are valid; nothing if there is no such user.
        standing: Option<Arc<TokenStanding>>,
    },
    /// Keys were retired: the sockets of tokens that others than these made close.
    CloseOtherKeys {
        /// The keys that are left.
        keys: Vec<KeyId>,
    },
    /// Forget what nobody will ask for any more; from the hub's own interval.
    Forget,
    /// The program is about to end: all sockets close, and no more come.
    CloseAll,
}

/// A socket that wants to be told.
pub struct Join {
    /// Whose socket it is, and by which token.
    pub bearer: Bearer,
    /// Where the news go.
    pub outbox: Arc<Outbox>,
    /// Where the client was when it was last here, if it says so.
    pub since: Option<StreamPosition>,
}

/// A socket's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its seat.
    pub seat: SeatNumber,
    /// The position before the first event that the outbox gets.
    pub position: StreamPosition,
    /// How many events the client missed and gets now; nothing if that is not known, or not all of
    /// them are there any more.
    pub missed: Option<u64>,
}

/// Tells a user's sockets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatNumber(u64);

/// Why a socket can't join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// The user has too many.
    TooMany,
    /// The program is about to end.
    Draining,
}

impl From<UserUpdate> for HubMessage {
    fn from(update: UserUpdate) -> Self {
        Self::Update(update)
    }
}

/// Gives back an update that could not be sent.
impl TryFrom<HubMessage> for UserUpdate {
    type Error = HubMessage;

    fn try_from(message: HubMessage) -> Result<Self, HubMessage> {
        match message {
            HubMessage::Update(update) => Ok(update),
            other => Err(other),
        }
    }
}

/// The actor.
pub struct Hub;

/// What the hub is started with.
pub struct HubArguments {
    /// What makes the streams' epochs.
    pub epochs: Epochs,
    /// How many sockets a user may have.
    pub per_user_max: usize,
    /// How many events of a user are kept.
    pub replay_events_max: usize,
    /// How long they are kept.
    pub replay_for: Duration,
}

/// What the hub knows.
pub struct HubState {
    arguments: HubArguments,
    engine: Option<Engine>,
    /// Boxed, since a map has room for up to twice as many as it holds.
    users: HashMap<UserId, Box<UserStream>>,
    /// Users whose last socket has gone, with when it did, the earliest first.
    departed: VecDeque<(Instant, UserId)>,
    /// Users of whom events are kept, with when the first of them happened, about in that order.
    remembered: VecDeque<(Instant, UserId)>,
    seats_given: u64,
    is_draining: bool,
}

impl Actor for Hub {
    type Msg = HubMessage;
    type State = HubState;
    type Arguments = HubArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<HubMessage>,
        arguments: HubArguments,
    ) -> Result<HubState, ActorProcessingErr> {
        // It ends with the actor.
        let _interval = myself.send_interval(FORGET_EVERY, || HubMessage::Forget);
        Ok(HubState::new(arguments))
    }

    async fn handle(
        &self,
        _myself: ActorRef<HubMessage>,
        message: HubMessage,
        state: &mut HubState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HubMessage::EngineStarted(engine) => state.engine = Some(engine),
            HubMessage::Update(update) => state.pass_on(update),
            HubMessage::Join(join, reply) => {
                let user = join.bearer.user;
                let joined = state.join(join);
                // A socket that went away before it got its seat gives it back at once.
                if let (Ok(joined), Err(_)) = (joined, reply.send(joined)) {
                    state.leave(user, joined.seat);
                }
            }
            HubMessage::Leave { user, seat } => state.leave(user, seat),
            HubMessage::TokensChanged { user, standing } => {
                if let Some(stream) = state.users.get(&user) {
                    close_where(&stream.seats, |seat| {
                        !standing
                            .as_ref()
                            .is_some_and(|standing| is_valid(&seat.bearer, standing))
                    });
                }
            }
            HubMessage::CloseOtherKeys { keys } => {
                for stream in state.users.values() {
                    close_where(&stream.seats, |seat| !keys.contains(&seat.bearer.key));
                }
            }
            HubMessage::Forget => state.forget(),
            HubMessage::CloseAll => state.close_all(),
        }
        Ok(())
    }
}

impl HubState {
    fn new(arguments: HubArguments) -> Self {
        Self {
            arguments,
            engine: None,
            users: HashMap::new(),
            departed: VecDeque::new(),
            remembered: VecDeque::new(),
            seats_given: 0,
            is_draining: false,
        }
    }

    fn pass_on(&mut self, update: UserUpdate) {
        // The events of a user whom nobody listens to need no number: a client that comes later
        // finds another epoch.
        let Some(stream) = self.users.get_mut(&update.user) else {
            return;
        };
        match update.news {
            News::Balance(balance) => stream.tell_balance(balance),
            News::Event(event) => {
                let were_kept = stream.oldest_kept().is_some();
                stream.tell_event(event, &self.arguments);
                if let Some(at) = stream.oldest_kept().filter(|_| !were_kept) {
                    self.remembered.push_back((at, update.user));
                }
            }
        }
    }

    fn join(&mut self, join: Join) -> Result<Joined, JoinRefused> {
        if self.is_draining {
            return Err(JoinRefused::Draining);
        }
        let user = join.bearer.user;
        let stream = self
            .users
            .entry(user)
            .or_insert_with(|| Box::new(UserStream::begin(self.arguments.epochs.begin(user))));
        if stream.seats.len() >= self.arguments.per_user_max {
            return Err(JoinRefused::TooMany);
        }
        self.seats_given += 1;
        let number = SeatNumber(self.seats_given);
        let joined = stream.join(number, join, &self.arguments);
        if stream.seats.len() == 1
            && let Some(engine) = &self.engine
        {
            engine.watch(user);
        }
        Ok(joined)
    }

    fn leave(&mut self, user: UserId, number: SeatNumber) {
        let Some(stream) = self.users.get_mut(&user) else {
            return;
        };
        let before = stream.seats.len();
        stream.seats.retain(|seat| seat.number != number);
        if !stream.seats.is_empty() || before == 0 {
            return;
        }
        let now = Instant::now();
        stream.left_at = Some(now);
        self.departed.push_back((now, user));
        if let Some(engine) = &self.engine {
            engine.unwatch(user);
        }
        if self.departed.len() > DEPARTED_MAX {
            self.forget_first();
        }
    }

    /// Forgets the streams whose last listener left so long ago that none comes back to them.
    fn forget(&mut self) {
        let kept_for = self.arguments.replay_for;
        while self
            .departed
            .front()
            .is_some_and(|(left_at, _)| left_at.elapsed() >= kept_for)
        {
            self.forget_first();
        }
        self.forget_events();
        // After a crowd the memory comes back.
        if self.departed.is_empty() {
            self.departed = VecDeque::new();
        }
        if self.users.capacity() > 4 * self.users.len() + 1_024 {
            self.users.shrink_to_fit();
        }
    }

    /// Forgets events that are too old, also of users to whom nothing happens any more.
    fn forget_events(&mut self) {
        let kept_for = self.arguments.replay_for;
        while let Some((at, user)) = self
            .remembered
            .pop_front_if(|(at, _)| at.elapsed() > kept_for)
        {
            let Some(stream) = self.users.get_mut(&user) else {
                continue;
            };
            stream.forget(&self.arguments);
            // Where several entries are of one user, one goes on.
            if let Some(oldest) = stream.oldest_kept().filter(|oldest| *oldest > at) {
                self.remembered.push_back((oldest, user));
            }
        }
        if self.remembered.is_empty() {
            self.remembered = VecDeque::new();
        }
    }

    fn forget_first(&mut self) {
        let Some((left_at, user)) = self.departed.pop_front() else {
            return;
        };
        let is_over =
            |stream: &UserStream| stream.seats.is_empty() && stream.left_at == Some(left_at);
        if self.users.get(&user).is_some_and(|stream| is_over(stream)) {
            self.users.remove(&user);
        }
    }

    /// Each socket closes at a moment of its own, so that not all come back in the same one.
    fn close_all(&mut self) {
        self.is_draining = true;
        let seats = || self.users.values().flat_map(|stream| &stream.seats);
        let spread = Duration::from_millis(seats().count() as u64).min(SPREAD_MAX);
        for seat in seats() {
            let after = spread.mul_f64(rand::random());
            seat.outbox.close(Closing {
                code: CloseCode::GoingAway,
                reason: "Going away",
                after,
            });
        }
    }
}

/// Closes the sockets whose tokens are void.
fn close_where(seats: &[Seat], is_meant: impl Fn(&Seat) -> bool) {
    for seat in seats.iter().filter(|seat| is_meant(seat)) {
        seat.outbox
            .close(Closing::now(CloseCode::NotAllowed, "Invalid token"));
    }
}

#[cfg(test)]
mod tests {
    use engine::store::TokenGeneration;
    use schema::{Credits, UnixMillis, websocket::ServerMessage};

    use super::*;
    use crate::{key_ring::KeyRing, tokens::TokenId};

    const REPLAY_FOR: Duration = Duration::from_mins(2);

    fn hub() -> HubState {
        HubState::new(HubArguments {
            epochs: Epochs::new(KeyRing::generate().unwrap()),
            per_user_max: 1,
            replay_events_max: 32,
            replay_for: REPLAY_FOR,
        })
    }

    fn join(hub: &mut HubState, user: UserId) -> SeatNumber {
        let bearer = Bearer {
            user,
            token: TokenId::parse(&"0".repeat(32)).unwrap(),
            account: None,
            generation: TokenGeneration::default(),
            issued_at: UnixMillis::EPOCH,
            expires_at: UnixMillis::MAX,
            key: KeyId::new("some"),
        };
        let outbox = Arc::new(Outbox::new(64));
        let join = Join {
            bearer,
            outbox,
            since: None,
        };
        hub.join(join).unwrap().seat
    }

    fn tell(hub: &mut HubState, user: UserId) {
        let amount = Credits::new(1).unwrap();
        let event = ServerMessage::CreditsAdded {
            amount,
            credits: amount,
        };
        hub.pass_on(UserUpdate {
            user,
            news: News::Event(event),
        });
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_forgotten_also_where_nothing_happens_any_more() {
        let mut hub = hub();
        let user = UserId::new(1).unwrap();
        join(&mut hub, user);
        let first = Instant::now();
        tell(&mut hub, user);
        tokio::time::advance(REPLAY_FOR / 2).await;
        let second = Instant::now();
        tell(&mut hub, user);
        let second_is_kept = Some(second);
        for (after, kept) in [
            (REPLAY_FOR / 2, Some(first)),
            (FORGET_EVERY, second_is_kept),
            (REPLAY_FOR / 2, None),
        ] {
            tokio::time::advance(after).await;
            hub.forget();
            assert_eq!(hub.users[&user].oldest_kept(), kept);
        }
        assert!(hub.remembered.is_empty());
        assert_eq!(hub.users.len(), 1, "the user is still there");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_nobody_comes_back_to_are_forgotten_with_the_room_they_took() {
        let mut hub = hub();
        let users: Vec<_> = (1..=5_000).map(|id| UserId::new(id).unwrap()).collect();
        for user in &users {
            let seat = join(&mut hub, *user);
            tell(&mut hub, *user);
            hub.leave(*user, seat);
        }
        hub.forget();
        assert_eq!(hub.users.len(), users.len(), "some may come back");
        tokio::time::advance(REPLAY_FOR + FORGET_EVERY).await;
        hub.forget();
        assert!(hub.users.is_empty() && hub.departed.is_empty() && hub.remembered.is_empty());
        assert!(hub.users.capacity() < 1_000);
    }
}

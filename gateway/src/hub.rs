//! The hub: knows which websockets each user has open, and passes the engine's news to them.
//!
//! The engine casts it [`UserUpdate`]s, routes and sockets send it the other messages. It watches a
//! user at the engine from the user's first socket to the last. It never waits for a socket: what a
//! socket gets goes into its outbox. It never touches the database.

use std::{collections::HashMap, sync::Arc, time::Duration};

use engine::{
    Engine,
    store::TokenStanding,
    update::{News, UserUpdate},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use schema::{UserId, websocket::CloseCode};

use crate::{
    access::is_valid,
    key_ring::KeyId,
    outbox::{Closing, Outbox},
    tokens::Bearer,
};

/// Over how long at most the closing of all sockets is spread.
const SPREAD_MAX: Duration = Duration::from_secs(2);

/// What the hub can be told.
pub enum HubMessage {
    /// The engine runs: users can be watched from now on.
    EngineStarted(Engine),
    /// The engine's news for a user.
    Update(UserUpdate),
    /// A socket wants to be told the news of its user.
    Join {
        /// Whose socket it is, and by which token.
        bearer: Bearer,
        /// Where the news go.
        outbox: Arc<Outbox>,
        /// Gets the socket's seat.
        reply: RpcReplyPort<Result<SeatNumber, JoinRefused>>,
    },
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
    /// The program is about to end: all sockets close, and no more come.
    CloseAll,
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
#[derive(Clone, Copy, Debug)]
pub struct HubArguments {
    /// How many sockets a user may have.
    pub per_user_max: usize,
}

/// What the hub knows.
pub struct HubState {
    per_user_max: usize,
    engine: Option<Engine>,
    users: HashMap<UserId, Vec<Seat>>,
    seats_given: u64,
    is_draining: bool,
}

/// A socket's place.
struct Seat {
    number: SeatNumber,
    bearer: Bearer,
    outbox: Arc<Outbox>,
}

impl Actor for Hub {
    type Msg = HubMessage;
    type State = HubState;
    type Arguments = HubArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<HubMessage>,
        arguments: HubArguments,
    ) -> Result<HubState, ActorProcessingErr> {
        Ok(HubState {
            per_user_max: arguments.per_user_max,
            engine: None,
            users: HashMap::new(),
            seats_given: 0,
            is_draining: false,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<HubMessage>,
        message: HubMessage,
        state: &mut HubState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HubMessage::EngineStarted(engine) => state.engine = Some(engine),
            HubMessage::Update(update) => state.pass_on(&update),
            HubMessage::Join {
                bearer,
                outbox,
                reply,
            } => {
                let user = bearer.user;
                let joined = state.join(bearer, outbox);
                // A socket that went away before it got its seat gives it back at once.
                if let (Ok(seat), Err(_)) = (joined, reply.send(joined)) {
                    state.leave(user, seat);
                }
            }
            HubMessage::Leave { user, seat } => state.leave(user, seat),
            HubMessage::TokensChanged { user, standing } => {
                if let Some(seats) = state.users.get(&user) {
                    close_where(seats, |seat| {
                        !standing
                            .as_ref()
                            .is_some_and(|standing| is_valid(&seat.bearer, standing))
                    });
                }
            }
            HubMessage::CloseOtherKeys { keys } => {
                for seats in state.users.values() {
                    close_where(seats, |seat| !keys.contains(&seat.bearer.key));
                }
            }
            HubMessage::CloseAll => state.close_all(),
        }
        Ok(())
    }
}

impl HubState {
    fn pass_on(&self, update: &UserUpdate) {
        let Some(seats) = self.users.get(&update.user) else {
            return;
        };
        for seat in seats {
            match &update.news {
                News::Balance(balance) => seat.outbox.put_balance(*balance),
                News::Event(event) => seat.outbox.put_event(event.clone()),
            }
        }
    }

    fn join(&mut self, bearer: Bearer, outbox: Arc<Outbox>) -> Result<SeatNumber, JoinRefused> {
        if self.is_draining {
            return Err(JoinRefused::Draining);
        }
        let seats = self.users.entry(bearer.user).or_default();
        if seats.len() >= self.per_user_max {
            return Err(JoinRefused::TooMany);
        }
        self.seats_given += 1;
        let number = SeatNumber(self.seats_given);
        let user = bearer.user;
        seats.push(Seat {
            number,
            bearer,
            outbox,
        });
        if seats.len() == 1
            && let Some(engine) = &self.engine
        {
            engine.watch(user);
        }
        Ok(number)
    }

    fn leave(&mut self, user: UserId, number: SeatNumber) {
        let Some(seats) = self.users.get_mut(&user) else {
            return;
        };
        seats.retain(|seat| seat.number != number);
        if seats.is_empty() {
            self.users.remove(&user);
            if let Some(engine) = &self.engine {
                engine.unwatch(user);
            }
        }
    }

    /// Each socket closes at a moment of its own, so that not all come back in the same one.
    fn close_all(&mut self) {
        self.is_draining = true;
        let seats = || self.users.values().flatten();
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

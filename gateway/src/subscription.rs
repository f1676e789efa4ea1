//! A subscription: what one client is told about its balance, in order, until it ends.
//!
//! Websockets and event streams differ in how they write; what they write, and when they end, is
//! decided here. The first message is the balance, with which the client is up to date. What follows
//! is what the outbox holds, put there by the hub.

use std::{sync::Arc, time::Duration};

use engine::engine::BalanceError;
use hyper::{HeaderMap, Request, body::Incoming};
use ractor::{ActorRef, rpc::CallResult};
use schema::{
    Millis, UserId,
    session::{ActiveSession, LiveBalance},
    websocket::{CloseCode, CreditUpdate, ServerMessage, StreamMessage, StreamPosition, Updates},
};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{
    access::AccessError,
    app::App,
    client::ClientAddress,
    hub::{HubMessage, Join, JoinRefused, SeatNumber},
    limits::Limit,
    metrics::{OpenSocket, SocketKind},
    occupancy::Place,
    outbox::{Closing, Next, Outbox},
    reply::Failure,
    request::query,
    routes::wrong_parameter,
    tokens::Bearer,
};

/// How long joining the hub may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a client that counts down by itself is told the balance all the same.
const REFRESH_EVERY: Duration = Duration::from_secs(30);

/// For how long a client that has too many sockets should stay away.
pub const CROWD_WAIT: Millis = match Millis::new(10_000) {
    Ok(wait) => wait,
    Err(_) => Millis::ZERO,
};

/// Why a user's further sockets are closed.
pub const TOO_MANY: &str = "Too many connections";

/// What a client asks for, and from where.
pub struct Subscriber {
    since: Option<StreamPosition>,
    updates: Updates,
    /// Its place among all sockets of its address.
    _place: Place,
}

impl Subscriber {
    /// Reads what `request` asks for, and takes a place for its client.
    pub fn of(app: &App, request: &Request<Incoming>) -> Result<Self, Failure> {
        let parameters = request.uri().query();
        let since = match query(parameters, "since") {
            Some(text) => Some(text.parse().map_err(|_| {
                wrong_parameter("since", "must be EPOCH:SEQ of an earlier message")
            })?),
            None => last_event_id(request.headers()),
        };
        let updates = match query(parameters, "updates") {
            Some(name) => Updates::from_name(&name)
                .ok_or_else(|| wrong_parameter("updates", "must be all or rate"))?,
            None => Updates::default(),
        };
        let network = ClientAddress::of(request).network();
        let place = app.socket_places.enter(network).ok_or_else(|| {
            app.metrics.limits.hit(Limit::SocketsPerAddress);
            Failure::rate_limited("Too many connections from this address.", CROWD_WAIT)
        })?;
        Ok(Self {
            since,
            updates,
            _place: place,
        })
    }
}

/// Where an `EventSource` that comes back was. It sends what it was given, or it sent nothing.
fn last_event_id(headers: &HeaderMap) -> Option<StreamPosition> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}

/// Who asks: by a ticket or a token in the address, or by a token in the headers.
pub async fn bearer(app: &App, request: &Request<Incoming>) -> Result<Bearer, AccessError> {
    let (query, headers) = (request.uri().query(), request.headers());
    app.access.of_stream(query, headers).await
}

/// How a client is told that it may not listen.
pub fn why_not(error: AccessError) -> Closing {
    match error {
        AccessError::TokenRequired => {
            Closing::now(CloseCode::NotAllowed, "Authentication required")
        }
        AccessError::InvalidToken => Closing::now(CloseCode::NotAllowed, "Invalid token"),
        AccessError::Busy => Closing::now(CloseCode::TryLater, "Try again later"),
        AccessError::Store(error) => {
            tracing::warn!(%error, "a subscriber's token could not be checked");
            Closing::now(CloseCode::TryLater, "Try again later")
        }
    }
}

/// The next thing for a client.
#[derive(Debug)]
pub enum Step {
    /// Send it this message, which ends at this position.
    Send(Utf8Bytes, StreamPosition),
    /// Close.
    Close(Closing),
}

/// A client that is being told.
pub struct Subscription {
    app: Arc<App>,
    seat: Seat,
    outbox: Arc<Outbox>,
    updates: Updates,
    /// After the last message that was given out.
    position: StreamPosition,
    /// In the first message only.
    resumed: Option<bool>,
    /// The latest balance that was told to us.
    latest: Option<LiveBalance>,
    /// The last balance that was given out.
    sent: Option<LiveBalance>,
    /// The number of the last event that the client missed: after it the balance is sent again.
    missed_up_to: Option<u64>,
    is_balance_due: bool,
    refresh_at: Instant,
    closing: Closing,
    closes_at: Instant,
    _subscriber: Subscriber,
    _open: OpenSocket,
}

/// A place in the hub, which is given back when it goes out of use.
struct Seat {
    hub: ActorRef<HubMessage>,
    user: UserId,
    number: SeatNumber,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Without a hub there is no seat to give back.
        let _ = self.hub.cast(HubMessage::Leave {
            user: self.user,
            seat: self.number,
        });
    }
}

impl Subscription {
    /// Joins the hub, and only then asks for the balance: so no change between the two is missed.
    pub async fn begin(
        app: &Arc<App>,
        bearer: Bearer,
        subscriber: Subscriber,
        kind: SocketKind,
    ) -> Result<Self, Closing> {
        let later = Closing::now(CloseCode::TryLater, "Try again later");
        let user = bearer.user;
        let closes_at = app.engine.clock().instant_of(bearer.expires_at);
        let outbox = Arc::new(Outbox::new(app.sockets.events_max));
        let join = Join {
            bearer: bearer.clone(),
            outbox: Arc::clone(&outbox),
            since: subscriber.since,
        };
        let asked = app
            .hub
            .call(|reply| HubMessage::Join(join, reply), Some(JOIN_TIMEOUT));
        let joined = match asked.await {
            Ok(CallResult::Success(Ok(joined))) => joined,
            Ok(CallResult::Success(Err(JoinRefused::TooMany))) => {
                app.metrics.limits.hit(Limit::SocketsPerUser);
                return Err(Closing::now(CloseCode::TryLater, TOO_MANY));
            }
            Ok(CallResult::Success(Err(JoinRefused::Draining))) => {
                return Err(Closing::now(CloseCode::GoingAway, "Going away"));
            }
            Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => return Err(later),
        };
        let seat = Seat {
            hub: app.hub.clone(),
            user,
            number: joined.seat,
        };
        // A token that died before the hub knew the socket was not closed by the hub.
        app.access.check(&bearer).await.map_err(why_not)?;
        let balance = app.engine.balance(user).await;
        outbox.put_snapshot(balance.map_err(|error| match error {
            BalanceError::UserUnknown => Closing::now(CloseCode::NotAllowed, "Invalid token"),
            BalanceError::Unavailable => later,
        })?);
        let missed = joined.missed.filter(|missed| *missed > 0);
        Ok(Self {
            seat,
            latest: outbox.take_balance(),
            outbox,
            updates: subscriber.updates,
            position: joined.position,
            resumed: subscriber.since.map(|_| joined.missed.is_some()),
            sent: None,
            missed_up_to: missed.map(|missed| joined.position.seq + missed),
            is_balance_due: true,
            refresh_at: Instant::now() + REFRESH_EVERY,
            closing: Closing::now(CloseCode::NotAllowed, "Invalid token"),
            closes_at,
            _subscriber: subscriber,
            _open: app.metrics.sockets.opened(kind),
            app: Arc::clone(app),
        })
    }

    /// Whose it is.
    pub const fn user(&self) -> UserId {
        self.seat.user
    }

    /// Waits for the next thing to do. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Step {
        loop {
            if std::mem::take(&mut self.is_balance_due)
                && let Some(balance) = self.latest
                && let Some(step) = self.send_balance(balance)
            {
                return step;
            }
            let wakes_at = match self.updates {
                Updates::All => self.closes_at,
                Updates::Rate => self.closes_at.min(self.refresh_at),
            };
            let step = tokio::select! {
                next = self.outbox.next() => self.take(next),
                () = sleep_until(wakes_at) => self.wake(),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn take(&mut self, next: Next) -> Option<Step> {
        match next {
            Next::Event(event) => {
                self.position.seq = event.seq;
                if self.missed_up_to == Some(event.seq) {
                    self.missed_up_to = None;
                    self.is_balance_due = true;
                }
                Some(Step::Send(event.text, self.position))
            }
            Next::Balance(balance) => {
                self.latest = Some(balance);
                if self.is_known(balance) {
                    return None;
                }
                self.send_balance(balance)
            }
            Next::Close(closing) if closing.after.is_zero() => Some(Step::Close(closing)),
            Next::Close(closing) => {
                let closes_at = Instant::now() + closing.after;
                if closes_at < self.closes_at {
                    (self.closing, self.closes_at) = (closing, closes_at);
                }
                None
            }
        }
    }

    /// It is time to end, or to tell the balance again.
    fn wake(&mut self) -> Option<Step> {
        let now = Instant::now();
        if now >= self.closes_at {
            // Who will come back gets first what is still to be told.
            let last = (self.closing.code == CloseCode::GoingAway)
                .then(|| self.outbox.take())
                .flatten();
            return match last {
                Some(next) => self.take(next),
                None => Some(Step::Close(self.closing)),
            };
        }
        self.is_balance_due = now >= self.refresh_at;
        None
    }

    /// Whether a client that counts down by itself knows `balance` already.
    fn is_known(&self, balance: LiveBalance) -> bool {
        let rate = |session: ActiveSession| ActiveSession {
            consumed: schema::Credits::ZERO,
            next_charge_at: None,
            ..session
        };
        match (
            self.updates,
            self.sent.and_then(|sent| sent.session),
            balance.session,
        ) {
            // As long as the end stays where it was, nothing came in and nothing went but time.
            (Updates::Rate, Some(sent), Some(now)) => {
                now.depletes_at.is_some() && rate(sent) == rate(now)
            }
            _ => false,
        }
    }

    fn send_balance(&mut self, balance: LiveBalance) -> Option<Step> {
        if let Some(lateness) = self.lateness(balance) {
            self.app.metrics.sockets.late(lateness);
        }
        self.sent = Some(balance);
        self.refresh_at = Instant::now() + REFRESH_EVERY;
        let message = StreamMessage {
            message: ServerMessage::CreditUpdate(CreditUpdate {
                credits: balance.credits,
                as_of: balance.as_of,
                active: balance.session.is_some(),
                session: balance.session,
                resumed: self.resumed.take(),
            }),
            position: self.position,
        };
        match serde_json::to_string(&message) {
            Ok(text) => Some(Step::Send(text.into(), self.position)),
            Err(error) => {
                tracing::error!(%error, "a balance has no JSON");
                None
            }
        }
    }

    /// How long ago the interval ended that `balance` is told for, if it is told for that.
    fn lateness(&self, balance: LiveBalance) -> Option<Millis> {
        let (before, now) = (self.sent?.session?, balance.session?);
        if before.session_id != now.session_id || before.consumed >= now.consumed {
            return None;
        }
        let due_at = now.next_charge_at?.saturating_sub(now.interval_ms);
        Some(self.app.engine.clock().now().since(due_at))
    }
}

//! A subscription: what one client is told about its balance, in order, until it ends.
//!
//! Websockets and event streams differ in how they write; what they write, and when they end, is
//! decided here. The first message is the balance, with which the client is up to date. What follows
//! is what the outbox holds, put there by the hub.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use engine::engine::BalanceError;
use hyper::{HeaderMap, Method, Request, body::Incoming, header::HeaderName};
use ractor::rpc::CallResult;
use schema::{
    Credits, Millis, SessionId, UserId,
    session::{ActiveSession, LiveBalance},
    websocket::{CloseCode, StreamPosition, TOO_MANY_CONNECTIONS, Updates},
};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{
    access::{AccessError, StreamAsked},
    app::App,
    balance_text,
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

/// How often a client may want to be told the balance where nothing else is said.
const HEARTBEAT_MS: RangeInclusive<u64> = 1_000..=60_000;

/// How a socket ends that is there as long as its token is valid.
const TOKEN_ENDED: Closing = Closing::now(CloseCode::NotAllowed, "Invalid token");

/// For how long a client that has too many sockets should stay away.
pub const CROWD_WAIT: Millis = match Millis::new(10_000) {
    Ok(wait) => wait,
    Err(_) => Millis::ZERO,
};

/// What a client asks for, and from where.
pub struct Subscriber {
    since: Option<StreamPosition>,
    updates: Updates,
    heartbeat: Option<Duration>,
    /// Its place among all sockets of its address.
    place: Place,
}

impl Subscriber {
    /// Reads what `request` asks for, and takes a place for its client.
    pub fn of(app: &App, request: &Request<Incoming>) -> Result<Self, Failure> {
        let parameters = request.uri().query();
        let since = match query(parameters, "since")? {
            Some(text) => Some(text.parse().map_err(|_| {
                wrong_parameter("since", "must be EPOCH:SEQ of an earlier message")
            })?),
            None => None,
        };
        // An `EventSource` comes back to the address that it first had, with an old `since` in it.
        let since = last_event_id(request.headers()).or(since);
        let updates = match query(parameters, "updates")? {
            Some(name) => Updates::from_name(&name)
                .ok_or_else(|| wrong_parameter("updates", "must be all or rate"))?,
            None => Updates::default(),
        };
        let heartbeat = match query(parameters, "heartbeat_ms")? {
            Some(text) => Some(heartbeat(&text)?),
            None => None,
        };
        let network = ClientAddress::of(request).network();
        let place = app.socket_places.enter(network).ok_or_else(|| {
            app.metrics.limits.hit(Limit::SocketsPerAddress);
            Failure::rate_limited("Too many connections from this address.", CROWD_WAIT)
        })?;
        Ok(Self {
            since,
            updates,
            heartbeat,
            place,
        })
    }

    /// After how much silence this client is told the balance again, if it wants that at all.
    const fn refresh_every(&self) -> Option<Duration> {
        match (self.heartbeat, self.updates) {
            (Some(heartbeat), _) => Some(heartbeat),
            (None, Updates::Rate) => Some(REFRESH_EVERY),
            (None, Updates::All) => None,
        }
    }
}

/// How long a client wants its stream to be silent at most.
fn heartbeat(text: &str) -> Result<Duration, Failure> {
    let millis = text.parse().ok();
    let millis = millis.filter(|millis| HEARTBEAT_MS.contains(millis));
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| wrong_parameter("heartbeat_ms", "must be a whole number from 1000 to 60000"))
}

/// Where an `EventSource` was that comes back, as it says in this header.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A position that no stream has: its epochs begin at 1.
const NOWHERE: StreamPosition = StreamPosition { epoch: 0, seq: 0 };

/// Where a client that comes back was: nowhere that we know if what it says is no position of ours.
fn last_event_id(headers: &HeaderMap) -> Option<StreamPosition> {
    let id = headers.get(LAST_EVENT_ID)?.to_str().unwrap_or_default();
    Some(id.parse().unwrap_or(NOWHERE))
}

/// Who asks for a websocket: by a ticket or a token in the address, or by a token in the headers.
pub async fn bearer(app: &App, request: &Request<Incoming>) -> Result<Bearer, AccessError> {
    let (query, headers) = (request.uri().query(), request.headers());
    app.access
        .of_stream(query, headers, StreamAsked::Anew)
        .await
}

/// Who asks for an event stream, in the same ways.
pub async fn event_stream_bearer(
    app: &App,
    request: &Request<Incoming>,
) -> Result<Bearer, AccessError> {
    let (query, headers) = (request.uri().query(), request.headers());
    let asked = match last_event_id(headers) {
        _ if request.method() == Method::HEAD => StreamAsked::Whether,
        Some(position) => StreamAsked::After(position),
        None => StreamAsked::Anew,
    };
    app.access.of_stream(query, headers, asked).await
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

/// A message for a client.
#[derive(Debug)]
pub enum Text {
    /// An event, which all of the user's clients share.
    Shared(Utf8Bytes),
    /// A balance, which this client alone gets in these words, with room for what goes around it.
    Own(String),
}

impl Text {
    /// The message as it is read.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Shared(text) => text.as_str(),
            Self::Own(text) => text,
        }
    }
}

/// The next thing for a client.
#[derive(Debug)]
pub enum Step {
    /// Send it this message, which ends at this position.
    Send(Text, StreamPosition),
    /// Close.
    Close(Closing),
}

/// A client that is being told. There is one for each open socket, so it is kept small.
pub struct Subscription {
    seat: Seat,
    outbox: Arc<Outbox>,
    /// After the last message that was given out.
    position: StreamPosition,
    /// In the first message only.
    resumed: Option<bool>,
    is_balance_due: bool,
    /// The session of the last balance that was given out, and what it had cost.
    charged: Option<(SessionId, Credits)>,
    /// For a client that is told the balance again after a while.
    refresh: Option<Box<Refresh>>,
    /// The number of the last event that the client missed: after it the balance is sent again.
    missed_up_to: Option<u64>,
    /// Why it closes at `closes_at`, if not because its token ends then.
    closing: Option<Box<Closing>>,
    closes_at: Instant,
    _place: Place,
    _open: OpenSocket,
}

/// When a client is told the balance again though nothing has changed. By that it learns that the
/// connection is still there: a browser shows its page no pings.
struct Refresh {
    every: Duration,
    at: Instant,
    /// Whether the client counts down by itself, and is told less in between.
    counts_down: bool,
    /// The session as it was in the last balance that was given out.
    session: Option<ActiveSession>,
}

/// A place in the hub, which is given back when it goes out of use.
struct Seat {
    app: Arc<App>,
    user: UserId,
    number: SeatNumber,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Without a hub there is no seat to give back.
        let _ = self.app.hub.cast(HubMessage::Leave {
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
                return Err(Closing::now(CloseCode::TryLater, TOO_MANY_CONNECTIONS));
            }
            Ok(CallResult::Success(Err(JoinRefused::Draining))) => {
                return Err(Closing::now(CloseCode::GoingAway, "Going away"));
            }
            Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => return Err(later),
        };
        let seat = Seat {
            app: Arc::clone(app),
            user,
            number: joined.seat,
        };
        // A token that died before the hub knew the socket was not closed by the hub.
        app.access.check(&bearer).await.map_err(why_not)?;
        let balance = app.engine.balance_for_watcher(user).await;
        outbox.put_snapshot(balance.map_err(|error| match error {
            BalanceError::UserUnknown => Closing::now(CloseCode::NotAllowed, "Invalid token"),
            BalanceError::Unavailable => later,
        })?);
        let missed = joined.missed.filter(|missed| *missed > 0);
        Ok(Self {
            seat,
            outbox,
            position: joined.position,
            resumed: subscriber.since.map(|_| joined.missed.is_some()),
            is_balance_due: true,
            charged: None,
            refresh: subscriber.refresh_every().map(|every| {
                Box::new(Refresh {
                    every,
                    at: Instant::now() + every,
                    counts_down: subscriber.updates == Updates::Rate,
                    session: None,
                })
            }),
            missed_up_to: missed.map(|missed| joined.position.seq + missed),
            closing: None,
            closes_at,
            _place: subscriber.place,
            _open: app.metrics.sockets.opened(kind),
        })
    }

    /// Whose it is.
    pub const fn user(&self) -> UserId {
        self.seat.user
    }

    /// What all sockets share.
    pub fn app(&self) -> &App {
        &self.seat.app
    }

    /// The next thing to do, once there is something.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        loop {
            if std::mem::take(&mut self.is_balance_due)
                && let Some(balance) = self.outbox.latest()
            {
                return Poll::Ready(self.send_balance(balance));
            }
            let next = ready!(self.outbox.poll_next(context));
            if let Some(step) = self.take(next) {
                return Poll::Ready(step);
            }
        }
    }

    /// When [`Self::wake`] is to be called, if nothing else happens.
    pub fn wakes_at(&self) -> Instant {
        match &self.refresh {
            Some(refresh) => self.closes_at.min(refresh.at),
            None => self.closes_at,
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
                Some(Step::Send(Text::Shared(event.text), self.position))
            }
            Next::Balance(balance) if self.is_known(balance) => None,
            Next::Balance(balance) => Some(self.send_balance(balance)),
            Next::Close(closing) if closing.after.is_zero() => Some(Step::Close(closing)),
            Next::Close(closing) => {
                let closes_at = Instant::now() + closing.after;
                if closes_at < self.closes_at {
                    (self.closing, self.closes_at) = (Some(closing.into()), closes_at);
                }
                None
            }
        }
    }

    /// It may be time to end, or to tell the balance again.
    pub fn wake(&mut self) -> Option<Step> {
        let now = Instant::now();
        if now >= self.closes_at {
            let closing = self.closing.as_deref().copied();
            let closing = closing.unwrap_or(TOKEN_ENDED);
            // Who will come back gets first what is still to be told.
            let last = (closing.code == CloseCode::GoingAway)
                .then(|| self.outbox.take())
                .flatten();
            return match last {
                Some(next) => self.take(next),
                None => Some(Step::Close(closing)),
            };
        }
        if let Some(refresh) = &self.refresh
            && now >= refresh.at
        {
            self.is_balance_due = true;
        }
        None
    }

    /// Whether a client that counts down by itself knows `balance` already.
    fn is_known(&self, balance: LiveBalance) -> bool {
        let rate = |session: ActiveSession| ActiveSession {
            consumed: Credits::ZERO,
            next_charge_at: None,
            ..session
        };
        let countdown = self.refresh.as_ref().filter(|known| known.counts_down);
        let known = countdown.and_then(|known| known.session);
        match (known, balance.session) {
            // As long as the end stays where it was, nothing came in and nothing went but time.
            (Some(known), Some(now)) => now.depletes_at.is_some() && rate(known) == rate(now),
            _ => false,
        }
    }

    fn send_balance(&mut self, balance: LiveBalance) -> Step {
        let app = &self.seat.app;
        if let Some(lateness) = self.lateness(balance) {
            app.metrics.sockets.late(lateness);
        }
        let session = balance.session;
        self.charged = session.map(|session| (session.session_id, session.consumed));
        if let Some(refresh) = &mut self.refresh {
            refresh.session = session;
            refresh.at = Instant::now() + refresh.every;
        }
        let text = balance_text::of(&balance, self.position, self.resumed.take());
        Step::Send(Text::Own(text), self.position)
    }

    /// How long ago the interval ended that `balance` is told for, if it is told for that.
    fn lateness(&self, balance: LiveBalance) -> Option<Millis> {
        let (session, consumed) = self.charged?;
        let now = balance.session?;
        if session != now.session_id || consumed >= now.consumed {
            return None;
        }
        let due_at = now.next_charge_at?.saturating_sub(now.interval_ms);
        Some(self.seat.app.engine.clock().now().since(due_at))
    }
}

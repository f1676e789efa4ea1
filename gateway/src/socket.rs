//! Websockets: one task each, from the upgrade to the end.
//!
//! What is sent is decided by the [`Subscription`], and goes over the [`Wire`]. Clients have nothing to
//! say: their messages are read and ignored.
//!
//! The task of an open socket is written by hand as a state machine of few bytes: an `async fn` would hold
//! everything several times over, for as long as the socket is open. What it takes to get there, with the
//! request's head and the upgrade, has a task of its own, which ends then.

mod metered;
mod unsent;
mod wire;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::{Either, Full};
use hyper::{
    Method, Request,
    body::Incoming,
    header::{CONNECTION, SEC_WEBSOCKET_VERSION, UPGRADE},
    upgrade::OnUpgrade,
};
use schema::{ErrorCode, websocket::CloseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::{
    Error, Message, error::ProtocolError, handshake::server::create_response_with_body,
    protocol::CloseFrame,
};

use self::{
    metered::Metered,
    wire::{Ping, Websocket, Wire},
};
use crate::{
    alarm::Alarm,
    app::App,
    client::ClientAddress,
    connections::{Connection, Stream, into_tcp},
    limits::Limit,
    metrics::SocketKind,
    origins::Caller,
    outbox::Closing,
    reply::{Failure, Reply},
    subscription::{self, Step, Subscriber, Subscription, why_not},
    tokens::Bearer,
};

/// How long the upgrade, and the client's part of closing, may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Over how long messages are counted.
const MINUTE: Duration = Duration::from_mins(1);

/// How much is read of what a peer still sends when it has been told the end. One that floods us would
/// keep us busy with that.
const FAREWELL_BYTES_MAX: usize = 32 << 10;

/// The buffer for that.
const SCRAP_BYTES: usize = 512;

/// How many pings may be unanswered before the peer counts as dead.
const PINGS_UNANSWERED_MAX: u8 = 2;

/// By which part of the time between two pings one may come early, to go along with a message. A packet
/// of its own costs as much as a balance does.
const PING_EARLY_PART: u32 = 4;

/// To which part of that time pings are rounded up, so that many sockets wake the program at once.
const PING_STEP_PART: u32 = 64;

/// Whether `request` asks for a websocket.
pub fn is_upgrade(request: &Request<Incoming>) -> bool {
    let has = |name, wanted: &str| {
        let values = request
            .headers()
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    request.method() == Method::GET && has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// Answers a request for a websocket, and leaves a task that serves it.
///
/// A caller without a valid token gets the socket too, to be told by its close code: browsers don't
/// tell their pages why an upgrade was refused.
pub async fn open(
    app: &Arc<App>,
    request: &mut Request<Incoming>,
    caller: Caller,
) -> Result<Reply, Failure> {
    if !is_upgrade(request) {
        return Err(Failure::new(
            ErrorCode::InvalidRequest,
            "This address is for websockets.",
        ));
    }
    if caller == Caller::Foreign {
        return Err(Failure::origin_not_allowed());
    }
    if app.draining.has_begun() {
        return Err(Failure::unavailable());
    }
    let version = request.headers().get(SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err(Failure::upgrade_required());
    }
    let subscriber = Subscriber::of(app, request)?;
    let reply = create_response_with_body(request, || Either::Left(Full::default()));
    let reply = reply.map_err(|error| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!("This is no websocket request: {error}."),
        )
    })?;
    let admitted = subscription::bearer(app, request).await.map_err(why_not);
    // Who knocks with bad tokens again and again is told so a little later.
    let wait = match &admitted {
        Err(closing) if closing.code == CloseCode::NotAllowed => {
            app.refuse(ClientAddress::of(request))
        }
        _ => None,
    };
    let connection = request.extensions().get::<Connection>().cloned();
    let upgrade = hyper::upgrade::on(request);
    let app = Arc::clone(app);
    let tasks = app.socket_tasks.clone();
    tasks.spawn(begin(app, upgrade, admitted, subscriber, connection, wait));
    Ok(reply)
}

/// Brings a socket to where its client is being told, in a task of its own; or closes it.
async fn begin(
    app: Arc<App>,
    upgrade: OnUpgrade,
    admitted: Result<Bearer, Closing>,
    subscriber: Subscriber,
    connection: Option<Connection>,
    wait: Option<Duration>,
) {
    let Ok(Ok(upgraded)) = timeout(STEP_TIMEOUT, upgrade).await else {
        return;
    };
    let Ok(parts) = upgraded.downcast::<Stream>() else {
        return;
    };
    let Some(stream) = into_tcp(parts.io) else {
        return;
    };
    let bytes_max = app.sockets.bytes_per_minute_max;
    let stream = Metered::new(stream, bytes_max, parts.read_buf.len());
    let wire = Wire::new(stream, &parts.read_buf, app.sockets.message_bytes_max);
    // It is a piece of the large buffer that the request was read into.
    drop(parts.read_buf);

    let begun = match admitted {
        Ok(bearer) => Subscription::begin(&app, bearer, subscriber, SocketKind::Websocket).await,
        Err(closing) => Err(closing),
    };
    match begun {
        Ok(subscription) => {
            tracing::debug!(user = subscription.user().get(), "a websocket opened");
            app.socket_tasks.spawn(Socket {
                stage: Stage::Open(Open::new(wire, subscription)),
                _connection: connection,
            });
        }
        Err(closing) => {
            if let Some(wait) = wait {
                sleep(wait).await;
            }
            app.metrics.sockets.closed(Some(closing.code));
            close(wire, closing, app.sockets.send_timeout).await;
        }
    }
}

/// How a socket ends.
#[derive(Clone, Copy)]
enum End {
    /// The peer is to be told.
    Close(Closing),
    /// The peer has closed it, perhaps with a code, and is to be told that we have seen that.
    Closed(Option<u16>),
    /// The peer is not there any more.
    Gone,
}

/// A socket from when its client is being told to the end.
struct Socket {
    stage: Stage,
    _connection: Option<Connection>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "all sockets are open for nearly all of their time: a box would only add to that"
)]
enum Stage {
    Open(Open),
    /// The peer is told the end. Boxed, since it is large and short.
    Closing(Pin<Box<dyn Future<Output = ()> + Send>>),
    Over,
}

impl Future for Socket {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let end = match &mut self.stage {
                Stage::Open(open) => ready!(open.poll_end(context)),
                Stage::Closing(closing) => return closing.as_mut().poll(context),
                Stage::Over => return Poll::Ready(()),
            };
            // With this the seat in the hub is given back, before the peer is told.
            if let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Over)
                && let Some(closing) = open.end(end)
            {
                self.stage = Stage::Closing(closing);
            }
        }
    }
}

/// A socket whose client is being told.
struct Open {
    wire: Wire,
    subscription: Subscription,
    alarm: Alarm,
    /// Until when what is being sent must be taken.
    sends_until: Option<Instant>,
    pings_at: Instant,
    /// How many messages came since when, in the minute that lasts.
    minute_began_at: Instant,
    messages: usize,
    pings_unanswered: u8,
}

impl Open {
    fn new(wire: Wire, subscription: Subscription) -> Self {
        let app = subscription.app();
        // Sockets that were opened together are not pinged together.
        let first_ping = app.sockets.ping_every.mul_f64(rand::random_range(0.5..1.0));
        let pings_at = ping_time(app, first_ping);
        Self {
            alarm: Alarm::new(pings_at.min(subscription.wakes_at())),
            wire,
            subscription,
            sends_until: None,
            pings_at,
            minute_began_at: Instant::now(),
            messages: 0,
            pings_unanswered: 0,
        }
    }

    /// Ready at the end.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Some(end) = ready!(self.poll_turn(context)) {
                return Poll::Ready(end);
            }
        }
    }

    /// Does the next thing that is to be done, which may be the end.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Option<End>> {
        match self.wire.poll_sent(context) {
            Poll::Ready(Ok(())) => {
                self.sends_until = None;
                if let Poll::Ready(step) = self.subscription.poll_next(context) {
                    return Poll::Ready(self.act(step));
                }
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Some(End::Gone)),
            Poll::Pending => {
                let patience = self.subscription.app().sockets.send_timeout;
                self.sends_until
                    .get_or_insert_with(|| Instant::now() + patience);
            }
        }
        if let Poll::Ready(heard) = self.wire.poll_heard(context) {
            return Poll::Ready(self.take(heard.as_ref()));
        }
        let wakes_at = self
            .sends_until
            .unwrap_or_else(|| self.pings_at.min(self.subscription.wakes_at()));
        ready!(self.alarm.poll_reached(context, wakes_at));
        Poll::Ready(self.wake())
    }

    fn act(&mut self, step: Step) -> Option<End> {
        match step {
            Step::Send(text, _) => {
                let ping = self.ping_along();
                self.wire.send(text, ping).err().map(|_| End::Gone)
            }
            Step::Close(closing) => Some(End::Close(closing)),
        }
    }

    /// It is time for what [`Self::poll_turn`] waited for.
    fn wake(&mut self) -> Option<End> {
        let app = self.subscription.app();
        if self.sends_until.is_some() {
            // A peer that takes nothing doesn't take the reason either.
            app.metrics.sockets.slow();
            app.metrics.limits.hit(Limit::SendTimeout);
            return Some(End::Gone);
        }
        if Instant::now() < self.pings_at {
            return self.subscription.wake().and_then(|step| self.act(step));
        }
        // It is time to see whether the peer is still there.
        if self.pings_unanswered >= PINGS_UNANSWERED_MAX {
            return Some(End::Gone);
        }
        self.count_ping();
        self.wire.ping().err().map(|_| End::Gone)
    }

    /// Whether a message that is sent now takes the next ping along.
    fn ping_along(&mut self) -> Ping {
        let early = self.subscription.app().sockets.ping_every / PING_EARLY_PART;
        if self.pings_unanswered < PINGS_UNANSWERED_MAX && Instant::now() + early >= self.pings_at {
            self.count_ping();
            return Ping::Along;
        }
        Ping::No
    }

    fn count_ping(&mut self) {
        let app = self.subscription.app();
        self.pings_at = ping_time(app, app.sockets.ping_every);
        self.pings_unanswered += 1;
    }

    /// What a client says matters only in that it says something, and how much.
    fn take(&mut self, heard: Option<&Result<Message, Error>>) -> Option<End> {
        if let Some(Ok(message)) = heard
            && !message.is_close()
        {
            self.pings_unanswered = 0;
            self.count_message();
        }
        let app = self.subscription.app();
        let limits = &app.metrics.limits;
        let close = |code, reason| Some(End::Close(Closing::now(code, reason)));
        match heard {
            Some(Ok(Message::Close(frame))) => {
                let code = frame.as_ref().map(|frame| frame.code.into());
                Some(End::Closed(code))
            }
            Some(Err(Error::ConnectionClosed)) | None => Some(End::Gone),
            Some(Ok(_)) if self.messages <= app.sockets.messages_per_minute_max => None,
            Some(Ok(_)) => {
                limits.hit(Limit::SocketMessages);
                close(CloseCode::TooTalkative, "Too many messages")
            }
            Some(Err(Error::Capacity(_))) => {
                limits.hit(Limit::MessageTooLarge);
                close(CloseCode::TooLarge, "Message too large")
            }
            Some(Err(Error::Io(error))) if metered::is_too_much(error) => {
                limits.hit(Limit::SocketBytes);
                close(CloseCode::TooTalkative, "Too many messages")
            }
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                Some(End::Gone)
            }
            Some(Err(Error::Protocol(_))) => close(CloseCode::Malformed, "Protocol error"),
            Some(Err(Error::Utf8(_))) => close(CloseCode::NotText, "Not UTF-8"),
            Some(Err(error)) => {
                tracing::debug!(%error, "a websocket broke");
                Some(End::Gone)
            }
        }
    }

    /// Counts a message of this minute. Each costs us something: a pong, where it is a ping.
    fn count_message(&mut self) {
        if self.minute_began_at.elapsed() >= MINUTE {
            self.minute_began_at = Instant::now();
            self.messages = 0;
        }
        self.messages += 1;
    }

    /// What is to be done for the end; nothing if the peer is gone.
    fn end(self, end: End) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let app = self.subscription.app();
        tracing::debug!(user = self.subscription.user().get(), "a websocket ends");
        let patience = app.sockets.send_timeout;
        let closing = match end {
            End::Close(closing) => closing,
            End::Closed(code) => {
                app.metrics.sockets.closed_by_client();
                let unsent = self.sends_until.is_some();
                return Some(Box::pin(confirm(self.wire, code, unsent, patience)));
            }
            End::Gone => {
                app.metrics.sockets.closed(None);
                return None;
            }
        };
        app.metrics.sockets.closed(Some(closing.code));
        if closing.code == CloseCode::TooSlow {
            app.metrics.sockets.slow();
            app.metrics.limits.hit(Limit::SlowConsumer);
        }
        Some(Box::pin(close(self.wire, closing, patience)))
    }
}

/// When a ping is due that is to come `after` so long, or a little later.
fn ping_time(app: &App, after: Duration) -> Instant {
    let step = (app.sockets.ping_every / PING_STEP_PART).as_millis().max(1);
    let since_1970 = u128::from(app.engine.clock().now().get().unsigned_abs()) + after.as_millis();
    let late = since_1970.next_multiple_of(step) - since_1970;
    // It is less than a step.
    let late = Duration::from_millis(u64::try_from(late).unwrap_or(0));
    Instant::now() + after + late
}

/// Says good-bye: the close frame, and what follows it.
async fn close(wire: Wire, closing: Closing, send_timeout: Duration) {
    let Some(mut stream) = wire.into_websocket() else {
        return;
    };
    let frame = CloseFrame {
        code: closing.code.number().into(),
        reason: closing.reason.into(),
    };
    if let Ok(Ok(())) = timeout(send_timeout, stream.close(Some(frame))).await {
        end(stream).await;
    }
}

/// Answers the peer's close frame with ours, of the same code (RFC 6455, section 5.5.1). Without the
/// answer, browsers tell their pages of a broken connection.
async fn confirm(wire: Wire, code: Option<u16>, has_unsent: bool, send_timeout: Duration) {
    let Some(mut stream) = wire.into_websocket() else {
        return;
    };
    let answer = async {
        if has_unsent {
            // tungstenite holds the rest of a message, and has its own answer ready to go after that.
            return futures_util::SinkExt::flush(stream.as_mut()).await.is_ok();
        }
        let answer = wire::close_frame(code);
        let sent = stream.get_mut().write_all(&answer).await;
        sent.is_ok()
    };
    if let Ok(true) = timeout(send_timeout, answer).await {
        end(stream).await;
    }
}

/// Ends what we send, and gives the peer a while to see it. Without that while, what the peer still sends
/// would make the system throw the last frame away.
async fn end(stream: Box<Websocket>) {
    let mut stream = Websocket::into_inner(*stream).into_inner().into_inner();
    let farewell = async {
        stream.shutdown().await?;
        let mut scrap = [0; SCRAP_BYTES];
        let mut left = FAREWELL_BYTES_MAX;
        while left > 0 {
            let bytes = stream.read(&mut scrap).await?;
            if bytes == 0 {
                break;
            }
            left = left.saturating_sub(bytes);
        }
        Ok::<_, std::io::Error>(())
    };
    // Whether the peer saw it is not for us to know.
    let _ = timeout(STEP_TIMEOUT, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_socket_is_small() {
        let bytes = size_of::<Socket>();
        assert!(bytes <= 400, "{bytes} bytes");
    }
}

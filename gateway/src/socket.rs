//! Websockets: one task each, from the upgrade to the end.
//!
//! What is sent is decided by the [`Subscription`]. Clients have nothing to say: their messages are
//! read and ignored.

mod metered;

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request,
    body::Incoming,
    header::{CONNECTION, UPGRADE},
    upgrade::OnUpgrade,
};
use schema::{ErrorCode, websocket::CloseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::server::create_response_with_body,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use self::metered::Metered;
use crate::{
    app::App,
    connections::{Connection, Stream},
    limits::Limit,
    metrics::SocketKind,
    origins::Caller,
    outbox::Closing,
    reply::{Failure, Reply},
    subscription::{self, Step, Subscriber, Subscription, why_not},
    tokens::Bearer,
};

/// The buffer for reading. It is filled with zeros at every attempt to read, and clients say nothing.
const READ_BUFFER_BYTES: usize = 512;

/// How much may wait to be written before the socket counts as broken.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long the upgrade, and the client's part of closing, may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Over how long messages are counted.
const MINUTE: Duration = Duration::from_mins(1);

/// How much is read of what a peer still sends when it has been told the end. One that floods us would
/// keep us busy with that.
const FAREWELL_BYTES_MAX: usize = 32 << 10;

/// How many pings may be unanswered before the peer counts as dead.
const PINGS_UNANSWERED_MAX: u8 = 2;

/// A websocket over a client's connection.
type Websocket = WebSocketStream<Metered<TcpStream>>;

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
    let subscriber = Subscriber::of(app, request)?;
    let reply = create_response_with_body(request, || Either::Left(Full::default()));
    let reply = reply.map_err(|error| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!("This is no websocket request: {error}."),
        )
    })?;
    let admitted = subscription::bearer(app, request).await.map_err(why_not);
    let connection = request.extensions().get::<Connection>().cloned();
    let upgrade = hyper::upgrade::on(request);
    let app = Arc::clone(app);
    let tasks = app.socket_tasks.clone();
    tasks.spawn(async move {
        serve(&app, upgrade, admitted, subscriber).await;
        drop(connection);
    });
    Ok(reply)
}

async fn serve(
    app: &Arc<App>,
    upgrade: OnUpgrade,
    admitted: Result<Bearer, Closing>,
    subscriber: Subscriber,
) {
    let Ok(Ok(upgraded)) = timeout(STEP_TIMEOUT, upgrade).await else {
        return;
    };
    let Ok(parts) = upgraded.downcast::<Stream>() else {
        return;
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(app.sockets.message_bytes_max))
        .max_frame_size(Some(app.sockets.message_bytes_max));
    let sent_early = parts.read_buf.to_vec();
    let stream = Metered::new(
        parts.io.into_inner().into_inner(),
        app.sockets.bytes_per_minute_max,
        sent_early.len(),
    );
    let mut stream =
        WebSocketStream::from_partially_read(stream, sent_early, Role::Server, Some(config)).await;

    let begun = match admitted {
        Ok(bearer) => Subscription::begin(app, bearer, subscriber, SocketKind::Websocket).await,
        Err(closing) => Err(closing),
    };
    let ended = match begun {
        Ok(subscription) => Socket::new(app, subscription).run(&mut stream).await,
        Err(closing) => End::Close(closing),
    };
    let End::Close(closing) = ended else {
        app.metrics.sockets.closed(None);
        return;
    };
    app.metrics.sockets.closed(Some(closing.code));
    if closing.code == CloseCode::TooSlow {
        app.metrics.sockets.slow();
        app.metrics.limits.hit(Limit::SlowConsumer);
    }
    close(stream, closing, app.sockets.send_timeout).await;
}

/// How a socket ends.
enum End {
    /// The peer is to be told.
    Close(Closing),
    /// The peer closed it, or is not there any more.
    Gone,
}

/// A socket whose client is being told.
struct Socket<'a> {
    app: &'a App,
    subscription: Subscription,
    pings_at: Instant,
    pings_unanswered: u8,
    /// How many messages came since when, in the minute that lasts.
    messages: usize,
    minute_began_at: Instant,
}

impl<'a> Socket<'a> {
    fn new(app: &'a App, subscription: Subscription) -> Self {
        // Sockets that were opened together are not pinged together.
        let first_ping = app.sockets.ping_every.mul_f64(rand::random_range(0.5..1.0));
        Self {
            app,
            subscription,
            pings_at: Instant::now() + first_ping,
            pings_unanswered: 0,
            messages: 0,
            minute_began_at: Instant::now(),
        }
    }

    async fn run(mut self, stream: &mut Websocket) -> End {
        let user = self.subscription.user().get();
        tracing::debug!(user, "a websocket opened");
        let ended = loop {
            let ended = tokio::select! {
                step = self.subscription.next() => self.act(stream, step).await,
                incoming = stream.next() => self.take(incoming),
                () = sleep_until(self.pings_at) => self.ping(stream).await,
            };
            if let Some(ended) = ended {
                break ended;
            }
        };
        tracing::debug!(user, "a websocket ends");
        ended
    }

    async fn act(&self, stream: &mut Websocket, step: Step) -> Option<End> {
        match step {
            Step::Send(text, _) => self.send(stream, Message::Text(text)).await,
            Step::Close(closing) => Some(End::Close(closing)),
        }
    }

    /// What a client says matters only in that it says something, and how much.
    fn take(&mut self, incoming: Option<Result<Message, Error>>) -> Option<End> {
        let limits = &self.app.metrics.limits;
        let close = |code, reason| Some(End::Close(Closing::now(code, reason)));
        match incoming {
            Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) | None => Some(End::Gone),
            Some(Ok(_)) => {
                self.pings_unanswered = 0;
                let is_too_often = self.count_message() > self.app.sockets.messages_per_minute_max;
                if !is_too_often {
                    return None;
                }
                limits.hit(Limit::SocketMessages);
                close(CloseCode::TooTalkative, "Too many messages")
            }
            Some(Err(Error::Capacity(_))) => {
                limits.hit(Limit::MessageTooLarge);
                close(CloseCode::TooLarge, "Message too large")
            }
            Some(Err(Error::Io(error))) if metered::is_too_much(&error) => {
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

    /// Counts a message, and says how many came this minute. Each costs us something: a pong, where it
    /// is a ping.
    fn count_message(&mut self) -> usize {
        if self.minute_began_at.elapsed() >= MINUTE {
            self.minute_began_at = Instant::now();
            self.messages = 0;
        }
        self.messages += 1;
        self.messages
    }

    /// It is time to see whether the peer is still there.
    async fn ping(&mut self, stream: &mut Websocket) -> Option<End> {
        if self.pings_unanswered >= PINGS_UNANSWERED_MAX {
            return Some(End::Gone);
        }
        self.pings_unanswered += 1;
        self.pings_at = Instant::now() + self.app.sockets.ping_every;
        self.send(stream, Message::Ping(bytes::Bytes::new())).await
    }

    async fn send(&self, stream: &mut Websocket, message: Message) -> Option<End> {
        match timeout(self.app.sockets.send_timeout, stream.send(message)).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(End::Gone),
            // A peer that takes nothing doesn't take the reason either.
            Err(_) => {
                self.app.metrics.sockets.slow();
                self.app.metrics.limits.hit(Limit::SendTimeout);
                Some(End::Gone)
            }
        }
    }
}

/// Says good-bye: the close frame, the end of what we send, and a while for the peer to see both.
/// Without that while, what the peer still sends would make the system throw the frame away.
async fn close(mut stream: Websocket, closing: Closing, send_timeout: Duration) {
    let frame = CloseFrame {
        code: closing.code.number().into(),
        reason: closing.reason.into(),
    };
    if !matches!(
        timeout(send_timeout, stream.close(Some(frame))).await,
        Ok(Ok(()))
    ) {
        return;
    }
    let mut stream = stream.into_inner().into_inner();
    let farewell = async {
        stream.shutdown().await?;
        let mut scrap = [0; READ_BUFFER_BYTES];
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

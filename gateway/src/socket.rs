//! Websockets: one task each, from the upgrade to the end.
//!
//! A socket's first message is the balance. What follows is what its outbox holds, put there by the
//! hub. Clients have nothing to say: their messages are read and ignored.

use std::{sync::Arc, time::Duration};

use engine::engine::BalanceError;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::{
    Method, Request,
    body::Incoming,
    header::{CONNECTION, UPGRADE},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use ractor::{ActorRef, rpc::CallResult};
use schema::{
    ErrorCode, UserId,
    session::LiveBalance,
    websocket::{CloseCode, CreditUpdate, ServerMessage},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        handshake::server::create_response_with_body,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use crate::{
    access::AccessError,
    app::App,
    hub::{HubMessage, JoinRefused, SeatNumber},
    origins::Caller,
    outbox::{Closing, Next, Outbox},
    reply::{Failure, Reply},
    server::Connection,
    settings::SocketSettings,
    tokens::Bearer,
};

/// The buffer for reading. It is filled with zeros at every attempt to read, and clients say nothing.
const READ_BUFFER_BYTES: usize = 512;

/// How much may wait to be written before the socket counts as broken.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long the upgrade, joining the hub, and the client's part of closing may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// How many pings may be unanswered before the peer counts as dead.
const PINGS_UNANSWERED_MAX: u8 = 2;

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
    let reply = create_response_with_body(request, Full::default).map_err(|error| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!("This is no websocket request: {error}."),
        )
    })?;
    let admitted = admit(app, request).await;
    let connection = request.extensions().get::<Connection>().cloned();
    let upgrade = hyper::upgrade::on(request);
    let app = Arc::clone(app);
    let tasks = app.socket_tasks.clone();
    tasks.spawn(async move {
        serve(&app, upgrade, admitted).await;
        drop(connection);
    });
    Ok(reply)
}

/// Whose socket it is, or how it is to be closed.
async fn admit(app: &App, request: &Request<Incoming>) -> Result<Bearer, Closing> {
    let (query, headers) = (request.uri().query(), request.headers());
    let admitted = app.access.of_stream(query, headers).await;
    admitted.map_err(why_not)
}

/// How a socket is closed that may not be open.
fn why_not(error: AccessError) -> Closing {
    match error {
        AccessError::TokenRequired => {
            Closing::now(CloseCode::NotAllowed, "Authentication required")
        }
        AccessError::InvalidToken => Closing::now(CloseCode::NotAllowed, "Invalid token"),
        AccessError::Busy => Closing::now(CloseCode::TryLater, "Try again later"),
        AccessError::Store(error) => {
            tracing::warn!(%error, "a websocket's token could not be checked");
            Closing::now(CloseCode::TryLater, "Try again later")
        }
    }
}

async fn serve(app: &App, upgrade: OnUpgrade, admitted: Result<Bearer, Closing>) {
    let Ok(Ok(upgraded)) = timeout(STEP_TIMEOUT, upgrade).await else {
        return;
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return;
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(app.sockets.message_bytes_max))
        .max_frame_size(Some(app.sockets.message_bytes_max));
    let (stream, sent_early) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let mut stream =
        WebSocketStream::from_partially_read(stream, sent_early, Role::Server, Some(config)).await;

    let ended = match admitted {
        Ok(bearer) => match Socket::join(app, bearer).await {
            Ok(mut socket) => socket.run(&mut stream).await,
            Err(closing) => End::Close(closing),
        },
        Err(closing) => End::Close(closing),
    };
    if let End::Close(closing) = ended {
        close(stream, closing, app.sockets.send_timeout).await;
    }
}

/// How a socket ends.
enum End {
    /// The peer is to be told.
    Close(Closing),
    /// The peer closed it, or is not there any more.
    Gone,
}

/// A socket that has a seat in the hub.
struct Socket {
    seat: Seat,
    outbox: Arc<Outbox>,
    limits: SocketSettings,
    closing: Closing,
    closes_at: Instant,
    pings_at: Instant,
    pings_unanswered: u8,
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

impl Socket {
    /// Joins the hub, and only then asks for the balance: so no change between the two is missed.
    async fn join(app: &App, bearer: Bearer) -> Result<Self, Closing> {
        let later = Closing::now(CloseCode::TryLater, "Try again later");
        let user = bearer.user;
        let closes_at = app.engine.clock().instant_of(bearer.expires_at);
        let outbox = Arc::new(Outbox::new(app.sockets.events_max));
        let join = |reply| HubMessage::Join {
            bearer: bearer.clone(),
            outbox: Arc::clone(&outbox),
            reply,
        };
        let number = match app.hub.call(join, Some(STEP_TIMEOUT)).await {
            Ok(CallResult::Success(Ok(number))) => number,
            Ok(CallResult::Success(Err(JoinRefused::TooMany))) => {
                return Err(Closing::now(CloseCode::TryLater, "Too many connections"));
            }
            Ok(CallResult::Success(Err(JoinRefused::Draining))) => {
                return Err(Closing::now(CloseCode::GoingAway, "Going away"));
            }
            Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => return Err(later),
        };
        let seat = Seat {
            hub: app.hub.clone(),
            user,
            number,
        };
        // A token that died before the hub knew the socket was not closed by the hub.
        app.access.check(&bearer).await.map_err(why_not)?;
        outbox.put_snapshot(
            app.engine
                .balance(user)
                .await
                .map_err(|error| match error {
                    BalanceError::UserUnknown => {
                        Closing::now(CloseCode::NotAllowed, "Invalid token")
                    }
                    BalanceError::Unavailable => later,
                })?,
        );
        Ok(Self {
            seat,
            outbox,
            limits: app.sockets,
            closing: Closing::now(CloseCode::NotAllowed, "Invalid token"),
            closes_at,
            // Sockets that were opened together are not pinged together.
            pings_at: Instant::now() + app.sockets.ping_every.mul_f64(rand::random_range(0.5..1.0)),
            pings_unanswered: 0,
        })
    }

    async fn run(&mut self, stream: &mut WebSocketStream<TcpStream>) -> End {
        tracing::debug!(user = self.seat.user.get(), "a websocket opened");
        let first = self.outbox.take_balance().map(Next::Balance);
        let mut ended = match first {
            Some(first) => self.act(stream, first).await,
            None => None,
        };
        while ended.is_none() {
            ended = tokio::select! {
                next = self.outbox.next() => self.act(stream, next).await,
                incoming = stream.next() => self.take(incoming),
                () = sleep_until(self.closes_at.min(self.pings_at)) => self.wake(stream).await,
            };
        }
        tracing::debug!(user = self.seat.user.get(), "a websocket ends");
        ended.unwrap_or(End::Gone)
    }

    async fn act(&mut self, stream: &mut WebSocketStream<TcpStream>, next: Next) -> Option<End> {
        let message = match next {
            Next::Event(event) => event,
            Next::Balance(balance) => credit_update(balance),
            Next::Close(closing) => {
                let closes_at = Instant::now() + closing.after;
                if closes_at < self.closes_at {
                    (self.closing, self.closes_at) = (closing, closes_at);
                }
                return (closing.after.is_zero()).then_some(End::Close(closing));
            }
        };
        match serde_json::to_string(&message) {
            Ok(text) => self.send(stream, Message::text(text)).await,
            Err(error) => {
                tracing::error!(%error, "a message has no JSON");
                None
            }
        }
    }

    /// What a client says matters only in that it says something.
    fn take(&mut self, incoming: Option<Result<Message, Error>>) -> Option<End> {
        match incoming {
            Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) | None => Some(End::Gone),
            Some(Ok(_)) => {
                self.pings_unanswered = 0;
                None
            }
            Some(Err(Error::Capacity(_))) => Some(End::Close(Closing::now(
                CloseCode::TooLarge,
                "Message too large",
            ))),
            Some(Err(error)) => {
                tracing::debug!(%error, "a websocket broke");
                Some(End::Gone)
            }
        }
    }

    /// It is time to close, or to see whether the peer is still there.
    async fn wake(&mut self, stream: &mut WebSocketStream<TcpStream>) -> Option<End> {
        let now = Instant::now();
        if now >= self.closes_at {
            return Some(End::Close(self.closing));
        }
        if now < self.pings_at {
            return None;
        }
        if self.pings_unanswered >= PINGS_UNANSWERED_MAX {
            return Some(End::Gone);
        }
        self.pings_unanswered += 1;
        self.pings_at = now + self.limits.ping_every;
        self.send(stream, Message::Ping(bytes::Bytes::new())).await
    }

    async fn send(&self, stream: &mut WebSocketStream<TcpStream>, message: Message) -> Option<End> {
        match timeout(self.limits.send_timeout, stream.send(message)).await {
            Ok(Ok(())) => None,
            // A peer that takes nothing doesn't take the reason either.
            Ok(Err(_)) | Err(_) => Some(End::Gone),
        }
    }
}

/// Says good-bye: the close frame, the end of what we send, and a while for the peer to see both.
/// Without that while, what the peer still sends would make the system throw the frame away.
async fn close(mut stream: WebSocketStream<TcpStream>, closing: Closing, send_timeout: Duration) {
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
    let mut stream = stream.into_inner();
    let farewell = async {
        stream.shutdown().await?;
        let mut scrap = [0; READ_BUFFER_BYTES];
        while stream.read(&mut scrap).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whether the peer saw it is not for us to know.
    let _ = timeout(STEP_TIMEOUT, farewell).await;
}

fn credit_update(balance: LiveBalance) -> ServerMessage {
    ServerMessage::CreditUpdate(CreditUpdate {
        credits: balance.credits,
        as_of: balance.as_of,
        active: balance.session.is_some(),
        session: balance.session,
    })
}

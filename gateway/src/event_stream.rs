//! Server-sent events: the same messages as over a websocket, for clients behind proxies that break
//! websockets.
//!
//! Each message is an event without a name, so that `EventSource.onmessage` gets it; its id is the
//! position after it, which an `EventSource` that comes back sends as `Last-Event-ID`. The end is an
//! event named `close`, with the code and the reason that a websocket would be closed with.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{
    Either, Full,
    channel::{Channel, Sender},
};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
};
use schema::websocket::{CloseCode, StreamPosition, TOO_MANY_CONNECTIONS};
use tokio::time::{Instant, timeout};

use crate::{
    alarm::Alarm,
    app::App,
    limits::Limit,
    metrics::SocketKind,
    outbox::Closing,
    reply::{self, Body, Failure, Reply},
    subscription::{self, LAST_EVENT_ID, Step, Subscriber, Subscription},
};

/// How many messages may wait for the connection.
const WAITING_MAX: usize = 1;

/// How long a client whose stream broke should wait before it comes back, so that many don't come
/// back at once.
const COME_BACK_AFTER: std::ops::Range<i64> = 1_000..3_000;

/// The address of event streams.
const ADDRESS: &str = "/api/stream";

/// Tells nginx not to hold messages back.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET /api/stream`
pub async fn open(app: &Arc<App>, request: &Request<Incoming>) -> Result<Reply, Failure> {
    if app.draining.has_begun() {
        return Err(Failure::unavailable());
    }
    // In this order: a ticket is used up by looking at it.
    let subscriber = Subscriber::of(app, request)?;
    let bearer = subscription::event_stream_bearer(app, request).await?;
    if request.method() == Method::HEAD {
        return Ok(reply_with(Either::Left(Full::default())));
    }
    let begun = Subscription::begin(app, bearer, subscriber, SocketKind::EventStream).await;
    let subscription = begun.map_err(refusal)?;
    let (sender, body) = Channel::new(WAITING_MAX);
    let stream = EventStream {
        app: Arc::clone(app),
        sender,
    };
    app.socket_tasks.spawn(stream.run(subscription));
    Ok(reply_with(Either::Right(body)))
}

/// Whether a client that is refused for now must be told so within a stream: an `EventSource` that comes
/// back gives up for ever at any status but 200.
pub fn must_be_told_to_wait(path: &str, headers: &HeaderMap) -> bool {
    path == ADDRESS && headers.contains_key(LAST_EVENT_ID)
}

/// A stream that says nothing but when to come back, in place of `failure`, if that passes.
pub fn come_later(failure: Failure) -> Result<Reply, Failure> {
    let Some(wait) = failure.passes_after() else {
        return Err(failure);
    };
    let retry = rand::random_range(COME_BACK_AFTER) + wait;
    let end = farewell(Closing::now(CloseCode::TryLater, "Try again later"));
    let text = format!("{}{end}", come_back_after(retry));
    Ok(reply_with(Either::Left(Full::new(text.into()))))
}

/// The reply that is a stream of events.
fn reply_with(body: Body) -> Reply {
    let mut reply = reply::empty(StatusCode::OK);
    *reply.body_mut() = body;
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        // Proxies that compress hold every event back, unless they are told not to transform anything.
        (CACHE_CONTROL, "no-cache, no-store, no-transform"),
        (NO_BUFFERING, "no"),
    ] {
        reply
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    reply
}

/// What a websocket would be closed with at once, as a reply.
fn refusal(closing: Closing) -> Failure {
    match closing.code {
        CloseCode::NotAllowed => crate::access::AccessError::InvalidToken.into(),
        CloseCode::TryLater if closing.reason == TOO_MANY_CONNECTIONS => {
            Failure::rate_limited("Too many connections.", subscription::CROWD_WAIT)
        }
        _ => Failure::unavailable(),
    }
}

/// An event stream that is open.
struct EventStream {
    app: Arc<App>,
    sender: Sender<Bytes, Infallible>,
}

/// The client is not there any more, or took nothing for too long.
struct Gone;

impl EventStream {
    async fn run(mut self, mut subscription: Subscription) {
        let user = subscription.user().get();
        tracing::debug!(user, "an event stream opened");
        let code = self.tell(&mut subscription).await.ok();
        self.app.metrics.sockets.closed(code);
        if code == Some(CloseCode::TooSlow) {
            self.app.metrics.sockets.slow();
            self.app.metrics.limits.hit(Limit::SlowConsumer);
        }
        tracing::debug!(user, "an event stream ends");
    }

    /// Tells the client until it is to be told no more, and returns why.
    async fn tell(&mut self, subscription: &mut Subscription) -> Result<CloseCode, Gone> {
        let retry = rand::random_range(COME_BACK_AFTER);
        self.send(come_back_after(retry)).await?;
        let ping_every = self.app.sockets.ping_every;
        let mut pings_at = Instant::now() + ping_every.mul_f64(rand::random_range(0.5..1.0));
        let mut alarm = Alarm::new(pings_at);
        loop {
            let next = poll_fn(|context| poll_next(subscription, &mut alarm, pings_at, context));
            let step = match next.await {
                Some(step) => Some(step),
                None => subscription.wake(),
            };
            match step {
                Some(Step::Send(text, position)) => {
                    self.send(message(text.as_str(), position)).await?;
                }
                Some(Step::Close(closing)) => {
                    self.send(farewell(closing)).await?;
                    return Ok(closing.code);
                }
                None => {}
            }
            if Instant::now() >= pings_at {
                pings_at = Instant::now() + ping_every;
                self.send(": still here\n\n".to_owned()).await?;
            }
        }
    }

    async fn send(&mut self, text: String) -> Result<(), Gone> {
        let patience: Duration = self.app.sockets.send_timeout;
        match timeout(patience, self.sender.send_data(text.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone),
            Err(_) => {
                self.app.metrics.sockets.slow();
                self.app.metrics.limits.hit(Limit::SendTimeout);
                Err(Gone)
            }
        }
    }
}

/// The next thing to do for the client, or nothing when it is time for something.
fn poll_next(
    subscription: &mut Subscription,
    alarm: &mut Alarm,
    pings_at: Instant,
    context: &mut Context<'_>,
) -> Poll<Option<Step>> {
    if let Poll::Ready(step) = subscription.poll_next(context) {
        return Poll::Ready(Some(step));
    }
    let wakes_at = subscription.wakes_at().min(pings_at);
    alarm.poll_reached(context, wakes_at).map(|()| None)
}

fn come_back_after(millis: i64) -> String {
    format!("retry: {millis}\n\n")
}

fn message(text: &str, position: StreamPosition) -> String {
    format!("id: {position}\ndata: {text}\n\n")
}

fn farewell(closing: Closing) -> String {
    // The reason is a word of ours, which needs no escapes.
    let (code, reason) = (closing.code.number(), closing.reason);
    format!("event: close\ndata: {{\"code\":{code},\"reason\":\"{reason}\"}}\n\n")
}

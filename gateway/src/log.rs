//! The log: set up once, and one line for each request.
//!
//! An address's query is never logged: it may hold a token.

use hyper::{
    HeaderMap, Request,
    body::Incoming,
    header::{HeaderName, HeaderValue},
};
use tokio::time::Instant;
use tracing::Instrument;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    client::{Client, Way},
    reply::Reply,
    routes::{RouteName, Routes},
    settings::{LogFormat, LogSettings},
    telemetry::{self, Telemetry},
    voice,
};

/// The header with a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken from a trusted proxy.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// How much of an address's path is logged.
const PATH_BYTES_MAX: usize = 200;

/// Sends the log to standard error from now on, and spans to where `telemetry` wants them. A second
/// call changes nothing.
pub fn start(settings: &LogSettings, telemetry: Option<&Telemetry>) {
    // The settings have checked it.
    let targets: Targets = settings.level.parse().unwrap_or_default();
    // Postgres remarks at every start that what exists already exists. And ractor opens a span for each
    // actor, which costs 1 KB for each session and some time for each message.
    let targets = targets
        .with_target("sqlx::postgres::notice", LevelFilter::WARN)
        .with_target("ractor", LevelFilter::WARN)
        .with_target(voice::TARGET, LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Human => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // In tests there may be a log already.
    let started = tracing_subscriber::registry()
        .with(telemetry.map(Telemetry::layer))
        .with(lines.with_filter(targets))
        .try_init();
    if started.is_ok() && settings.format == LogFormat::Json {
        voice::log_panics();
    }
}

/// Answers `request`, and logs that. The reply and all lines of the log carry the same request id.
pub async fn answered(routes: &Routes, request: Request<Incoming>) -> Reply {
    let is_from_proxy = request
        .extensions()
        .get::<Client>()
        .is_some_and(|client| client.way == Way::TrustedProxy);
    let id = given_id(request.headers()).filter(|_| is_from_proxy);
    let id = id.unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
    let path = loggable(request.uri().path());
    let span = tracing::info_span!("request", id, method = %request.method(), path);
    if is_from_proxy {
        telemetry::join_trace(&span, request.headers());
    }
    let began = Instant::now();
    let mut reply = routes.answer(request).instrument(span.clone()).await;
    let route = reply
        .extensions()
        .get::<RouteName>()
        .map_or("none", |route| route.0);
    telemetry::tell_answer(&span, route, reply.status());
    routes
        .app()
        .metrics
        .http
        .answered(route, reply.status(), began.elapsed());
    let (status, duration_us) = (reply.status().as_u16(), began.elapsed().as_micros());
    if reply.status().is_server_error() {
        span.in_scope(|| tracing::warn!(status, duration_us, "answered"));
    } else {
        span.in_scope(|| tracing::debug!(status, duration_us, "answered"));
    }
    if let Ok(id) = HeaderValue::try_from(id) {
        reply.headers_mut().insert(REQUEST_ID, id);
    }
    reply
}

/// `path` as far as it may be logged: up to what may be a token or a ticket that stands where none should,
/// and no longer than any address of ours.
fn loggable(path: &str) -> &str {
    let secret = path.find("v4.").unwrap_or(path.len());
    let end = path.floor_char_boundary(secret.min(PATH_BYTES_MAX));
    path.get(..end).unwrap_or_default()
}

/// The id that a request comes with, if it is fit for logs and headers.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    ((1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_sane))
        .then(|| id.to_owned())
}

//! The log: set up once, and one line for each request.
//!
//! An address's query is never logged: it may hold a token.

use hyper::{Request, body::Incoming, header::HeaderValue};
use tokio::time::Instant;
use tracing::Instrument;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    reply::Reply,
    routes::{RouteName, Routes},
    settings::{LogFormat, LogSettings},
};

/// Sends the log to standard error from now on. A second call changes nothing.
pub fn start(settings: &LogSettings) {
    // The settings have checked it.
    let targets: Targets = settings.level.parse().unwrap_or_default();
    // Postgres remarks at every start that what exists already exists.
    let targets = targets.with_target("sqlx::postgres::notice", LevelFilter::WARN);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Human => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // In tests there may be a log already.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .try_init();
}

/// Answers `request`, and logs that. The reply and all lines of the log carry the same request id.
pub async fn answered(routes: &Routes, request: Request<Incoming>) -> Reply {
    let id = format!("{:016x}", rand::random::<u64>());
    let span =
        tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    let began = Instant::now();
    let mut reply = routes.answer(request).instrument(span.clone()).await;
    let route = reply
        .extensions()
        .get::<RouteName>()
        .map_or("none", |route| route.0);
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
        reply.headers_mut().insert("x-request-id", id);
    }
    reply
}

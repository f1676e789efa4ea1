//! Sends batches of spans to the collector: one request of HTTP each, on a connection of its own.
//!
//! The library calls it from a thread of its own, so it has a small runtime of its own there and never
//! takes the server's time.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    client::conn::http1,
    header::{HOST, HeaderValue},
    http::uri::{PathAndQuery, Uri},
};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::{Instant, timeout},
};

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How often a failure is worth a line in the log.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// The client that the library sends with.
#[derive(Debug)]
pub(super) struct Exporter {
    runtime: Runtime,
    timeout: Duration,
    began: Instant,
    /// Seconds from `began` to the last line about a failure, plus one; 0 before the first.
    warned: AtomicU64,
}

impl Exporter {
    /// A client whose requests take at most `timeout`.
    pub(super) fn new(timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            timeout,
            began: Instant::now(),
            warned: AtomicU64::new(0),
        })
    }

    /// Says at most once a minute that the collector can't be reached.
    fn warn(&self, error: &HttpError) {
        let now = self.began.elapsed().as_secs() + 1;
        let warned = self.warned.load(Ordering::Relaxed);
        if warned == 0 || now - warned >= WARN_EVERY.as_secs() {
            self.warned.store(now, Ordering::Relaxed);
            tracing::warn!(%error, "spans could not be sent to the collector");
        }
    }
}

#[async_trait]
impl HttpClient for Exporter {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self
            .runtime
            .block_on(async { timeout(self.timeout, send(request)).await });
        let sent = sent.unwrap_or_else(|_| Err("the collector did not answer in time".into()));
        sent.and_then(accepted)
            .inspect_err(|error| self.warn(error))
    }
}

/// The answer, if it is a success.
fn accepted(answer: Response<Bytes>) -> Result<Response<Bytes>, HttpError> {
    if answer.status().is_success() {
        Ok(answer)
    } else {
        Err(format!("the collector answered {}", answer.status()).into())
    }
}

async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut parts, body) = request.into_parts();
    let host = parts.uri.host().ok_or("the endpoint has no host")?;
    let port = parts.uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);

    let authority = parts.uri.authority().map_or(host, |whole| whole.as_str());
    parts
        .headers
        .insert(HOST, HeaderValue::from_str(authority)?);
    let path = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    let answer = sender
        .send_request(Request::from_parts(parts, Full::new(body)))
        .await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
    connection.abort();
    Ok(Response::from_parts(parts, body.to_bytes()))
}

//! Connections: accepting them, serving HTTP on each, ending them.
//!
//! Each has its bounds: how many there are, in all and from one client; how long it may be idle, how long
//! a head may take to arrive, and how long the client may take to receive. A connection that becomes a
//! websocket counts until that ends.

mod farewell;
mod heads;
mod held;
mod timed;

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{
    Method, Request, StatusCode,
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    heads::HeadTimer,
    held::{Held, Progress},
    timed::TimedSends,
};
use crate::{
    client::{Client, ClientAddress},
    limits::Limit,
    log,
    occupancy::{Occupancy, Place},
    reply::Reply,
    routes::Routes,
    settings::HttpSettings,
};

/// How long to wait when no connection can be accepted, for example for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What a connection reads and writes.
pub type Stream = TokioIo<Held<TimedSends<TcpStream>>>;

/// The system's stream under `stream`. None if it was taken out before.
pub fn into_tcp(stream: Stream) -> Option<TcpStream> {
    stream.into_inner().into_inner().map(TimedSends::into_inner)
}

/// A client's connection. It counts as open as long as there is a clone of this.
#[derive(Clone)]
pub struct Connection(#[expect(dead_code, reason = "kept to be dropped")] Arc<Counted>);

struct Counted {
    _permit: OwnedSemaphorePermit,
    /// None for a trusted proxy, which brings many clients.
    _place: Option<Place>,
    open: Gauge,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// The open connections.
pub struct Connections {
    routes: Arc<Routes>,
    permits: Arc<Semaphore>,
    places: Occupancy,
    ending: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// No connections yet; what they ask for is answered by `routes`.
    pub fn new(routes: Arc<Routes>) -> Self {
        let settings = &routes.app().http;
        Self {
            permits: Arc::new(Semaphore::new(settings.connections_max)),
            places: Occupancy::new(settings.connections_per_address_max),
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
            routes,
        }
    }

    /// Waits for a connection, once there may be one more, and serves it in a task of its own.
    pub async fn serve_next(&self, listener: &TcpListener) {
        let Some(permit) = self.permit().await else {
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, peer)) => self.serve(stream, peer.ip(), permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Ends each connection when it has answered the request that it is at, and waits for that.
    pub async fn end(&self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// A permit for one more connection. Nothing if the semaphore is closed, which it never is.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        self.routes.app().metrics.limits.hit(Limit::Connections);
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    fn serve(&self, stream: TcpStream, peer: IpAddr, permit: OwnedSemaphorePermit) {
        let app = self.routes.app();
        let peer = ClientAddress::of_peer(peer);
        let place = if peer.is_in(&app.http.trusted_proxies) {
            None
        } else {
            let Some(place) = self.places.enter(peer.network()) else {
                app.metrics.limits.hit(Limit::ConnectionsPerAddress);
                return;
            };
            Some(place)
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone at once");
            return;
        }
        let open = app.metrics.http.connections.clone();
        open.inc();
        let connection = Connection(Arc::new(Counted {
            _permit: permit,
            _place: place,
            open,
        }));
        let routes = Arc::clone(&self.routes);
        let ending = self.ending.clone();
        self.tasks
            .spawn(serve_http(stream, peer, connection, routes, ending));
    }
}

async fn serve_http(
    stream: TcpStream,
    peer: ClientAddress,
    connection: Connection,
    routes: Arc<Routes>,
    ending: CancellationToken,
) {
    let http: &HttpSettings = &routes.app().http;
    let progress = Arc::new(Progress::default());
    let stream = TimedSends::new(stream, http.send_timeout);
    let (held, dropped) = Held::new(stream, Arc::clone(&progress));
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer::new(Arc::clone(&progress), http.header_timeout))
        .header_read_timeout(http.idle_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    let service = service_fn(|mut request: Request<Incoming>| {
        let client = client(peer, &request, &http.trusted_proxies);
        request.extensions_mut().insert(client);
        request.extensions_mut().insert(connection.clone());
        let (routes, progress) = (Arc::clone(&routes), Arc::clone(&progress));
        async move {
            let has_body = !request.body().is_end_stream();
            let reads_body = request.method() == Method::POST;
            let reply = log::answered(&routes, request).await;
            progress.set_leaves_unread(has_body && !(reads_body && reply.status().is_success()));
            slow_down_if_refused(&routes, client.address, &reply).await;
            Ok::<_, std::convert::Infallible>(reply)
        }
    });
    let ended = {
        let mut served = pin!(
            builder
                .serve_connection(TokioIo::new(held), service)
                .with_upgrades()
        );
        tokio::select! {
            ended = &mut served => ended,
            () = ending.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    let mut was_misread = false;
    if let Err(error) = &ended {
        if timed::is_timeout(error) {
            routes.app().metrics.limits.hit(Limit::SendTimeout);
        }
        was_misread = error.is_parse();
        tracing::debug!(%error, "a connection ended badly");
    }
    if was_misread && let Some(wait) = routes.app().refuse(peer) {
        tokio::time::sleep(wait).await;
    }
    drop_gently(dropped, &progress, was_misread).await;
}

/// Closes the stream that hyper has dropped: slowly, if its client may still be sending.
async fn drop_gently(
    mut dropped: oneshot::Receiver<TimedSends<TcpStream>>,
    progress: &Progress,
    was_misread: bool,
) {
    let is_sending = (was_misread || progress.leaves_unread()) && !progress.has_ended();
    // There is none if the connection became a websocket.
    if is_sending && let Ok(stream) = dropped.try_recv() {
        farewell::close(stream).await;
    }
}

/// Holds back the answer to a client that sends one bad request after the other, so that a flood of
/// them takes nothing from others.
async fn slow_down_if_refused(routes: &Routes, client: ClientAddress, reply: &Reply) {
    let status = reply.status();
    // These two are answers to requests that were right.
    let is_refusal = status.is_client_error()
        && !matches!(status, StatusCode::PAYMENT_REQUIRED | StatusCode::CONFLICT);
    if is_refusal && let Some(wait) = routes.app().refuse(client) {
        tokio::time::sleep(wait).await;
    }
}

fn client(peer: ClientAddress, request: &Request<Incoming>, proxies: &[IpNet]) -> Client {
    Client::of(peer.get(), request.headers(), proxies)
}

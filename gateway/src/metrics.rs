//! What is counted and measured of the process, in the text forms that Prometheus reads.
//!
//! Every name has the prefix `minute_credit_`, but for those of the process, whose names are
//! Prometheus's own.

#[cfg(target_os = "linux")]
mod process;
mod text;

use std::{sync::atomic::AtomicI64, time::Duration};

use hyper::StatusCode;
use prometheus_client::{
    encoding,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use schema::{Millis, websocket::CloseCode};

pub use self::text::Form;
use crate::limits::Limits;

/// One label with its value.
type Label = [(&'static str, &'static str); 1];
/// A route and the status of its reply.
type RouteAndStatus = (Label, [(&'static str, u16); 1]);

/// The process's metrics.
pub struct Metrics {
    registry: Registry,
    /// How often limits were reached.
    pub limits: Limits,
    /// HTTP.
    pub http: HttpMetrics,
    /// Websockets and event streams.
    pub sockets: SocketMetrics,
    /// Passwords that are being hashed or wait to be.
    pub passwords_waiting: Gauge,
}

/// What is counted of HTTP.
pub struct HttpMetrics {
    requests: Family<RouteAndStatus, Counter>,
    seconds: Family<Label, Histogram, TimeBuckets>,
    /// Requests that are being answered.
    pub in_flight: Gauge,
    /// Open connections, with those of websockets.
    pub connections: Gauge,
}

/// What is counted of websockets and event streams.
pub struct SocketMetrics {
    open: Family<Label, Gauge>,
    opened: Family<Label, Counter>,
    closes: Family<[(&'static str, u16); 1], Counter>,
    slow: Counter,
    /// From the instant that an interval was charged at to the sending of the new balance, in seconds.
    lateness: Histogram,
}

/// By what a client is told its balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A websocket.
    Websocket,
    /// Server-sent events.
    EventStream,
}

impl SocketKind {
    /// The name in metrics and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::EventStream => "event_stream",
        }
    }
}

/// Makes histograms of the time that requests take.
#[derive(Clone)]
struct TimeBuckets;

impl MetricConstructor<Histogram> for TimeBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
    }
}

impl Metrics {
    /// The metrics, nothing counted yet, with those that `register_more` adds.
    pub fn new(register_more: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        #[cfg(target_os = "linux")]
        registry.register_collector(Box::new(process::ProcessCollector));
        let ours = registry.sub_registry_with_prefix("minute_credit");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        ours.register("build", "The version of the program", version);
        register_more(ours);
        let passwords_waiting = Gauge::default();
        ours.register(
            "passwords_waiting",
            "Passwords that are being hashed or wait to be",
            passwords_waiting.clone(),
        );
        Self {
            limits: Limits::new(ours),
            http: HttpMetrics::new(ours),
            sockets: SocketMetrics::new(ours),
            passwords_waiting,
            registry,
        }
    }

    /// All of them as text of that form.
    pub fn encode(&self, form: Form) -> Result<String, std::fmt::Error> {
        let mut written = String::new();
        encoding::text::encode(&mut written, &self.registry)?;
        Ok(match form {
            Form::OpenMetrics => written,
            Form::Plain => text::to_plain(&written),
        })
    }
}

impl HttpMetrics {
    fn new(registry: &mut Registry) -> Self {
        let requests = Family::default();
        let seconds = Family::new_with_constructor(TimeBuckets);
        let (in_flight, connections) = (Gauge::default(), Gauge::default());
        registry.register(
            "http_requests",
            "Requests that were answered, by route and status",
            Family::clone(&requests),
        );
        registry.register(
            "http_request_seconds",
            "The time from a request's head to its reply's, by route",
            Family::clone(&seconds),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests that are being answered",
            in_flight.clone(),
        );
        registry.register(
            "http_connections",
            "Open connections, with those of websockets",
            connections.clone(),
        );
        Self {
            requests,
            seconds,
            in_flight,
            connections,
        }
    }

    /// A request for `route` was answered.
    pub fn answered(&self, route: &'static str, status: StatusCode, after: Duration) {
        let labels = ([("route", route)], [("status", status.as_u16())]);
        self.requests.get_or_create(&labels).inc();
        self.seconds
            .get_or_create(&[("route", route)])
            .observe(after.as_secs_f64());
    }
}

impl SocketMetrics {
    fn new(registry: &mut Registry) -> Self {
        let new = Self {
            open: Family::default(),
            opened: Family::default(),
            closes: Family::default(),
            slow: Counter::default(),
            lateness: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
        };
        for kind in [SocketKind::Websocket, SocketKind::EventStream] {
            new.open.get_or_create(&[("kind", kind.name())]).set(0);
            new.opened.get_or_create(&[("kind", kind.name())]).inc_by(0);
        }
        registry.register(
            "sockets",
            "Open websockets and event streams",
            new.open.clone(),
        );
        registry.register(
            "sockets_opened",
            "Websockets and event streams that were opened",
            new.opened.clone(),
        );
        registry.register(
            "socket_closes",
            "Websockets and event streams that were closed, by the websocket's close code; 1000 if the client closed it, 1006 if the client was gone",
            new.closes.clone(),
        );
        registry.register(
            "slow_consumers",
            "Clients that were closed because they did not take what was sent",
            new.slow.clone(),
        );
        registry.register(
            "push_lateness_seconds",
            "From the instant that an interval was charged at to the sending of the new balance",
            new.lateness.clone(),
        );
        new
    }

    /// A socket opened. It counts as open until the result is dropped.
    pub fn opened(&self, kind: SocketKind) -> OpenSocket {
        self.opened.get_or_create(&[("kind", kind.name())]).inc();
        let open = self.open.get_or_create_owned(&[("kind", kind.name())]);
        open.inc();
        OpenSocket(open)
    }

    /// A socket was closed with `code`, or the client was gone.
    pub fn closed(&self, code: Option<CloseCode>) {
        let number = code.map_or(CloseCode::ABNORMAL, CloseCode::number);
        self.closes.get_or_create(&[("code", number)]).inc();
    }

    /// A client has closed its socket.
    pub fn closed_by_client(&self) {
        let number = CloseCode::NORMAL;
        self.closes.get_or_create(&[("code", number)]).inc();
    }

    /// A client did not take what was sent.
    pub fn slow(&self) {
        self.slow.inc();
    }

    /// A balance was sent so much after the charge that it shows.
    pub fn late(&self, lateness: Millis) {
        self.lateness.observe(lateness.to_duration().as_secs_f64());
    }
}

/// An open socket.
pub struct OpenSocket(Gauge<i64, AtomicI64>);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.dec();
    }
}

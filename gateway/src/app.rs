//! What every request may use.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use engine::Engine;
use ipnet::IpNet;
use ractor::ActorRef;
use schema::Credits;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    access::Access,
    client::ClientAddress,
    hub::HubMessage,
    limits::Limit,
    log_ins::LogIns,
    metrics::Metrics,
    occupancy::Occupancy,
    passwords::Passwords,
    refusals::Refusals,
    settings::{HttpSettings, SocketSettings},
    signups::Signups,
};

/// The parts of the running gateway that routes and sockets share.
pub struct App {
    /// Sessions and balances.
    pub engine: Engine,
    /// Tokens.
    pub access: Access,
    /// Passwords.
    pub passwords: Passwords,
    /// How often passwords were tried.
    pub log_ins: LogIns,
    /// How many have signed up.
    pub signups: Signups,
    /// How many requests were refused.
    pub refusals: Refusals,
    /// The open websockets.
    pub hub: ActorRef<HubMessage>,
    /// What is counted and measured.
    pub metrics: Metrics,
    /// Room for requests that are being answered.
    pub requests: Semaphore,
    /// How many websockets and event streams each client has.
    pub socket_places: Occupancy,
    /// The tasks of the open websockets, to be waited for at the end.
    pub socket_tasks: TaskTracker,
    /// Limits of HTTP.
    pub http: HttpSettings,
    /// Limits of websockets.
    pub sockets: SocketSettings,
    /// The credits that come with signing up.
    pub signup_credits: Credits,
    /// Who may see the metrics.
    pub metrics_networks: Vec<IpNet>,
    /// Whether the program is about to end.
    pub draining: Draining,
}

impl App {
    /// One more request of `client` is refused: how long its answer is to be held back, if at all.
    pub fn refuse(&self, client: ClientAddress) -> Option<Duration> {
        let wait = self
            .refusals
            .count(client.network(), self.engine.clock().now());
        if wait.is_some() {
            self.metrics.limits.hit(Limit::RefusedRequests);
        }
        wait
    }
}

/// Whether the program is about to end. It never goes back.
#[derive(Debug, Default)]
pub struct Draining(AtomicBool);

impl Draining {
    /// From now on it is.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

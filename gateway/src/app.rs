//! What every request may use.

use std::sync::atomic::{AtomicBool, Ordering};

use engine::Engine;
use ractor::ActorRef;
use schema::Credits;
use tokio_util::task::TaskTracker;

use crate::{
    access::Access,
    hub::HubMessage,
    passwords::Passwords,
    settings::{HttpSettings, SocketSettings},
};

/// The parts of the running gateway that routes and sockets share.
pub struct App {
    /// Sessions and balances.
    pub engine: Engine,
    /// Tokens.
    pub access: Access,
    /// Passwords.
    pub passwords: Passwords,
    /// The open websockets.
    pub hub: ActorRef<HubMessage>,
    /// The tasks of the open websockets, to be waited for at the end.
    pub socket_tasks: TaskTracker,
    /// Limits of HTTP.
    pub http: HttpSettings,
    /// Limits of websockets.
    pub sockets: SocketSettings,
    /// The credits that come with signing up.
    pub signup_credits: Credits,
    /// Whether the program is about to end.
    pub draining: Draining,
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

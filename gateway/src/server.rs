//! The server: built from settings, run until it is told to stop, drained in order.

use std::{io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc};

use engine::{
    Clock, Engine,
    clock::ClockError,
    engine::{Displacement, EngineStartError},
    store::{self, PostgresAddress, StoreError, StoreLocation, TokenStanding},
};
use ractor::Actor;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    access::Access,
    app::{App, Draining},
    connections::Connections,
    hub::{Hub, HubArguments, HubMessage},
    key_file::{self, KeyFileError},
    key_ring::KeyRing,
    log_ins::LogIns,
    metrics::Metrics,
    occupancy::Occupancy,
    passwords::{PasswordError, Passwords},
    refusals::Refusals,
    routes::Routes,
    settings::{DataDirError, KeySource, Settings},
    signups::Signups,
    tokens::Tokens,
};

/// What part of the time for draining clients may have; the rest is for what is to be recorded.
const CLIENTS_SHARE: f64 = 0.7;
/// How much the system keeps of what a client has not taken yet, in bytes; Linux doubles it for its own
/// needs. So 16,000 clients that never read hold 4 GB at most, and one address 128 MB.
const SEND_BUFFER_BYTES: u32 = 128 << 10;
/// How many connections may wait to be accepted.
const ACCEPT_QUEUE: u32 = 1024;

/// Why the server does not run, or does not run on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address can't be listened on.
    #[error("can't listen on {address}{hint}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What to do.
        hint: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The database can't be used.
    #[error("can't use the database {location}{hint}")]
    Store {
        /// Which, without secrets.
        location: String,
        /// What to do.
        hint: &'static str,
        /// What went wrong.
        #[source]
        source: StoreError,
    },
    /// The clock can't be trusted.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The folder for what is kept in files can't be made.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is no key for tokens.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Passwords can't be hashed.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
    /// The hub did not start.
    #[error("the hub did not start")]
    Hub(#[from] ractor::SpawnErr),
    /// The engine did not start.
    #[error("the engine did not start")]
    Engine(#[from] EngineStartError),
    /// Two routes have one address.
    #[error("the routes contradict each other")]
    Routes(#[from] matchit::InsertError),
    /// Another process runs under our node's name.
    #[error(
        "another process has taken over this node's name and its sessions: give each process a node.name of its own"
    )]
    Superseded,
    /// The database lacks what it had acknowledged.
    #[error("can't go on")]
    WentBack(#[source] StoreError),
    /// The hub ended by itself.
    #[error("the hub ended by itself")]
    HubEnded,
}

impl ServerError {
    /// The database at `location` failed because of `source`.
    pub fn store(location: &StoreLocation, source: StoreError) -> Self {
        let hint = match (&source, location) {
            (StoreError::Unavailable(_) | StoreError::TimedOut(_), StoreLocation::Postgres(_)) => {
                " (does it run, and is DATABASE_URL right?)"
            }
            (StoreError::File { .. }, _) => " (DATA_DIR or DATABASE_URL can name another place)",
            (StoreError::Incompatible(_), _) => " (DATABASE_URL can name another one)",
            _ => "",
        };
        Self::Store {
            location: describe(location),
            hint,
            source,
        }
    }
}

/// A server that is ready to run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    routes: Arc<Routes>,
    hub: JoinHandle<()>,
    /// What follows changes from outside: notices and keys.
    followers: Vec<AbortHandle>,
    /// What it runs on, for people.
    backing: String,
}

impl Server {
    /// Builds everything. The address comes first, so that one in use costs nothing else.
    pub async fn build(settings: Settings) -> Result<Self, ServerError> {
        let listener = listen(settings.http.address)?;
        let address = listener.local_addr().unwrap_or(settings.http.address);
        let location = settings.store.location.clone();
        let in_store = |source| ServerError::store(&location, source);

        settings.make_data_dir()?;
        let ring = key_file::load(&settings.tokens.key)?;
        let tokens = Tokens::new(ring, settings.tokens.lifetime);
        let store = store::open(&settings.store).await.map_err(in_store)?;
        let recorded = store.node_time(&settings.engine.node).await;
        let clock = Clock::start(recorded.map_err(in_store)?)?;
        let access = Access::new(tokens, clock.clone(), Arc::clone(&store));
        let latest_notice = store.latest_notice().await.map_err(in_store)?;

        let mirror = if settings.engine.redis_url.is_some() {
            "mirrored to Redis"
        } else {
            "no mirror"
        };
        let arguments = HubArguments {
            epochs: access.epochs(),
            per_user_max: settings.sockets.per_user_max,
            replay_events_max: settings.sockets.replay_events_max,
            replay_for: settings.sockets.replay_for,
        };
        let (hub, hub_task) = Hub::spawn(None, Hub, arguments).await?;
        let engine = Engine::start(settings.engine, store, clock, hub.get_derived()).await?;
        if hub.cast(HubMessage::EngineStarted(engine.clone())).is_err() {
            return Err(ServerError::HubEnded);
        }
        let metrics = Metrics::new(|registry| engine.metrics().register(registry));
        let app = Arc::new(App {
            passwords: Passwords::new(settings.passwords)?,
            log_ins: LogIns::new(settings.log_ins),
            signups: Signups::new(settings.signups_per_address_per_hour),
            refusals: Refusals::new(settings.refused_requests_per_address_per_minute),
            metrics,
            engine,
            access,
            hub,
            socket_tasks: TaskTracker::new(),
            socket_places: Occupancy::new(settings.sockets.per_address_max),
            requests: Semaphore::new(settings.http.requests_in_flight_max),
            http: settings.http,
            sockets: settings.sockets,
            signup_credits: settings.signup_credits,
            metrics_networks: settings.metrics_networks,
            draining: Draining::default(),
        });
        let routes = Arc::new(Routes::new(Arc::clone(&app))?);
        let mut followers =
            vec![tokio::spawn(follow_notices(Arc::clone(&app), latest_notice)).abort_handle()];
        if let KeySource::File(path) = settings.tokens.key {
            followers.push(tokio::spawn(follow_keys(Arc::clone(&app), path)).abort_handle());
        }
        Ok(Self {
            listener,
            address,
            app,
            routes,
            hub: hub_task,
            followers,
            backing: format!("{}, {mirror}", describe(&location)),
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// One line that says where it is and what it runs on.
    pub fn greeting(&self) -> String {
        format!(
            "Minute-Credit is ready at http://{} ({})",
            self.address, self.backing
        )
    }

    /// Serves until `stop` is done or it can't go on. Then it ends in order: sockets and requests, the
    /// engine, the database.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self {
            listener,
            app,
            routes,
            mut hub,
            followers,
            ..
        } = self;
        let connections = Connections::new(routes);
        let engine = app.engine.clone();
        let ended = {
            let (mut stop, mut superseded) = (pin!(stop), pin!(engine.superseded()));
            loop {
                tokio::select! {
                    () = &mut stop => break Ok(()),
                    displacement = &mut superseded => break Err(match displacement {
                        Displacement::Superseded => ServerError::Superseded,
                        Displacement::WentBack => ServerError::WentBack(StoreError::WentBack),
                    }),
                    _ = &mut hub => break Err(ServerError::HubEnded),
                    () = connections.serve_next(&listener) => {}
                }
            }
        };
        app.draining.begin();
        tracing::info!(live_sessions = app.engine.live_sessions(), "draining");
        if ended.is_ok() {
            serve_unready(&app, &connections, &listener).await;
        }
        let ends_at = Instant::now() + app.http.drain_timeout;
        drop(listener);
        followers.iter().for_each(AbortHandle::abort);
        drain_clients(&app, &connections).await;
        // A process that was superseded can record nothing more: its successor has its sessions.
        if !matches!(
            ended,
            Err(ServerError::Superseded | ServerError::WentBack(_))
        ) {
            let left = ends_at.saturating_duration_since(Instant::now());
            app.engine.shutdown(left).await;
        }
        app.hub.stop(None);
        app.engine.store().close().await;
        ended
    }
}

/// Connections get their send buffers from the listener. Left to itself, the system gives each as much
/// as it likes, 4 MB on Linux: clients that never read could then hold all its memory for sockets.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE)
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    bind(address).map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => {
                ": another program listens there; stop it or set PORT to another port"
            }
            io::ErrorKind::PermissionDenied => {
                ": ports below 1024 need privileges; set PORT to another port"
            }
            io::ErrorKind::AddrNotAvailable => {
                ": this machine does not have that address; see http.host"
            }
            _ => "",
        };
        ServerError::Listen {
            address,
            hint,
            source,
        }
    })
}

/// Voids tokens in memory, and closes their sockets, when somebody else voids them in the database.
async fn follow_notices(app: Arc<App>, after: i64) {
    let on_change = |user, standing: Option<Arc<TokenStanding>>| {
        if standing.is_none() {
            app.engine.forget(user);
        }
        // Without a hub there are no sockets.
        let _ = app.hub.cast(HubMessage::TokensChanged { user, standing });
    };
    app.access.follow_notices(after, on_change).await;
}

/// Serves on for a while, unready, so that a load balancer sees that before it is refused.
async fn serve_unready(app: &App, connections: &Connections, listener: &TcpListener) {
    let mut over = pin!(sleep(app.http.drain_delay));
    loop {
        tokio::select! {
            biased;
            () = &mut over => return,
            () = connections.serve_next(listener) => {}
        }
    }
}

/// Takes the keys of the tokens as they are in their file, and closes the sockets of retired ones.
async fn follow_keys(app: Arc<App>, path: PathBuf) {
    let ring = KeyRing::clone(&app.access.ring());
    let on_change = |ring: KeyRing| {
        let keys = ring.keys().iter().map(|key| key.id().clone()).collect();
        app.access.replace_ring(ring);
        // Without a hub there are no sockets.
        let _ = app.hub.cast(HubMessage::CloseOtherKeys { keys });
    };
    key_file::follow(path, ring, on_change).await;
}

/// Closes all sockets, and waits for them and for the requests in progress.
async fn drain_clients(app: &App, connections: &Connections) {
    // A hub that is gone has no sockets to close.
    let _ = app.hub.cast(HubMessage::CloseAll);
    app.socket_tasks.close();
    let clients = async {
        connections.end().await;
        app.socket_tasks.wait().await;
    };
    let patience = app.http.drain_timeout.mul_f64(CLIENTS_SHARE);
    if timeout(patience, clients).await.is_err() {
        tracing::warn!("some clients did not finish in time");
    }
}

/// The database as people may see it: without user and password.
fn describe(location: &StoreLocation) -> String {
    match location {
        StoreLocation::Sqlite(path) => format!("SQLite {}", path.display()),
        // Of an address that can't be read nobody knows where its secrets are.
        StoreLocation::Postgres(url) => PostgresAddress::parse(url).map_or_else(
            |_| "Postgres".to_owned(),
            |address| format!("Postgres {}", address.describe()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_hold_little_of_what_is_not_read() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) =
            tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let _client = client.unwrap();
        let accepted = accepted.unwrap().0.into_std().unwrap();
        let size = TcpSocket::from_std_stream(accepted).send_buffer_size();
        assert!(size.unwrap() <= 2 * SEND_BUFFER_BYTES);
    }

    #[test]
    fn addresses_of_databases_are_told_without_secrets() {
        let check = |url: &str, expected: &str| {
            assert_eq!(describe(&StoreLocation::Postgres(url.to_owned())), expected);
        };
        check(
            "postgres://me:secret@db.example:5432/credit?sslmode=require",
            "Postgres db.example:5432/credit",
        );
        check("postgres://me:s@cret@db/credit", "Postgres db:5432/credit");
        check(
            "postgres://me@a,b/credit?password=s@cret",
            "Postgres a:5432,b:5432/credit",
        );
        check("postgres://me:s/cret@db/credit", "Postgres");
    }
}

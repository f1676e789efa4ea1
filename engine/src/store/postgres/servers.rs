//! Which of an address's servers the pool leads to, and which of its connections are still good.
//!
//! After a failover the connections that are open lead to a server that is gone, silent, or takes no
//! writes any more. The first call that notices gives its own connection up, and says so here: from
//! then on every connection that is as old is thrown away when it would be used next. Of several
//! servers one that will do is looked for until there is one, as libpq does for each connection.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult, WeakPool,
};
use futures_util::future::select_ok;
use sqlx::{Connection as _, Row as _, postgres::PgConnection};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::address::{Host, PostgresAddress, Wanted};
use crate::store::{StoreError, errors::Blame};

/// For how long a connection that answered is taken for good.
const TRUSTED_FOR: Duration = Duration::from_millis(500);
/// How often a server that will do is looked for.
const SEARCH_EVERY: Duration = Duration::from_millis(250);
/// How soon it is tried again to connect to a server that takes no connections just now.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long a connection is used: a server process grows with what it was asked.
const USED_FOR: Duration = Duration::from_mins(30);
/// How long a connection that nobody needs is kept.
const IDLE_FOR: Duration = Duration::from_mins(10);
/// How often it is looked for those.
const TIDY_EVERY: Duration = Duration::from_mins(1);
/// How often it is looked whether connections on loan are back, while the pool closes.
const CLOSING_EVERY: Duration = Duration::from_millis(5);

/// The servers of an address.
#[derive(Debug)]
pub(super) struct Servers {
    hosts: Vec<Host>,
    wanted: Wanted,
    connect_timeout: Duration,
    /// Which of `hosts` new connections lead to.
    current: AtomicUsize,
    /// Connections that were opened before this are given up.
    lost_at: Mutex<Option<Instant>>,
    search: Notify,
}

/// A connection on loan from the pool.
pub(in super::super) type Lease = Object<Connector>;

/// Opens connections to the current one of the servers, and tells which of them are still good.
///
/// It asks a connection nothing that has just answered: a round trip is as long as a short statement, both
/// for us and for the server.
#[derive(Debug)]
pub(in super::super) struct Connector {
    servers: Arc<Servers>,
    /// How long a statement may take.
    call_timeout: Duration,
}

/// Connections to one of the servers of an address.
#[derive(Clone, Debug)]
pub(in super::super) struct PostgresPool {
    pool: Pool<Connector>,
    servers: Arc<Servers>,
}

impl PostgresPool {
    /// Up to `connections_max` connections to `servers`, on which a statement may take `call_timeout`.
    pub(super) fn new(
        servers: Arc<Servers>,
        connections_max: u32,
        call_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let connector = Connector {
            servers: Arc::clone(&servers),
            call_timeout,
        };
        let pool = Pool::builder(connector)
            .max_size(usize::try_from(connections_max.max(1)).unwrap_or(usize::MAX))
            // Few connections do all the work that they can: their server processes know its plans.
            .queue_mode(QueueMode::Lifo)
            .build();
        let pool = pool.map_err(|error| StoreError::Unfit(error.to_string()))?;
        tokio::spawn(look_after(pool.weak(), Arc::clone(&servers)));
        Ok(Self { pool, servers })
    }

    /// A connection from the pool.
    pub(in super::super) async fn acquire(&self) -> Result<Lease, StoreError> {
        let error = match timeout(self.servers.connect_timeout, self.pool.get()).await {
            Ok(Ok(lease)) => return Ok(lease),
            Ok(Err(PoolError::Backend(error))) => error,
            Ok(Err(PoolError::Closed)) => StoreError::Unavailable(sqlx::Error::PoolClosed),
            Ok(Err(_)) | Err(_) => StoreError::Unavailable(sqlx::Error::PoolTimedOut),
        };
        // Perhaps another server will do.
        self.servers.search.notify_one();
        self.learn(&error);
        Err(error)
    }

    /// Gives up what `error` says is not good any more.
    pub(in super::super) fn learn(&self, error: &StoreError) {
        if error.blame() == Some(Blame::Connection) {
            self.servers.lose();
        }
    }

    /// Closes all connections, once those on loan are back.
    pub(in super::super) async fn close(&self) {
        let idle = self.pool.retain(|_, _| false);
        self.pool.close();
        self.servers.search.notify_one();
        self.servers.take_leave(idle.removed).await;
        while self.pool.status().size > 0 {
            sleep(CLOSING_EVERY).await;
        }
    }
}

impl Connector {
    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let servers = &self.servers;
        let host = &servers.hosts[servers.current.load(Ordering::Relaxed)];
        let connecting = async {
            let mut connection = PgConnection::connect_with(&host.options).await?;
            let takes_writes = super::limit(&mut connection, self.call_timeout).await?;
            servers.check(takes_writes)?;
            Ok::<_, sqlx::Error>(connection)
        };
        match timeout(servers.connect_timeout, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }
}

impl Manager for Connector {
    type Type = PgConnection;
    type Error = StoreError;

    async fn create(&self) -> Result<PgConnection, StoreError> {
        let give_up_at = Instant::now() + self.servers.connect_timeout;
        loop {
            match self.connect().await {
                Ok(connection) => return Ok(connection),
                // It starts, or has as many as it takes: perhaps only for a moment.
                Err(error)
                    if takes_none_now(&error)
                        && Instant::now() + 2 * CONNECT_AGAIN_AFTER < give_up_at =>
                {
                    sleep(CONNECT_AGAIN_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        known: &Metrics,
    ) -> RecycleResult<StoreError> {
        if self.servers.is_good(connection, known).await {
            Ok(())
        } else {
            Err(RecycleError::message("the connection is given up"))
        }
    }
}

/// Whether the server takes no connections, as far as `error` tells, but may soon.
fn takes_none_now(error: &StoreError) -> bool {
    let StoreError::Unavailable(error) = error else {
        return false;
    };
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.is_transient_in_connect_phase(),
        _ => false,
    }
}

impl Servers {
    /// The servers of `address`, each waited for no longer than `connect_timeout` unless it says more.
    pub(super) fn new(address: &PostgresAddress, connect_timeout: Duration) -> Self {
        Self {
            hosts: address.hosts().to_vec(),
            wanted: address.wanted(),
            connect_timeout: address.connect_timeout().unwrap_or(connect_timeout),
            current: AtomicUsize::new(0),
            lost_at: Mutex::new(None),
            search: Notify::new(),
        }
    }

    /// A connection to the first server that will do, from now on the current one.
    pub(super) async fn connect_in_order(&self) -> Result<PgConnection, StoreError> {
        let mut last = StoreError::Unavailable(sqlx::Error::PoolTimedOut);
        for place in 0..self.hosts.len() {
            match self.connect(place).await {
                Ok((_, connection)) => {
                    self.current.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => {
                    if self.hosts.len() > 1 {
                        tracing::warn!(
                            host = self.hosts[place].name,
                            error = &error as &dyn std::error::Error,
                            "a database server won't do"
                        );
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// A second connection to the current server.
    pub(super) async fn connect_again(&self) -> Result<PgConnection, StoreError> {
        let place = self.current.load(Ordering::Relaxed);
        Ok(self.connect(place).await?.1)
    }

    /// How long to wait for a server.
    pub(super) const fn patience(&self) -> Duration {
        self.connect_timeout
    }

    /// Fails for a server that won't do: it takes no writes although one that does is wanted.
    pub(super) fn check(&self, takes_writes: bool) -> Result<(), sqlx::Error> {
        if takes_writes || self.wanted == Wanted::Any {
            return Ok(());
        }
        self.lose();
        Err(sqlx::Error::Protocol(
            "the server takes no writes: it is a standby, or read-only".to_owned(),
        ))
    }

    async fn connect(&self, place: usize) -> Result<(usize, PgConnection), StoreError> {
        let options = &self.hosts[place].options;
        let connecting = async {
            let mut connection = PgConnection::connect_with(options).await?;
            if self.wanted == Wanted::Writable {
                let sql = "SELECT current_setting('transaction_read_only')";
                let row = sqlx::raw_sql(sql).fetch_one(&mut connection).await?;
                if row.try_get::<String, _>(0)? != "off" {
                    return Err(sqlx::Error::Protocol(
                        "the server takes no writes: it is a standby, or read-only".to_owned(),
                    ));
                }
            }
            Ok((place, connection))
        };
        match timeout(self.connect_timeout, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }

    /// Every connection that is open leads to where nothing can be done any more.
    fn lose(&self) {
        *self.lost_at() = Some(Instant::now());
        self.search.notify_one();
    }

    /// Whether a connection of which this is `known` may be used.
    async fn is_good(&self, connection: &mut PgConnection, known: &Metrics) -> bool {
        let (lost_at, age) = (*self.lost_at(), known.age());
        if age > USED_FOR || lost_at.is_some_and(|lost_at| lost_at.elapsed() <= age) {
            return false;
        }
        if known.last_used() < TRUSTED_FOR {
            return true;
        }
        // So that there is time left to open another one.
        match timeout(self.connect_timeout / 4, connection.ping()).await {
            Ok(Ok(())) => true,
            Ok(Err(_)) => {
                self.lose();
                false
            }
            // Silent, or busy: to open all connections anew would make a server busier.
            Err(_) => {
                self.search.notify_one();
                false
            }
        }
    }

    /// Looks for a server that will do until there is one, or `pool` is closed.
    async fn search(&self, pool: &Pool<Connector>) {
        while !pool.is_closed() {
            let tries = (0..self.hosts.len()).map(|place| Box::pin(self.connect(place)));
            if let Ok(((place, connection), _)) = select_ok(tries).await {
                // It shows only that the server can be used.
                let _ = connection.close().await;
                if self.current.swap(place, Ordering::Relaxed) != place {
                    let host = &self.hosts[place].name;
                    tracing::warn!(host, "another database server takes the writes now");
                }
                return;
            }
            sleep(SEARCH_EVERY).await;
        }
    }

    /// Closes `connections`. They are of no use any more, whether the server hears of it or not.
    async fn take_leave(&self, connections: Vec<PgConnection>) {
        for connection in connections {
            let _ = timeout(self.connect_timeout, connection.close()).await;
        }
    }

    /// A copied instant is valid after any panic.
    fn lost_at(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.lost_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leads `pool` to a server that will do, whenever the current one seems to be lost, and closes what nobody
/// needs, until the pool is closed.
async fn look_after(pool: WeakPool<Connector>, servers: Arc<Servers>) {
    loop {
        let is_lost = tokio::select! {
            () = servers.search.notified() => true,
            () = sleep(TIDY_EVERY) => false,
        };
        let Some(pool) = pool.upgrade().filter(|pool| !pool.is_closed()) else {
            return;
        };
        if is_lost && servers.hosts.len() > 1 {
            servers.search(&pool).await;
        }
        let idle = pool.retain(|_, known| known.last_used() < IDLE_FOR);
        servers.take_leave(idle.removed).await;
    }
}

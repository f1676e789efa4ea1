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

use futures_util::future::select_ok;
use sqlx::{
    Connection as _, PgPool, Row as _,
    pool::PoolConnectionMetadata,
    postgres::{PgConnection, PgPoolOptions},
};
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

/// Connections to one of the servers of an address.
#[derive(Clone, Debug)]
pub(in super::super) struct PostgresPool {
    pub(super) pool: PgPool,
    pub(super) servers: Arc<Servers>,
}

impl PostgresPool {
    /// Connections of the pool that `options` make, to `servers`.
    pub(super) fn new(options: PgPoolOptions, servers: Arc<Servers>) -> Self {
        let options = {
            let servers = Arc::clone(&servers);
            // In place of sqlx's own test, which waits for a silent server as long as the caller does.
            options
                .test_before_acquire(false)
                .before_acquire(move |connection, known| {
                    let servers = Arc::clone(&servers);
                    Box::pin(async move { Ok(servers.is_good(connection, &known).await) })
                })
        };
        let host = &servers.hosts[servers.current.load(Ordering::Relaxed)];
        let pool = options.connect_lazy_with(host.options.clone());
        if servers.hosts.len() > 1 {
            tokio::spawn(follow(pool.clone(), Arc::clone(&servers)));
        }
        Self { pool, servers }
    }

    /// A connection from the pool.
    pub(in super::super) async fn acquire(
        &self,
    ) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, StoreError> {
        let acquired = self.pool.acquire().await;
        acquired.map_err(|error| {
            // Perhaps another server will do.
            self.servers.search.notify_one();
            let error = StoreError::from(error);
            self.learn(&error);
            error
        })
    }

    /// Gives up what `error` says is not good any more.
    pub(in super::super) fn learn(&self, error: &StoreError) {
        if error.blame() == Some(Blame::Connection) {
            self.servers.lose();
        }
    }

    pub(in super::super) async fn close(&self) {
        self.pool.close().await;
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
    async fn is_good(&self, connection: &mut PgConnection, known: &PoolConnectionMetadata) -> bool {
        let lost_at = *self.lost_at();
        if lost_at.is_some_and(|lost_at| lost_at.elapsed() <= known.age) {
            return false;
        }
        // It answered a moment ago, and a round trip is as long as a short statement.
        if known.idle_for < TRUSTED_FOR {
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

    /// A copied instant is valid after any panic.
    fn lost_at(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.lost_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leads `pool` to a server that will do, whenever the current one seems to be lost, until the pool is
/// closed.
async fn follow(pool: PgPool, servers: Arc<Servers>) {
    loop {
        tokio::select! {
            () = pool.close_event() => return,
            () = servers.search.notified() => {}
        }
        while !pool.is_closed() {
            let tries = (0..servers.hosts.len()).map(|place| Box::pin(servers.connect(place)));
            if let Ok(((place, connection), _)) = select_ok(tries).await {
                // It shows only that the server can be used.
                let _ = connection.close().await;
                if servers.current.swap(place, Ordering::Relaxed) != place {
                    let Host { name, options } = &servers.hosts[place];
                    tracing::warn!(host = name, "another database server takes the writes now");
                    pool.set_connect_options(options.clone());
                }
                break;
            }
            sleep(SEARCH_EVERY).await;
        }
    }
}

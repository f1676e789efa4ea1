//! Servers that are replaced while they are used, by real standbys; servers that won't do; and poolers.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use engine::{
    Clock, Engine, EngineSettings,
    engine::Displacement,
    facts::ProcessId,
    lanes::Lanes,
    store::{
        self, CreateUserError, Database, NewUser, Store, StoreError, StoreLocation, StoreSettings,
    },
    update::UserUpdate,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use schema::{SessionId, UserId, session::EndReason};
use tokio::time::{sleep, timeout};

use crate::{
    cluster::{self, Bouncer, Cluster},
    relay::Relay,
    support::{self, at, credits},
};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_mins(1);

fn settings(address: String) -> StoreSettings {
    StoreSettings {
        location: StoreLocation::Postgres(address),
        connections_max: 10,
        writers: Lanes::new(2).unwrap(),
        connect_timeout: Duration::from_secs(2),
        call_timeout: Duration::from_secs(5),
    }
}

/// Hears updates, and keeps none.
struct Deaf;

impl Actor for Deaf {
    type Msg = UserUpdate;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<UserUpdate>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// An engine on `store`, with everything as it is by default.
async fn engine(store: &Arc<dyn Store>, settings: EngineSettings) -> Engine {
    let (deaf, _) = Deaf::spawn(None, Deaf, ()).await.unwrap();
    let clock = Clock::start_at(at(0));
    let engine = Engine::start(settings, Arc::clone(store), clock, deaf.get_derived());
    engine.await.unwrap()
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    users: Mutex<BTreeSet<UserId>>,
    started: Mutex<BTreeSet<SessionId>>,
    stopped: Mutex<BTreeSet<SessionId>>,
}

/// Signs users up who start and stop sessions, until told to end.
async fn load(engine: Engine, number: usize, done: Arc<Acknowledged>, is_over: Arc<AtomicBool>) {
    let mut count = 0;
    while !is_over.load(Ordering::SeqCst) {
        count += 1;
        let user = NewUser {
            email: format!("u{number}.{count}@example.org"),
            password_hash: None,
            grant: credits(100),
            created_at: engine.clock().now(),
        };
        let Ok(user) = engine.store().create_user(user).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        assert!(
            done.users.lock().unwrap().insert(user.id),
            "user {} was given twice",
            user.id
        );
        if let Ok(started) = engine.start_session(user.id, None).await {
            let is_new = done.started.lock().unwrap().insert(started.session);
            assert!(is_new, "session {} was given twice", started.session);
            if engine
                .stop_session(user.id, EndReason::User, None)
                .await
                .is_ok()
            {
                done.stopped.lock().unwrap().insert(started.session);
            }
        }
    }
}

async fn all(server: &Cluster, sql: &str) -> BTreeSet<i64> {
    let sql = format!("SELECT COALESCE(string_agg(id::TEXT, ' '), '') FROM ({sql}) AS found");
    let text = server.text("mc", &sql).await;
    text.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

/// A synchronous standby takes over while the server is killed under load.
async fn nothing_is_lost(through_relay: bool) {
    let mut primary = Cluster::new("UTF8").await;
    let standby = primary.standby("second").await;
    let sync = "ALTER SYSTEM SET synchronous_standby_names = 'second'";
    primary.execute("postgres", sync).await;
    primary.execute("postgres", "SELECT pg_reload_conf()").await;
    let is_sync = "SELECT count(*)::TEXT FROM pg_stat_replication WHERE sync_state = 'sync'";
    while primary.text("postgres", is_sync).await != "1" {
        sleep(Duration::from_millis(50)).await;
    }
    let relay = Relay::to(primary.socket()).await;
    let address = if through_relay {
        format!("postgres://mc@{}/mc", relay.address)
    } else {
        // The standby is asked first, and won't do.
        format!("postgres://mc@{},{}/mc", standby.socket(), primary.socket())
    };
    let store = store::open(&settings(address)).await.unwrap();
    let engine = engine(&store, support::engine_settings()).await;
    let (done, is_over) = (Arc::<Acknowledged>::default(), Arc::<AtomicBool>::default());
    let loads: Vec<_> = (0..8)
        .map(|n| {
            tokio::spawn(load(
                engine.clone(),
                n,
                Arc::clone(&done),
                Arc::clone(&is_over),
            ))
        })
        .collect();
    let users = || done.users.lock().unwrap().len();
    let stopped = || done.stopped.lock().unwrap().len();
    wait_until(|| stopped() > 30).await;

    primary.kill();
    let before = users();
    sleep(Duration::from_millis(500)).await;
    standby.promote().await;
    let promoted = std::time::Instant::now();
    relay.lead_to(standby.socket());
    wait_until(|| users() > before + 8).await;
    println!("users sign up {:?} after the promotion", promoted.elapsed());
    let before = stopped();
    wait_until(|| stopped() > before + 30).await;
    println!("sessions stop {:?} after the promotion", promoted.elapsed());
    is_over.store(true, Ordering::SeqCst);
    for load in loads {
        load.await.unwrap();
    }

    let recorded = all(&standby, "SELECT id FROM users").await;
    let acknowledged: BTreeSet<i64> = done
        .users
        .lock()
        .unwrap()
        .iter()
        .map(|id| id.get())
        .collect();
    assert!(acknowledged.is_subset(&recorded), "users were lost");
    let recorded = all(&standby, "SELECT id FROM sessions").await;
    let acknowledged: BTreeSet<i64> = done
        .started
        .lock()
        .unwrap()
        .iter()
        .map(|id| id.get())
        .collect();
    assert!(acknowledged.is_subset(&recorded), "sessions were lost");
    let recorded = all(
        &standby,
        "SELECT id FROM sessions WHERE end_time IS NOT NULL",
    )
    .await;
    let acknowledged: BTreeSet<i64> = done
        .stopped
        .lock()
        .unwrap()
        .iter()
        .map(|id| id.get())
        .collect();
    assert!(
        acknowledged.is_subset(&recorded),
        "ends of sessions were lost"
    );
    engine.shutdown(Duration::from_secs(5)).await;
    assert_eq!(support::violations_of(&store).await, []);
    store.close().await;
}

/// An asynchronous standby that lacks the last changes takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacks_what_was_acknowledged_is_not_written_to() {
    if !cluster::is_possible() {
        return;
    }
    let mut primary = Cluster::new("UTF8").await;
    let relay = Relay::to(primary.socket()).await;
    let settings = settings(format!("postgres://mc@{}/mc", relay.address));
    let store = store::open(&settings).await.unwrap();
    let running = engine(&store, support::engine_settings()).await;
    let new = |name: &str| NewUser {
        email: format!("{name}@example.org"),
        password_hash: None,
        grant: credits(100),
        created_at: running.clock().now(),
    };
    let kept = store.create_user(new("kept")).await.unwrap();
    let mut standby = primary.standby("second").await;
    standby.stop();
    let lost = store.create_user(new("lost")).await.unwrap();
    let session = running.start_session(lost.id, None).await.unwrap().session;
    // Until more was acknowledged than the standby has.
    sleep(Duration::from_millis(2_500)).await;
    primary.kill();
    standby.start().await;
    standby.promote().await;
    relay.lead_to(standby.socket());

    // The process says so and gives nothing out, whoever is the first to notice.
    let displaced = timeout(PATIENCE, running.superseded()).await.unwrap();
    assert_eq!(displaced, Displacement::WentBack);
    let error = loop {
        match store.create_user(new("next")).await {
            Err(CreateUserError::Store(error)) if !error.is_transient() => break error,
            Err(CreateUserError::Store(_)) => {}
            other => panic!("{:?}", other.map(|user| user.id)),
        }
    };
    assert!(matches!(error, StoreError::WentBack), "{error:?}");
    assert!(store.take_session_ids(1).await.is_err());
    assert_eq!(
        all(&standby, "SELECT id FROM users").await,
        BTreeSet::from([kept.id.get()])
    );
    running.shutdown(Duration::from_secs(1)).await;
    store.close().await;

    // Nor does the next process, until an operator has skipped what was lost.
    let store = Database::open(&settings).await.unwrap();
    let (node, process) = (support::node("a"), ProcessId::random());
    let within = support::within_a_minute();
    let begun = store
        .begin_run(&node, &process, at(100_000).into(), within)
        .await;
    assert!(matches!(begun, Err(StoreError::WentBack)), "{begun:?}");
    let resumption = store.skip_ahead(1_000, at(100_000), within).await.unwrap();
    assert!(resumption.user_ids_from > lost.id && resumption.session_ids_from > session);
    store
        .begin_run(&node, &process, at(100_000).into(), within)
        .await
        .unwrap();
    let next = store.create_user(new("next")).await.unwrap();
    assert!(next.id > lost.id);
    assert_ne!(next.account_key, lost.account_key);
    store.close().await;
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("it never came about"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_of_a_list_takes_over_without_a_loss() {
    if cluster::is_possible() {
        nothing_is_lost(false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_behind_one_address_takes_over_without_a_loss() {
    if cluster::is_possible() {
        nothing_is_lost(true).await;
    }
}

/// The old server lives on and takes no writes: one error, and its connections are given up.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_server_that_takes_no_writes_any_more_are_given_up() {
    if !cluster::is_possible() {
        return;
    }
    let (old, new) = (Cluster::new("UTF8").await, Cluster::new("UTF8").await);
    let relay = Relay::to(old.socket()).await;
    let address = format!("postgres://mc@{}/mc", relay.address);
    let store = store::open(&settings(address.clone())).await.unwrap();
    let other = store::open(&settings(format!("postgres://mc@{}/mc", new.socket())))
        .await
        .unwrap();
    // Five connections are open at once, and idle then.
    let pings = (0..5).map(|_| store.ping());
    for ping in futures_util::future::join_all(pings).await {
        ping.unwrap();
    }
    old.execute("mc", "ALTER SYSTEM SET default_transaction_read_only = on")
        .await;
    old.execute("mc", "SELECT pg_reload_conf()").await;
    sleep(Duration::from_millis(500)).await;
    relay.lead_to(new.socket());
    let mut failures = 0;
    for n in 0..20 {
        let user = NewUser {
            email: format!("u{n}@example.org"),
            password_hash: None,
            grant: credits(1),
            created_at: at(0),
        };
        if store.create_user(user).await.is_err() {
            failures += 1;
        }
    }
    assert_eq!(failures, 1, "the first one tells");
    store.close().await;
    other.close().await;
}

async fn refusal(address: String) -> String {
    match store::open(&settings(address)).await {
        Ok(_) => panic!("it was opened"),
        Err(error @ StoreError::Unfit(_)) => error.to_string(),
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_encoding_is_refused_and_left_alone() {
    if !cluster::is_possible() {
        return;
    }
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let server = Cluster::new(encoding).await;
        let refusal = refusal(format!("postgres://mc@{}/mc", server.socket())).await;
        assert!(
            refusal.contains(encoding) && refusal.contains("UTF8"),
            "{refusal}"
        );
        let tables = "SELECT count(*)::TEXT FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(server.text("mc", tables).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_connections_is_refused_and_nothing_is_left_in_it() {
    if !cluster::is_possible() {
        return;
    }
    let server = Cluster::new("UTF8").await;
    for (mode, settings) in [
        ("transaction", ""),
        ("transaction", "default_pool_size = 1"),
        ("transaction", "server_round_robin = 1"),
        ("statement", ""),
    ] {
        let bouncer = Bouncer::before(&server, mode, settings).await;
        let address = format!("postgres://mc@127.0.0.1:{}/mc", bouncer.port);
        let refusal = refusal(address).await;
        assert!(
            refusal.contains("PgBouncer") && refusal.contains("pool_mode = session"),
            "{refusal}"
        );
        let count = async |what: &str| {
            server
                .text("mc", &format!("SELECT count(*)::TEXT FROM {what}"))
                .await
        };
        assert_eq!(count("pg_locks WHERE locktype = 'advisory'").await, "0");
        assert_eq!(count("pg_tables WHERE schemaname = 'public'").await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_pools_sessions_does() {
    if !cluster::is_possible() {
        return;
    }
    let server = Cluster::new("UTF8").await;
    for settings_of_pooler in [
        "",
        "default_pool_size = 40",
        "server_reset_query_always = 1",
    ] {
        let bouncer = Bouncer::before(&server, "session", settings_of_pooler).await;
        let address = format!("postgres://mc@127.0.0.1:{}/mc", bouncer.port);
        let store = store::open(&settings(address)).await.unwrap();
        let engine = engine(&store, support::engine_settings()).await;
        let (done, is_over) = (Arc::<Acknowledged>::default(), Arc::<AtomicBool>::default());
        let number = usize::from(bouncer.port);
        let load = tokio::spawn(load(
            engine.clone(),
            number,
            Arc::clone(&done),
            Arc::clone(&is_over),
        ));
        wait_until(|| done.stopped.lock().unwrap().len() > 5).await;
        is_over.store(true, Ordering::SeqCst);
        load.await.unwrap();
        engine.shutdown(Duration::from_secs(5)).await;
        store.close().await;
        let locks = "SELECT count(*)::TEXT FROM pg_locks WHERE locktype = 'advisory'";
        assert_eq!(server.text("mc", locks).await, "0");
    }
}

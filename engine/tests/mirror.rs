//! The mirror against a real Redis, which each test starts for itself, kills and brings back.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    reason = "tests say what they expect by unwrapping it"
)]

mod support;

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use engine::{Clock, EngineSettings};
use fred::{
    clients::Client,
    interfaces::{ClientLike, KeysInterface},
    prelude::Config,
    types::Builder,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use schema::{UserId, mirror::MirroredSession};
use support::{
    memory::MemoryStore,
    world::{BEGIN, World, ms, settings},
};

/// A private Redis that keeps nothing on disk; killed when dropped.
struct Redis {
    port: u16,
    server: Child,
}

impl Redis {
    fn start() -> Self {
        // Free a moment ago; another test takes another one.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Self::start_on(port)
    }

    fn start_on(port: u16) -> Self {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self {
            port,
            server: server.unwrap(),
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.server.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    async fn client(&self) -> Client {
        let config = Config::from_url(&self.url()).unwrap();
        until(async || {
            let client = Builder::from_config(config.clone()).build().unwrap();
            client.init().await.ok().map(|_| client)
        })
        .await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ended = self.server.kill();
        let _reaped = self.server.wait();
    }
}

/// Asks again until there is an answer. How long that takes is not what is tested.
async fn until<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    for _ in 0..1_500 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain");
}

async fn shown(client: &Client, user: UserId) -> Option<MirroredSession> {
    let json: Option<String> = client.get(schema::mirror::key(user)).await.ok()?;
    Some(serde_json::from_str(&json?).unwrap())
}

async fn world_with(redis: &Redis) -> World {
    let settings = EngineSettings {
        redis_url: Some(redis.url().parse().unwrap()),
        ..settings()
    };
    World::begin_on(
        Arc::new(MemoryStore::default()),
        Clock::start_at(ms(BEGIN)),
        settings,
    )
    .await
}

#[tokio::test]
async fn live_state_is_shown_with_a_time_to_live() {
    let redis = Redis::start();
    let client = redis.client().await;
    let world = world_with(&redis).await;
    let user = world.store.add_user(100);
    let started = world.engine.start_session(user, None).await.unwrap();

    let live = until(async || shown(&client, user).await.filter(|state| state.active)).await;
    assert_eq!(live.credits.get(), 100);
    assert_eq!(live.session.unwrap().session_id, started.session);
    let ttl: i64 = client.ttl(schema::mirror::key(user)).await.unwrap();
    assert!((1..=1_800).contains(&ttl), "{ttl}");

    let stopped = world.stop(user).await.unwrap();
    let ended = until(async || shown(&client, user).await.filter(|state| !state.active)).await;
    assert_eq!(
        (ended.credits, ended.session),
        (stopped.final_credits, None)
    );
    assert!(ended.version > live.version);
}

#[tokio::test]
async fn of_a_user_who_is_forgotten_nothing_is_shown() {
    let redis = Redis::start();
    let client = redis.client().await;
    let world = world_with(&redis).await;
    let (gone, stays) = (world.store.add_user(100), world.store.add_user(100));
    for user in [gone, stays] {
        world.engine.start_session(user, None).await.unwrap();
        until(async || shown(&client, user).await).await;
        world.stop(user).await.unwrap();
    }
    until(async || shown(&client, gone).await.filter(|state| !state.active)).await;
    world.engine.forget(gone);
    until(async || shown(&client, gone).await.is_none().then_some(())).await;
    assert!(shown(&client, stays).await.is_some());
}

#[tokio::test]
async fn billing_goes_on_without_redis_and_the_mirror_is_rebuilt() {
    let redis = Redis::start();
    let client = redis.client().await;
    let world = world_with(&redis).await;
    let (before, during) = (world.store.add_user(100), world.store.add_user(100));
    world.engine.start_session(before, None).await.unwrap();
    until(async || shown(&client, before).await).await;

    // Erased under our feet: the database is the truth, the next fact is shown as ever.
    client.flushall::<()>(false).await.unwrap();
    world.engine.start_session(during, None).await.unwrap();
    until(async || shown(&client, during).await).await;
    world.stop(during).await.unwrap();

    let port = redis.port;
    drop(redis);
    world.engine.start_session(during, None).await.unwrap();
    assert_eq!(
        world.engine.balance(during).await.unwrap().credits.get(),
        100
    );

    let redis = Redis::start_on(port);
    let client = redis.client().await;
    for user in [before, during] {
        let state = until(async || shown(&client, user).await).await;
        assert!(state.active, "everybody who is live is shown anew");
    }
    world.stop(before).await.unwrap();
    world.stop(during).await.unwrap();
}

/// Whether the mirror says that it has its Redis.
fn is_up(world: &World) -> bool {
    let mut registry = Registry::default();
    world.engine.metrics().register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text.contains("mirror_up 1")
}

/// A Redis that could not be reached still has what it had, and is told what became of that.
#[tokio::test]
async fn what_redis_kept_while_it_was_away_is_corrected() {
    let redis = Redis::start();
    let client = redis.client().await;
    let world = world_with(&redis).await;
    let users: [UserId; 3] = std::array::from_fn(|_| world.store.add_user(100));
    let [ended, goes_on, restarted] = users;
    for user in users {
        world.engine.start_session(user, None).await.unwrap();
        until(async || shown(&client, user).await.filter(|state| state.active)).await;
    }
    // Somebody else's keys in the same Redis are left alone.
    for (name, value) in [
        ("session:express", "{}"),
        ("session:77", "not ours"),
        ("sessions", "7"),
    ] {
        let (expire, options) = (None, None);
        client
            .set::<(), _, _>(name, value, expire, options, false)
            .await
            .unwrap();
    }
    let stranger = schema::mirror::key(UserId::new(1_000_000).unwrap());
    let left_over: String = client.get(schema::mirror::key(ended)).await.unwrap();
    client
        .set::<(), _, _>(&stranger, left_over, None, None, false)
        .await
        .unwrap();

    redis.signal("STOP");
    // Else what is on its way to it would tell it when it goes on.
    until(async || (!is_up(&world)).then_some(())).await;
    let stopped = world.stop(ended).await.unwrap();
    world.stop(restarted).await.unwrap();
    world.engine.start_session(restarted, None).await.unwrap();
    redis.signal("CONT");

    let client = redis.client().await;
    let now = until(async || shown(&client, ended).await.filter(|state| !state.active)).await;
    assert_eq!((now.credits, now.session), (stopped.final_credits, None));
    let ttl: i64 = client.ttl(schema::mirror::key(ended)).await.unwrap();
    assert!((1..=1_800).contains(&ttl), "{ttl}");
    until(async || {
        client
            .get::<Option<String>, _>(&stranger)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    for user in [goes_on, restarted] {
        assert!(shown(&client, user).await.unwrap().active);
    }
    for (name, value) in [
        ("session:express", "{}"),
        ("session:77", "not ours"),
        ("sessions", "7"),
    ] {
        let kept: String = client.get(name).await.unwrap();
        assert_eq!(kept, value, "{name}");
    }
}

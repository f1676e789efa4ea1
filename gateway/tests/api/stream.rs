//! The stream of a user's news, over websockets and server-sent events alike: numbers, coming back,
//! fewer balances for who counts down alone.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

use crate::{
    client::{Socket, call, get, post, sign_up},
    contract,
    server::TestServer,
};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(20);

async fn start(server: &TestServer, token: &str) {
    post("/api/sessions/start")
        .token(token)
        .send(server)
        .await
        .expect(200);
}

async fn stop(server: &TestServer, token: &str) {
    post("/api/sessions/stop")
        .token(token)
        .send(server)
        .await
        .expect(200);
}

async fn open_since(server: &TestServer, token: &str, since: &str) -> Socket {
    let path = format!("/?token={token}&since={since}");
    Socket::open(server, &path, &[]).await.unwrap()
}

fn position(message: &Value) -> String {
    format!("{}:{}", message["epoch"], message["seq"])
}

#[tokio::test]
async fn events_are_numbered_one_by_one_and_balances_carry_the_number_before() {
    let server = TestServer::with(&[
        ("tariff.interval_ms", "100"),
        ("session.low_balance_seconds", "0"),
    ])
    .await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    let first = socket.next().await;
    assert_eq!((&first["seq"], first.get("resumed")), (&json!(0), None));
    start(&server, &token).await;
    let started = socket.next_of("session_started").await;
    assert_eq!(started["seq"], 1);
    let balance = socket.next_of("credit_update").await;
    assert_eq!(
        (&balance["seq"], &balance["epoch"]),
        (&json!(1), &first["epoch"])
    );
    stop(&server, &token).await;
    assert_eq!(socket.next_of("session_stopped").await["seq"], 2);
}

#[tokio::test]
async fn who_comes_back_gets_what_it_missed_and_then_the_balance() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    let left_at = position(&socket.next().await);
    drop(socket);
    start(&server, &token).await;
    stop(&server, &token).await;

    for _ in 0..2 {
        let mut back = open_since(&server, &token, &left_at).await;
        let snapshot = back.next().await;
        assert_eq!(snapshot["type"], "credit_update");
        assert_eq!(
            (&snapshot["resumed"], &snapshot["seq"]),
            (&json!(true), &json!(0))
        );
        let started = back.next().await;
        let stopped = back.next().await;
        let after = back.next().await;
        let told = [&started, &stopped, &after].map(|message| message["type"].clone());
        assert_eq!(
            told,
            ["session_started", "session_stopped", "credit_update"]
        );
        let numbers = [&started, &stopped, &after].map(|message| message["seq"].clone());
        assert_eq!(numbers, [1, 2, 2]);
        assert_eq!(
            (&after["active"], after.get("resumed")),
            (&json!(false), None)
        );
    }

    // Who missed nothing is told so, and gets nothing else.
    let mut again = open_since(&server, &token, &{
        let mut now = Socket::with_token(&server, &token).await;
        position(&now.next().await)
    })
    .await;
    let snapshot = again.next().await;
    assert_eq!(
        (&snapshot["resumed"], &snapshot["seq"]),
        (&json!(true), &json!(2))
    );
    start(&server, &token).await;
    assert_eq!(again.next().await["type"], "session_started");
}

#[tokio::test]
async fn who_can_not_get_all_that_it_missed_is_told_so() {
    let server = TestServer::with(&[("sockets.replay_events_max", "3")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    let first = socket.next().await;
    for _ in 0..2 {
        start(&server, &token).await;
        stop(&server, &token).await;
    }
    while socket.next_of("session_stopped").await["seq"] != 4 {}
    let epoch = first["epoch"].as_u64().unwrap();
    let check = async |since: String, resumed: bool, seq: u64| {
        let snapshot = open_since(&server, &token, &since).await.next().await;
        let found = (&snapshot["resumed"], &snapshot["seq"]);
        assert_eq!(found, (&json!(resumed), &json!(seq)), "{since}");
    };
    check(format!("{epoch}:0"), false, 4).await;
    check(format!("{epoch}:1"), true, 1).await;
    check(format!("{epoch}:4"), true, 4).await;
    check(format!("{epoch}:5"), false, 4).await;
    check(format!("{}:4", epoch - 1), false, 4).await;
}

#[tokio::test]
async fn streams_that_nobody_comes_back_to_are_forgotten() {
    let server = TestServer::with(&[("sockets.replay_ms", "0")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let before = Socket::with_token(&server, &token).await.next().await;
    loop {
        let back = open_since(&server, &token, &position(&before))
            .await
            .next()
            .await;
        if back["epoch"] != before["epoch"] {
            assert_eq!(back["resumed"], false);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn nonsense_in_the_address_is_named() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    for (parameters, field) in [
        ("since=17", "since"),
        ("since=-1:2", "since"),
        ("since=1:x", "since"),
        ("updates=never", "updates"),
    ] {
        let path = format!("/api/stream?{parameters}");
        let answer = get(&path).token(&token).send(&server).await;
        let failure = answer.expect_failure(422, "invalid_field");
        assert_eq!(failure["field"], field, "{parameters}");
        let path = format!("/?token={token}&{parameters}");
        assert!(
            Socket::open(&server, &path, &[]).await.is_err(),
            "{parameters}"
        );
    }
}

#[tokio::test]
async fn who_counts_down_alone_hears_of_changes_only() {
    let server = TestServer::with(&[
        ("tariff.interval_ms", "50"),
        ("session.low_balance_seconds", "0"),
    ])
    .await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut all = Socket::with_token(&server, &token).await;
    let path = format!("/?token={token}&updates=rate");
    let mut rate = Socket::open(&server, &path, &[]).await.unwrap();
    assert_eq!(rate.next().await["credits"], 100);
    start(&server, &token).await;
    assert_eq!(rate.next().await["type"], "session_started");
    let live = rate.next().await;
    assert_eq!(
        (&live["type"], &live["active"]),
        (&json!("credit_update"), &json!(true))
    );
    // Others see it fall meanwhile.
    while all.next_of("credit_update").await["credits"] != 90 {}
    stop(&server, &token).await;
    let ended = rate.next().await;
    assert_eq!(
        (&ended["type"], &ended["active"]),
        (&json!("credit_update"), &json!(false))
    );
    assert_eq!(rate.next().await["type"], "session_stopped");
}

#[tokio::test]
async fn a_client_that_wants_a_heartbeat_hears_one_whatever_happens_to_its_wallet() {
    let server = TestServer::with(&[("tariff.interval_ms", "3600000")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    for updates in ["all", "rate"] {
        let path = format!("/?token={token}&heartbeat_ms=1000&updates={updates}");
        let mut idle = Socket::open(&server, &path, &[]).await.unwrap();
        let first = idle.next().await;
        for _ in 0..2 {
            assert_eq!(idle.next().await, first, "the balance again, and no event");
        }
        start(&server, &token).await;
        idle.next_of("session_started").await;
        let mut live = idle.next_of("credit_update").await;
        while live["active"] == json!(false) {
            live = idle.next_of("credit_update").await;
        }
        assert_eq!(idle.next().await, live, "also while a session runs");
        stop(&server, &token).await;
    }
    for wrong in ["999", "60001", "-1", "soon", ""] {
        let path = format!("/api/stream?heartbeat_ms={wrong}");
        get(&path)
            .token(&token)
            .send(&server)
            .await
            .expect_failure(422, "invalid_field");
    }
}

/// An open event stream.
struct Events {
    lines: Lines<BufReader<OwnedReadHalf>>,
    _writing: tokio::net::tcp::OwnedWriteHalf,
    status: String,
}

/// One event: its id, its name and its data.
type Event = (String, String, Value);

impl Events {
    async fn open(server: &TestServer, path: &str, headers: &str) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let (reading, mut writing) = stream.into_split();
        let request = format!(
            "GET {path} HTTP/1.1\r\nconnection: close\r\nhost: {}\r\n{headers}\r\n",
            server.address
        );
        writing.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(reading).lines();
        let mut head = Vec::new();
        while let Some(line) = line(&mut lines).await.filter(|line| !line.is_empty()) {
            head.push(line.to_lowercase());
        }
        if head[0].ends_with("200 ok") {
            contract::event_stream_opened();
            for header in [
                "content-type: text/event-stream",
                "cache-control: no-cache, no-store, no-transform",
                "x-accel-buffering: no",
            ] {
                assert!(
                    head.iter().any(|line| line == header),
                    "{header} in {head:?}"
                );
            }
        }
        Self {
            lines,
            _writing: writing,
            status: head[0].clone(),
        }
    }

    /// The next event; comments, and the lengths of chunks, are left out. Nothing at the end.
    async fn next(&mut self) -> Option<Event> {
        let mut event = (String::new(), String::new(), Value::Null);
        loop {
            let line = line(&mut self.lines).await?;
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut event.0);
            } else if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event.1);
            } else if let Some(data) = line.strip_prefix("data: ") {
                event.2 = serde_json::from_str(data).unwrap();
                return Some(event);
            }
        }
    }
}

async fn line(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> Option<String> {
    timeout(PATIENCE, lines.next_line()).await.unwrap().ok()?
}

#[tokio::test]
async fn event_streams_tell_the_same_and_go_on_where_they_were() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let header = format!("authorization: Bearer {token}\r\n");
    let mut events = Events::open(&server, "/api/stream", &header).await;
    let (id, name, balance) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &balance["credits"]), ("", &json!(100)));
    assert_eq!(id, position(&balance));
    start(&server, &token).await;
    let (id, _, started) = events.next().await.unwrap();
    assert_eq!(
        (&started["type"], &started["seq"]),
        (&json!("session_started"), &json!(1))
    );
    assert_eq!(id, position(&started));
    drop(events);

    stop(&server, &token).await;
    let ticket = post("/api/ws/ticket")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let path = format!("/api/stream?ticket={}", ticket["ticket"].as_str().unwrap());
    let mut back = Events::open(&server, &path, &format!("last-event-id: {id}\r\n")).await;
    assert_eq!(back.next().await.unwrap().2["resumed"], true);
    assert_eq!(back.next().await.unwrap().2["type"], "session_stopped");
    assert_eq!(back.next().await.unwrap().2["active"], false);

    // The ticket has been used.
    assert!(
        Events::open(&server, &path, "")
            .await
            .status
            .contains(" 401 ")
    );
}

async fn ticket_address(server: &TestServer, token: &str) -> String {
    let ticket = post("/api/ws/ticket").token(token).send(server).await;
    let ticket = ticket.expect(200);
    format!("/api/stream?ticket={}", ticket["ticket"].as_str().unwrap())
}

#[tokio::test]
async fn an_event_source_with_a_ticket_comes_back_by_itself() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let path = ticket_address(&server, &token).await;
    let mut events = Events::open(&server, &path, "").await;
    let (mut id, _, _) = events.next().await.unwrap();
    drop(events);
    for turn in 0..3 {
        let mut back = Events::open(&server, &path, &format!("last-event-id: {id}\r\n")).await;
        let (_, _, balance) = back.next().await.unwrap();
        assert_eq!(balance["resumed"], true, "{turn}");
        start(&server, &token).await;
        (id, _, _) = back.next().await.unwrap();
        stop(&server, &token).await;
    }
    // Also after a restart, where the numbers begin anew, and on another process.
    let server = server.restart(&[]).await;
    let other = server.beside(&[]).await;
    for server in [&server, &other] {
        let mut back = Events::open(server, &path, &format!("last-event-id: {id}\r\n")).await;
        assert_eq!(back.next().await.unwrap().2["resumed"], false);
    }
    // With an old `since` in its address, what it got last counts.
    let path = format!("{}&since=1:1", ticket_address(&server, &token).await);
    let mut events = Events::open(&server, &path, "").await;
    let (id, _, first) = events.next().await.unwrap();
    assert_eq!(first["resumed"], false);
    let mut back = Events::open(&server, &path, &format!("last-event-id: {id}\r\n")).await;
    assert_eq!(back.next().await.unwrap().2["resumed"], true);
}

#[tokio::test]
async fn a_used_ticket_is_only_for_who_has_read_the_stream() {
    let server = TestServer::start().await;
    let ada = sign_up(&server, "ada@example.com").await;
    let bob = sign_up(&server, "bob@example.com").await;
    let (path, bobs) = (
        ticket_address(&server, &ada).await,
        ticket_address(&server, &bob).await,
    );
    let (mut adas, mut bobs) = (
        Events::open(&server, &path, "").await,
        Events::open(&server, &bobs, "").await,
    );
    let (id, bobs_id) = (adas.next().await.unwrap().0, bobs.next().await.unwrap().0);
    let is_refused = async |headers: String| {
        let stream = Events::open(&server, &path, &headers).await;
        stream.status.contains(" 401 ")
    };
    let guess = id.replace(|c: char| c == id.chars().nth(3).unwrap(), "0");
    for other in [
        "",
        "nonsense",
        "0:0",
        "1:1",
        "17:4",
        &bobs_id,
        &guess,
        &format!("{id} "),
        &format!("x{id}"),
    ] {
        // White space around a header's value is none of it.
        if other.trim() != id {
            assert!(
                is_refused(format!("last-event-id: {other}\r\n")).await,
                "{other}"
            );
        }
    }
    assert!(is_refused(String::new()).await);
    let socket = path.replace("/api/stream", "/ws");
    let mut socket = Socket::open(&server, &socket, &[("last-event-id", &id)])
        .await
        .unwrap();
    assert_eq!(
        socket.closed().await.0,
        1008,
        "websockets have tickets of their own"
    );
    assert!(!is_refused(format!("last-event-id: {id}\r\n")).await);

    // It dies with its token, also for who has read the stream.
    post("/api/auth/logout")
        .token(&ada)
        .send(&server)
        .await
        .expect(200);
    assert!(is_refused(format!("last-event-id: {id}\r\n")).await);
}

#[tokio::test]
async fn a_position_that_is_none_of_ours_is_told_so() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut first = Socket::with_token(&server, &token).await;
    let epoch = first.next().await["epoch"].as_u64().unwrap();
    let (ahead, other) = (format!("{epoch}:1"), "17:4".to_owned());
    for id in [ahead, other, "nonsense".to_owned(), String::new()] {
        let headers = format!("authorization: Bearer {token}\r\nlast-event-id: {id}\r\n");
        let mut back = Events::open(&server, "/api/stream", &headers).await;
        assert_eq!(back.next().await.unwrap().2["resumed"], false, "{id}");
    }
    for twice in ["since=1:1&since=1:2", "updates=all&updates=rate"] {
        let answer = get(&format!("/api/stream?{twice}"))
            .token(&token)
            .send(&server)
            .await;
        answer.expect_failure(422, "invalid_field");
    }
}

#[tokio::test]
async fn an_event_source_that_is_refused_for_now_is_told_when_to_come() {
    let server = TestServer::with(&[("sockets.per_user_max", "1")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    socket.next().await;
    // At any other status than 200 it would never come again.
    let headers = format!("authorization: Bearer {token}\r\nlast-event-id: 1:1\r\n");
    let mut events = Events::open(&server, "/api/stream", &headers).await;
    let (_, name, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["code"]), ("close", &json!(1013)));
    assert_eq!(events.next().await, None);
    // What won't pass is said as to everybody.
    let void = "authorization: Bearer nonsense\r\nlast-event-id: 1:1\r\n";
    let refused = Events::open(&server, "/api/stream", void).await;
    assert!(refused.status.contains(" 401 "), "{}", refused.status);
}

#[tokio::test]
async fn to_look_at_a_stream_opens_none() {
    let server = TestServer::with(&[("sockets.per_user_max", "1")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let path = ticket_address(&server, &token).await;
    for _ in 0..3 {
        let head = call(Method::HEAD, &path).send(&server).await;
        assert_eq!(
            (head.status, head.header("content-type")),
            (200, "text/event-stream")
        );
    }
    let mut events = Events::open(&server, &path, "").await;
    assert_eq!(events.next().await.unwrap().2["type"], "credit_update");
    assert_eq!(call(Method::HEAD, &path).send(&server).await.status, 401);
}

#[tokio::test]
async fn event_streams_end_with_the_reason() {
    let server = TestServer::start().await;
    let (ada, bob) = (
        sign_up(&server, "ada@example.com").await,
        sign_up(&server, "bob@example.com").await,
    );
    let open = async |token: &str| {
        let header = format!("authorization: Bearer {token}\r\n");
        let mut events = Events::open(&server, "/api/stream", &header).await;
        events.next().await.unwrap();
        events
    };
    let (mut adas, mut bobs) = (open(&ada).await, open(&bob).await);
    post("/api/auth/logout")
        .token(&ada)
        .send(&server)
        .await
        .expect(200);
    let (_, name, data) = adas.next().await.unwrap();
    assert_eq!((name.as_str(), &data["code"]), ("close", &json!(1008)));
    assert_eq!(adas.next().await, None);

    let stopping = server.begin_stop();
    let (_, name, data) = bobs.next().await.unwrap();
    assert_eq!((name.as_str(), &data["code"]), ("close", &json!(1001)));
    assert_eq!(bobs.next().await, None);
    stopping.finish().await;
}

#[tokio::test]
async fn event_streams_need_a_token_and_room() {
    let server = TestServer::with(&[("sockets.per_user_max", "1")]).await;
    get("/api/stream")
        .send(&server)
        .await
        .expect_failure(401, "token_required");
    let answer = get("/api/stream").token("nonsense").send(&server).await;
    answer.expect_failure(401, "invalid_token");
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    socket.next().await;
    let answer = get("/api/stream").token(&token).send(&server).await;
    assert_eq!(answer.header("retry-after"), "10");
    answer.expect_failure(429, "rate_limited");
}

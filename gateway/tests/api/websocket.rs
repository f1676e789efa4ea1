//! `/` and `/ws` as websockets.

use std::time::Duration;

use engine::store::{Adjustment, NewPassword, Shortfall};
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use schema::{Credits, CreditsChange, ledger::EntryKind};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::{Socket, get, post, sign_up},
    server::TestServer,
    token::made_token,
};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Slow enough that a busy machine shows every fall by itself: two that are late would be one update.
const STEADY: (&str, &str) = ("tariff.interval_ms", "1000");

#[tokio::test]
async fn the_first_message_is_the_balance() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let bearer = format!("Bearer {token}");
    for (path, headers) in [
        (format!("/?token={token}"), vec![]),
        (format!("/ws?token={token}"), vec![]),
        (
            format!("/?other=1&token={}", token.replace('.', "%2E")),
            vec![],
        ),
        ("/ws".to_owned(), vec![("authorization", bearer.as_str())]),
    ] {
        let mut socket = Socket::open(&server, &path, &headers).await.unwrap();
        let first = socket.next().await;
        assert_eq!(first["type"], "credit_update", "{path}");
        assert_eq!(
            (&first["credits"], &first["active"]),
            (&json!(100), &json!(false)),
            "{path}"
        );
        assert!(first["asOf"].is_u64(), "{path}");
    }
}

#[tokio::test]
async fn without_a_good_token_it_is_closed_with_the_reason() {
    let server = TestServer::start().await;
    let required = (1008, "Authentication required".to_owned());
    let invalid = (1008, "Invalid token".to_owned());
    for (path, expected) in [
        ("/", &required),
        ("/ws", &required),
        ("/?token=", &required),
        ("/?token=nonsense", &invalid),
        ("/ws?token=v4.local.AAAA", &invalid),
    ] {
        let mut socket = Socket::open(&server, path, &[]).await.unwrap();
        assert_eq!(socket.closed().await, *expected, "{path}");
    }
}

#[tokio::test]
async fn ws_is_for_websockets_only() {
    let server = TestServer::start().await;
    get("/ws")
        .send(&server)
        .await
        .expect_failure(400, "invalid_request");
    let half = || {
        get("/ws")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
    };
    let without_key = half().header("sec-websocket-version", "13");
    let answer = without_key.send(&server).await;
    answer.expect_failure(400, "invalid_request");
    let with_key = || half().header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    for version in ["", "8", "14", "13, 8"] {
        let mut call = with_key();
        if !version.is_empty() {
            call = call.header("sec-websocket-version", version);
        }
        let answer = call.send(&server).await;
        assert_eq!(answer.header("sec-websocket-version"), "13", "{version}");
        assert_eq!(answer.header("upgrade"), "websocket", "{version}");
        answer.expect_failure(426, "upgrade_required");
    }
}

/// A masked frame of a client.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[kind, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// An open websocket as bytes, past the answer's head.
async fn raw_socket(server: &TestServer, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!(
        "GET /ws?token={token} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream
}

/// Everything that the server still sends.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    rest
}

#[tokio::test]
async fn a_close_is_answered_with_a_close_of_the_same_code() {
    const CLOSE: u8 = 0x88;
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let (ping, text) = (frame(0x89, b"x"), frame(0x81, b"hello"));
    let code = |code: u16| code.to_be_bytes().to_vec();
    for (what, before, payload, answer) in [
        ("a code", vec![], code(1000), code(1000)),
        (
            "a code and a reason",
            vec![],
            [code(1001), b"bye".to_vec()].concat(),
            code(1001),
        ),
        ("our own range", vec![], code(4999), code(4999)),
        ("no code", vec![], vec![], vec![]),
        ("after a ping", ping.clone(), code(1000), code(1000)),
        ("after a text", text, code(3000), code(3000)),
        ("after pings", ping.repeat(3), vec![], vec![]),
        ("a code that none may send", vec![], code(1005), code(1002)),
        ("a code that is none", vec![], code(999), code(1002)),
    ] {
        for ends_too in [false, true] {
            let mut stream = raw_socket(&server, &token).await;
            let sent = [before.clone(), frame(CLOSE, &payload)].concat();
            stream.write_all(&sent).await.unwrap();
            if ends_too {
                stream.shutdown().await.unwrap();
            }
            let told = rest(stream).await;
            let length = u8::try_from(answer.len()).unwrap();
            let expected = [&[CLOSE, length], answer.as_slice()].concat();
            assert!(told.ends_with(&expected), "{what}: {told:x?}");
        }
    }
    // A part of a code is none.
    let mut stream = raw_socket(&server, &token).await;
    stream.write_all(&frame(CLOSE, &[3])).await.unwrap();
    let told = rest(stream).await;
    let expected = [[CLOSE, 16].as_slice(), &code(1002), b"Protocol error"].concat();
    assert!(told.ends_with(&expected), "{told:x?}");
    // An end without a close is an end.
    let mut stream = raw_socket(&server, &token).await;
    stream.shutdown().await.unwrap();
    let told = rest(stream).await;
    assert!(!told.contains(&CLOSE), "{told:x?}");
}

#[tokio::test]
async fn a_close_is_answered_while_the_server_drains() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = Socket::with_token(&server, &token).await;
        socket.next().await;
        sockets.push(socket);
    }
    let stopping = server.begin_stop();
    for mut socket in sockets {
        socket.stream().close(None).await.ok();
        let (code, _) = socket.closed_by_either().await;
        assert!([1001, 1005].contains(&code), "{code}");
    }
    stopping.finish().await;
}

#[tokio::test]
async fn every_fall_of_the_balance_arrives_once() {
    let server = TestServer::with(&[STEADY]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let (mut first, mut second) = (
        Socket::with_token(&server, &token).await,
        Socket::with_token(&server, &token).await,
    );
    for socket in [&mut first, &mut second] {
        assert_eq!(socket.next().await["credits"], 100);
    }
    let started = post("/api/sessions/start")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    for socket in [&mut first, &mut second] {
        let told = socket.next().await;
        assert_eq!(told["type"], "session_started");
        assert_eq!(
            (&told["sessionId"], &told["startedAt"]),
            (&started["sessionId"], &started["startedAt"])
        );
        let begun = socket.next_of("credit_update").await;
        assert_eq!(
            (&begun["credits"], &begun["active"]),
            (&json!(100), &json!(true))
        );
        assert_eq!(
            begun["depletesAt"].as_i64(),
            started["startedAt"].as_i64().map(|at| at + 100_000)
        );
        for expected in (97..100).rev() {
            assert_eq!(socket.next_of("credit_update").await["credits"], expected);
        }
    }
    let stopped = post("/api/sessions/stop")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    for socket in [&mut first, &mut second] {
        let last = loop {
            let update = socket.next_of("credit_update").await;
            if update["active"] == false {
                break update;
            }
        };
        assert_eq!(last["credits"], stopped["finalCredits"]);
        let told = socket.next().await;
        assert_eq!(
            (&told["type"], &told["reason"]),
            (&json!("session_stopped"), &json!("user"))
        );
        for field in ["sessionId", "creditsConsumed", "finalCredits", "endedAt"] {
            assert_eq!(told[field], stopped[field], "{field}");
        }
    }
}

#[tokio::test]
async fn the_end_of_the_credits_is_told() {
    let server = TestServer::with(&[STEADY, ("signup.credits", "3")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    let started = post("/api/sessions/start")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    socket.next_of("session_started").await;
    let low = socket.next_of("balance_low").await;
    assert!(matches!(low["secondsLeft"].as_i64(), Some(1..=3)), "{low}");
    // It is active until its end is durable, which may be told together with the last fall.
    let mut told = Vec::new();
    loop {
        let update = socket.next_of("credit_update").await;
        told.push(update["credits"].as_i64().unwrap());
        if update["active"] == json!(false) {
            break;
        }
    }
    told.dedup();
    assert_eq!(told, [2, 1, 0]);
    let told = socket.next().await;
    assert_eq!(told["type"], "session_stopped");
    assert_eq!(
        (
            &told["reason"],
            &told["creditsConsumed"],
            &told["finalCredits"]
        ),
        (&json!("depleted"), &json!(3), &json!(0))
    );
    assert_eq!(
        told["endedAt"].as_i64(),
        started["startedAt"].as_i64().map(|at| at + 3_000)
    );
}

#[tokio::test]
async fn credits_from_another_process_are_told() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    assert_eq!(socket.next().await["credits"], 100);

    let store = server.store().await;
    let user = store
        .user_by_email("ada@example.com")
        .await
        .unwrap()
        .unwrap();
    let grant = |key: &str| Adjustment {
        user: user.id,
        kind: EntryKind::Grant,
        amount: CreditsChange::incoming(Credits::new(50).unwrap()),
        session: None,
        shortfall: Shortfall::Refuse,
        at: user.created_at,
        reason: "test".to_owned(),
        operator: "tester".to_owned(),
        idempotency_key: key.to_owned(),
    };
    for (key, credits) in [("while idle", 150), ("while still idle", 200)] {
        store.adjust(grant(key)).await.unwrap();
        let told = socket.next().await;
        assert_eq!(told["type"], "credits_added", "{told}");
        assert_eq!(
            (&told["amount"], &told["credits"]),
            (&json!(50), &json!(credits))
        );
        let told = socket.next().await;
        assert_eq!(
            (&told["credits"], &told["active"]),
            (&json!(credits), &json!(false))
        );
    }
    // What goes out is no event, and shows all the same.
    let revoke = Adjustment {
        kind: EntryKind::Revoke,
        amount: CreditsChange::outgoing(Credits::new(50).unwrap()),
        ..grant("a revoke while idle")
    };
    store.adjust(revoke).await.unwrap();
    let told = socket.next().await;
    assert_eq!(
        (&told["type"], &told["credits"]),
        (&json!("credit_update"), &json!(150))
    );

    let started = post("/api/sessions/start")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    store.adjust(grant("while live")).await.unwrap();
    let told = socket.next_of("credits_added").await;
    assert_eq!(
        (&told["amount"], &told["credits"]),
        (&json!(50), &json!(200))
    );

    // What goes out is seen by the balance and the end alone.
    let revoke = Adjustment {
        kind: EntryKind::Revoke,
        amount: CreditsChange::outgoing(Credits::new(120).unwrap()),
        ..grant("a revoke")
    };
    store.adjust(revoke).await.unwrap();
    let told = loop {
        let told = socket.next().await;
        assert_ne!(told["type"], "credits_added", "{told}");
        if told["credits"] == 80 {
            break told;
        }
    };
    assert_eq!(
        told["depletesAt"].as_i64(),
        started["startedAt"].as_i64().map(|at| at + 480_000)
    );
    let stopped = post("/api/sessions/stop")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    assert_eq!(
        (&stopped["creditsConsumed"], &stopped["finalCredits"]),
        (&json!(0), &json!(80))
    );
}

#[tokio::test]
async fn a_logout_closes_the_sockets_of_its_token() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let body = json!({"email": "ada@example.com", "password": crate::client::PASSWORD});
    let other = post("/api/auth/login")
        .json(&body)
        .send(&server)
        .await
        .expect(200);
    let mut socket = Socket::with_token(&server, &token).await;
    let mut staying = Socket::with_token(&server, other["token"].as_str().unwrap()).await;
    socket.next().await;
    staying.next().await;
    post("/api/auth/logout")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    assert_eq!(socket.closed().await, (1008, "Invalid token".to_owned()));
    post("/api/sessions/start")
        .token(other["token"].as_str().unwrap())
        .send(&server)
        .await
        .expect(200);
    staying.next_of("session_started").await;
}

#[tokio::test]
async fn a_token_that_ends_ends_its_sockets() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let me = get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let soon = made_token(me["id"].as_u64().unwrap(), |claims| {
        let now: Timestamp = claims["iat"].as_str().unwrap().parse().unwrap();
        claims["exp"] = json!((now + Duration::from_millis(1_500)).to_string());
    });
    let mut socket = Socket::with_token(&server, &soon).await;
    assert_eq!(socket.next().await["credits"], 100);
    assert_eq!(socket.closed().await, (1008, "Invalid token".to_owned()));
}

#[tokio::test]
async fn a_password_set_by_another_process_closes_sockets() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    socket.next().await;
    let store = server.store().await;
    let user = store
        .user_by_email("ada@example.com")
        .await
        .unwrap()
        .unwrap();
    let password = NewPassword {
        user: user.id,
        hash: user.password_hash.clone().unwrap(),
        decided_in: None,
        kept_token: None,
        at: user.created_at,
    };
    assert!(store.set_password(password).await.unwrap());
    assert_eq!(socket.closed().await, (1008, "Invalid token".to_owned()));
}

#[tokio::test]
async fn a_user_may_have_so_many_sockets() {
    let server = TestServer::with(&[("sockets.per_user_max", "2")]).await;
    let (ada, bob) = (
        sign_up(&server, "ada@example.com").await,
        sign_up(&server, "bob@example.com").await,
    );
    let mut first = Socket::with_token(&server, &ada).await;
    let mut second = Socket::with_token(&server, &ada).await;
    first.next().await;
    second.next().await;
    let mut third = Socket::with_token(&server, &ada).await;
    assert_eq!(
        third.closed().await,
        (1013, "Too many connections".to_owned())
    );
    Socket::with_token(&server, &bob).await.next().await;

    // A place that is left can be taken, as soon as the server has noticed.
    first.stream().close(None).await.unwrap();
    while Socket::with_token(&server, &ada)
        .await
        .stream()
        .next()
        .await
        .unwrap()
        .unwrap()
        .is_close()
    {}
}

#[tokio::test]
async fn what_clients_say_is_ignored_unless_it_is_too_much() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    socket.next().await;
    for message in [
        Message::text("{\"type\":\"stop\"}"),
        Message::text("x".repeat(4_096)),
        Message::binary(vec![0; 100]),
        Message::Ping(vec![1].into()),
    ] {
        socket.stream().send(message).await.unwrap();
    }
    let pong = socket.stream().next().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(vec![1].into()));
    socket
        .stream()
        .send(Message::text("x".repeat(4_097)))
        .await
        .unwrap();
    assert_eq!(
        socket.closed().await,
        (1009, "Message too large".to_owned())
    );
}

#[tokio::test]
async fn pings_are_sent_and_a_dead_peer_is_let_go() {
    let server = TestServer::with(&[
        ("sockets.ping_every_ms", "100"),
        ("sockets.per_user_max", "1"),
    ])
    .await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut alive = Socket::with_token(&server, &token).await;
    alive.next().await;
    for _ in 0..4 {
        let ping = alive.stream().next().await.unwrap().unwrap();
        assert_eq!(ping, Message::Ping(vec![].into()));
        // The pong is sent with the next read.
    }
    drop(alive);

    a_silent_client_loses_its_place(&server, &token).await;
}

#[tokio::test]
async fn pings_come_among_balances_too_and_a_dead_peer_is_let_go_all_the_same() {
    let server = TestServer::with(&[
        ("tariff.interval_ms", "20"),
        ("signup.credits", "10000"),
        ("sockets.ping_every_ms", "200"),
        ("sockets.per_user_max", "1"),
    ])
    .await;
    let token = sign_up(&server, "ada@example.com").await;
    post("/api/sessions/start")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let mut alive = Socket::with_token(&server, &token).await;
    let (mut texts, mut pings) = (0, 0);
    // More than may be unanswered.
    while pings < 4 {
        match alive.stream().next().await.unwrap().unwrap() {
            Message::Text(_) => texts += 1,
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(texts > pings, "{texts} balances");
    drop(alive);
    a_silent_client_loses_its_place(&server, &token).await;
}

/// Opens the one socket that the user may have, whose client then answers nothing, and waits until its
/// place is free for another.
async fn a_silent_client_loses_its_place(server: &TestServer, token: &str) {
    let silent = loop {
        let mut socket = Socket::with_token(server, token).await;
        if socket.stream().next().await.unwrap().unwrap().is_text() {
            break socket;
        }
    };
    while Socket::with_token(server, token)
        .await
        .stream()
        .next()
        .await
        .unwrap()
        .unwrap()
        .is_close()
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(silent);
}

#[tokio::test]
async fn at_the_end_sockets_are_told_to_come_back() {
    let server = TestServer::start().await;
    let mut sockets = Vec::new();
    for n in 0..20 {
        let token = sign_up(&server, &format!("user{n}@example.com")).await;
        let mut socket = Socket::with_token(&server, &token).await;
        socket.next().await;
        sockets.push(socket);
    }
    let stopping = server.begin_stop();
    for socket in &mut sockets {
        assert_eq!(socket.closed().await, (1001, "Going away".to_owned()));
    }
    drop(sockets);
    stopping.finish().await;
}

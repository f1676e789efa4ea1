//! Sockets as no client means them: too many, too talkative, malformed, or never read.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{
    client::{Socket, get, sign_up},
    server::TestServer,
};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection from another address of this machine.
async fn connect_from(server: &TestServer, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(from).unwrap();
    timeout(PATIENCE, socket.connect(server.address))
        .await
        .unwrap()
        .unwrap()
}

/// Opens a websocket from another address; the status if that is refused.
async fn open_from(
    server: &TestServer,
    last: u8,
    token: &str,
    forwarded: &str,
) -> Result<tokio_tungstenite::WebSocketStream<TcpStream>, u16> {
    let address = format!("ws://{}/?token={token}", server.address);
    let mut request = address.into_client_request().unwrap();
    if !forwarded.is_empty() {
        let value = forwarded.parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", value);
    }
    match client_async(request, connect_from(server, last).await).await {
        Ok((stream, _)) => Ok(stream),
        Err(tokio_tungstenite::tungstenite::Error::Http(reply)) => Err(reply.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn metric(server: &TestServer, line: &str) -> u64 {
    let answer = get("/metrics").send(server).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let value = text.lines().find_map(|found| found.strip_prefix(line));
    value
        .unwrap_or_else(|| panic!("no {line}"))
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn ten_thousand_idle_connections_of_one_address_leave_room_for_others() {
    let server = TestServer::with(&[("http.connections_per_address_max", "100")]).await;
    let mut idle = Vec::new();
    for _ in 0..10_000 {
        idle.push(connect_from(&server, 66).await);
    }
    get("/healthz").send(&server).await;
    let refused = "minute_credit_limited_total{limit=\"connections_per_address\"}";
    assert_eq!(metric(&server, refused).await, 9_900);
    let open = metric(&server, "minute_credit_http_connections").await;
    assert!((100..=102).contains(&open), "{open}");
    // Those that were one too many are closed, and a place that is given back can be taken.
    let mut last = idle.pop().unwrap();
    let end = timeout(PATIENCE, last.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    drop(idle);
    let mut stream = connect_from(&server, 66).await;
    stream
        .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .ok();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.0 200"),
        "{answer}"
    );
}

#[tokio::test]
async fn sockets_of_one_address_are_limited_whatever_it_says_of_itself() {
    let server = TestServer::with(&[("sockets.per_address_max", "3")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut open = Vec::new();
    for n in 0..3 {
        open.push(
            open_from(&server, 66, &token, &format!("198.51.100.{n}"))
                .await
                .unwrap(),
        );
    }
    for n in 0..5 {
        let refused = open_from(&server, 66, &token, &format!("198.51.100.1{n}")).await;
        assert_eq!(refused.err(), Some(429));
    }
    assert!(open_from(&server, 67, &token, "").await.is_ok());
    let limited = "minute_credit_limited_total{limit=\"sockets_per_address\"}";
    assert_eq!(metric(&server, limited).await, 5);
}

#[tokio::test]
async fn behind_a_proxy_clients_are_who_the_proxy_says_and_not_who_they_say() {
    let server = TestServer::with(&[
        ("sockets.per_address_max", "1"),
        ("http.trusted_proxies", "[\"127.0.0.9\"]"),
    ])
    .await;
    let token = sign_up(&server, "ada@example.com").await;
    let first = open_from(&server, 9, &token, "198.51.100.1").await;
    assert!(first.is_ok());
    // The client put an address before its own; the proxy added the true one.
    let spoofed = open_from(&server, 9, &token, "203.0.113.5, 198.51.100.1").await;
    assert_eq!(spoofed.err(), Some(429));
    assert!(open_from(&server, 9, &token, "198.51.100.2").await.is_ok());
}

#[tokio::test]
async fn metrics_are_not_for_strangers() {
    let server = TestServer::with(&[("http.trusted_proxies", "[\"127.0.0.9\"]")]).await;
    get("/metrics")
        .header("x-forwarded-for", "127.0.0.1")
        .send(&server)
        .await
        .expect_failure(404, "not_found");
    let mut stream = connect_from(&server, 9).await;
    let request = "GET /metrics HTTP/1.0\r\nx-forwarded-for: 198.51.100.1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
}

/// A frame with a mask of zeros.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first_byte];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0xfe);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Sends `first` and then `more` again and again until the server has had enough: its close code.
async fn close_code(first: &[u8], more: &[u8]) -> u16 {
    let server = TestServer::with(&[("sockets.bytes_per_minute_max", "20000")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut socket = Socket::with_token(&server, &token).await;
    socket.next().await;
    let stream = socket.stream().get_mut();
    stream.write_all(first).await.unwrap();
    if !more.is_empty() {
        for _ in 0..30_000 / more.len() {
            if stream.write_all(more).await.is_err() {
                break;
            }
        }
    }
    loop {
        let next = timeout(PATIENCE, socket.stream().next()).await.unwrap();
        if let Message::Close(frame) = next.unwrap().unwrap() {
            return frame.unwrap().code.into();
        }
    }
}

#[tokio::test]
async fn a_message_of_4_kib_and_one_byte_is_too_large() {
    assert_eq!(close_code(&frame(0x81, &[b'x'; 4_097]), &[]).await, 1009);
}

#[tokio::test]
async fn fragments_that_add_up_to_too_much_are_too_large() {
    assert_eq!(
        close_code(&frame(0x01, b"x"), &frame(0x00, &[b'x'; 1_000])).await,
        1009
    );
}

#[tokio::test]
async fn endless_empty_fragments_are_too_much() {
    assert_eq!(close_code(&frame(0x01, b""), &frame(0x00, b"")).await, 4001);
}

#[tokio::test]
async fn a_flood_of_pings_is_too_much() {
    assert_eq!(close_code(&[], &frame(0x89, b"")).await, 4001);
}

#[tokio::test]
async fn a_flood_of_messages_is_too_much() {
    assert_eq!(close_code(&[], &frame(0x81, &[b'x'; 100])).await, 4001);
}

#[tokio::test]
async fn messages_and_bytes_are_limited_each() {
    let check = async |setting: &str, limit: &str| {
        let server = TestServer::with(&[
            ("sockets.bytes_per_minute_max", "1000000"),
            ("sockets.messages_per_minute_max", "1000000"),
            (setting, "1024"),
        ])
        .await;
        let token = sign_up(&server, "ada@example.com").await;
        let mut socket = Socket::with_token(&server, &token).await;
        socket.next().await;
        let ping = frame(0x89, b"");
        for _ in 0..1_100 {
            if socket.stream().get_mut().write_all(&ping).await.is_err() {
                break;
            }
        }
        assert_eq!(socket.closed().await.0, 4001, "{setting}");
        let limited = format!("minute_credit_limited_total{{limit=\"{limit}\"}}");
        assert_eq!(metric(&server, &limited).await, 1);
    };
    check("sockets.bytes_per_minute_max", "socket_bytes").await;
    check("sockets.messages_per_minute_max", "socket_messages").await;
}

#[tokio::test]
async fn a_text_that_is_not_utf_8_is_refused() {
    assert_eq!(close_code(&frame(0x81, &[0xc3, 0x28]), &[]).await, 1007);
}

#[tokio::test]
async fn an_unmasked_frame_is_refused() {
    assert_eq!(close_code(&[0x81, 0x01, b'x'], &[]).await, 1002);
}

#[tokio::test]
async fn a_frame_of_an_unknown_kind_is_refused() {
    assert_eq!(close_code(&frame(0x83, b""), &[]).await, 1002);
}

#[tokio::test]
async fn a_client_that_never_reads_is_let_go() {
    let server = TestServer::with(&[("http.send_timeout_ms", "300")]).await;
    let mut stream = connect_from(&server, 66).await;
    let request = "GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    // It asks for far more than the buffers between the two hold.
    let (_reading, mut writing) = stream.split();
    let asking = async {
        for _ in 0..5_000 {
            writing.write_all(request.as_bytes()).await?;
        }
        std::future::pending::<std::io::Result<()>>().await
    };
    let limited = "minute_credit_limited_total{limit=\"send_timeout\"}";
    let let_go = async {
        while metric(&server, limited).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = async { asking.await.ok(); std::future::pending().await } => {}
        done = timeout(PATIENCE, let_go) => done.unwrap(),
    }
}

#[tokio::test]
async fn pages_of_other_origins_open_no_sockets() {
    let server = TestServer::with(&[("http.allowed_origins", "[\"https://shop.example\"]")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    for origin in [
        "https://evil.example",
        "null",
        "https://shop.example.evil.example",
        "https://evilshop.example",
        "http://shop.example",
        "https://shop.example:444",
        "https://shop.example@evil.example",
        "file://",
    ] {
        let path = format!("/?token={token}");
        let opened = Socket::open(&server, &path, &[("origin", origin)]).await;
        assert!(opened.is_err(), "{origin}");
        let answer = get("/api/stream")
            .token(&token)
            .header("origin", origin)
            .send(&server);
        answer.await.expect_failure(403, "origin_not_allowed");
    }
}

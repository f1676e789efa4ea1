//! HTTP as no client means it: too slow, of two minds about its length, with more in a line than a
//! line holds, and out for files that are none of the page's.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    client::{call, get, post, sign_up},
    raw::{answer_to, exchange, parse},
    server::TestServer,
};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends `head` and then a byte now and then, for ever: the answer, if there is one.
async fn trickle(server: &TestServer, head: &str, more: &str) -> Vec<u8> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    writing.write_all(head.as_bytes()).await.unwrap();
    let more = more.to_owned();
    let slowly = tokio::spawn(async move {
        for byte in more.bytes().cycle() {
            sleep(Duration::from_millis(20)).await;
            if writing.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let read = reading.read_to_end(&mut answer);
    // A reset after the answer is as good as an end.
    timeout(PATIENCE, read).await.unwrap().ok();
    slowly.abort();
    answer
}

#[tokio::test]
async fn slow_heads_are_cut_and_hold_up_nobody() {
    let server = TestServer::with(&[("http.header_timeout_ms", "300")]).await;
    let slow = (0..50).map(|_| trickle(&server, "GET /healthz HTTP/1.1\r\nx-slow: ", "x"));
    let honest = async {
        for _ in 0..20 {
            get("/healthz").send(&server).await;
        }
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(slow), honest);
    for answer in answers {
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[tokio::test]
async fn slow_bodies_are_cut_and_hold_up_nobody() {
    let server = TestServer::with(&[("http.body_timeout_ms", "300")]).await;
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n";
    let slow = (0..50).map(|_| trickle(&server, head, " "));
    let honest = async {
        for _ in 0..20 {
            get("/healthz").send(&server).await;
        }
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(slow), honest);
    for answer in answers {
        parse(&answer).expect_failure(408, "request_timeout");
    }
}

#[tokio::test]
async fn a_request_of_two_lengths_is_refused_and_hides_none() {
    let server = TestServer::start().await;
    let hidden = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let line = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\n";
    let length = format!("content-length: {}\r\n", 5 + hidden.len());
    let chunked = "transfer-encoding: chunked\r\n";
    for (what, headers) in [
        ("a length, then chunks", format!("{length}{chunked}")),
        ("chunks, then a length", format!("{chunked}{length}")),
        ("two lengths", format!("{length}content-length: 5\r\n")),
        (
            "two lengths in a line",
            "content-length: 5, 6\r\n".to_owned(),
        ),
        ("a length with a sign", "content-length: +5\r\n".to_owned()),
        (
            "chunks that are no chunks",
            "transfer-encoding: xchunked\r\n".to_owned(),
        ),
        (
            "chunks within something",
            "transfer-encoding: chunked, identity\r\n".to_owned(),
        ),
        (
            "a space before the colon",
            format!("transfer-encoding : chunked\r\n{length}"),
        ),
        (
            "a folded line",
            format!("transfer-encoding:\r\n chunked\r\n{length}"),
        ),
    ] {
        let request = format!("{line}{headers}\r\n0\r\n\r\n{hidden}");
        let received = exchange(&server, request.as_bytes()).await;
        let text = String::from_utf8_lossy(&received);
        // Where the chunks count alone, the connection must end with them (RFC 9112, section 6.3).
        let is_refused = text.starts_with("HTTP/1.1 400 ");
        let is_last = text.to_lowercase().contains("\r\nconnection: close\r\n");
        assert!(is_refused || is_last, "{what}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{what}: {text}");
    }
}

#[tokio::test]
async fn a_password_of_ten_megabytes_is_not_even_read() {
    let server = TestServer::start().await;
    for path in ["/api/auth/login", "/api/auth/signup"] {
        let body = json!({"email": "ada@example.com", "password": "x".repeat(10 << 20)});
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // The answer comes before the body.
        let answer = answer_to(&server, head.as_bytes()).await;
        assert_eq!(answer.header("connection"), "close");
        answer.expect_failure(413, "body_too_large");
        exchange(&server, (head + &body).as_bytes()).await;
        get("/healthz").send(&server).await;
    }
}

#[tokio::test]
async fn nothing_that_is_sent_becomes_a_header() {
    let server =
        TestServer::with(&[("http.allowed_origins", r#"["http://localhost:3000"]"#)]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let evil = "%0d%0ax-evil:%20yes";
    for path in [
        format!("/{evil}"),
        format!("/api/{evil}"),
        format!("/api/sessions/{evil}"),
        format!("/api/sessions?limit={evil}"),
        format!("/api/ledger?cursor={evil}"),
        format!("/?{evil}"),
    ] {
        let answer = get(&path).token(&token).send(&server).await;
        assert!(!answer.headers.contains_key("x-evil"), "{path}");
        assert_ne!(answer.status, 500, "{path}");
    }
    for name in [
        "origin",
        "idempotency-key",
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "if-none-match",
        "traceparent",
    ] {
        for value in [
            "http://localhost:3000\tx-evil: yes",
            "\u{1f4a9}",
            "x-evil%0d%0a",
        ] {
            let call = post("/api/sessions/start")
                .token(&token)
                .header(name, value);
            let answer = call.send(&server).await;
            assert!(!answer.headers.contains_key("x-evil"), "{name}: {value:?}");
            let told = format!("{:?}", answer.headers);
            assert!(!told.contains("x-evil"), "{name}: {told}");
        }
    }
    // A line that ends where none should.
    for value in ["a\rx-evil: yes", "a\0b", "a\nx-evil: yes"] {
        let request = format!(
            "GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: {value}\r\nconnection: close\r\n\r\n"
        );
        let received = exchange(&server, request.as_bytes()).await;
        assert!(
            !parse(&received).headers.contains_key("x-evil"),
            "{value:?}"
        );
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_page() {
    let server = TestServer::start().await;
    for path in [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/../../Cargo.toml",
        "/assets/..%5c..%5cCargo.toml",
        "/assets/..\\..\\Cargo.toml",
        "/assets//etc/passwd",
        "//etc/passwd",
        "/....//....//etc/passwd",
        "/etc/passwd%00.html",
        "/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
        "/%252e%252e/etc/passwd",
        "/.git/config",
        "/assets/.hidden.txt",
        "/data/token.key",
        "/C:/windows/win.ini",
        "/file:///etc/passwd",
        "/index.html/../../../etc/passwd",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = parse(&exchange(&server, request.as_bytes()).await);
        let body = String::from_utf8_lossy(&answer.body);
        let is_refused = matches!(answer.status, 400 | 404);
        // Without a file there and without an ending, it is one of the page's own addresses.
        let is_page = answer.header("content-type") == "text/html; charset=utf-8"
            && body.to_lowercase().starts_with("<!doctype html>");
        assert!(is_refused || is_page, "{path}: {answer:?}");
        for secret in ["root:", "[workspace]", "k4.local"] {
            assert!(!body.contains(secret), "{path}: {body}");
        }
    }
}

#[tokio::test]
async fn numbers_beyond_every_bound_are_refused() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let long = "9".repeat(5_000);
    for id in [
        "0",
        "-1",
        "+1",
        "1.0",
        "1e0",
        "0x1",
        "%31%20",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "NaN",
        "%D9%A1",
        "1'%20OR%20'1'='1",
        "1;DROP%20TABLE%20users",
        &long,
    ] {
        let answer = get(&format!("/api/sessions/{id}")).token(&token);
        answer.send(&server).await.expect_failure(404, "not_found");
        let beyond = [
            format!("/api/sessions?limit={id}"),
            format!("/api/ledger?limit={id}"),
            format!("/api/sessions?cursor={id}"),
            format!("/api/sessions?cursor={id}-1"),
            format!("/api/sessions?cursor=1-{id}"),
            format!("/api/sessions?cursor=-1-{id}"),
            format!("/api/ledger?cursor={id}"),
        ];
        for path in beyond {
            // A sign before a number, and a number of times, are as good as none.
            let is_sane = ["limit=+1", "cursor=+1"]
                .iter()
                .any(|end| path.ends_with(end));
            if is_sane || path.contains("=0-1") || path.contains("=+1-1") || path.contains("1-+1") {
                continue;
            }
            let answer = get(&path).token(&token).send(&server).await;
            let body = answer.expect_failure(422, "invalid_field");
            assert!(["limit", "cursor"].contains(&body["field"].as_str().unwrap()));
        }
    }
    // Of several, the first counts, and so does its bound.
    let twice = "/api/ledger?limit=1000&limit=1";
    let twice = get(twice).token(&token).send(&server).await;
    twice.expect_failure(422, "invalid_field");
}

#[tokio::test]
async fn methods_that_nobody_has_heard_of_do_nothing() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    for method in ["TRACE", "CONNECT", "PROPFIND", "start", "GETS"] {
        let method: Method = method.parse().unwrap();
        for path in ["/api/sessions/start", "/api/auth/me", "/healthz"] {
            if method == Method::CONNECT {
                continue;
            }
            let override_header = call(method.clone(), path)
                .token(&token)
                .header("x-http-method-override", "POST");
            assert_eq!(
                override_header.send(&server).await.status,
                405,
                "{method} {path}"
            );
        }
    }
    let active = get("/api/sessions/active")
        .token(&token)
        .send(&server)
        .await;
    assert_eq!(active.expect(200)["active"], false);
}

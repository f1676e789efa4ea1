//! What is wrong with any request: paths, methods, bodies.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{call, get, post, sign_up},
    server::TestServer,
};

#[tokio::test]
async fn unknown_addresses_of_the_api_are_not_found() {
    let server = TestServer::start().await;
    for path in [
        "/api",
        "/api/",
        "/api/nothing",
        "/api/auth",
        "/api/auth/login/",
        "/api/sessions/1/2",
        "/api//auth/me",
    ] {
        get(path)
            .send(&server)
            .await
            .expect_failure(404, "not_found");
        post(path)
            .send(&server)
            .await
            .expect_failure(404, "not_found");
    }
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let server = TestServer::start().await;
    for (method, path, allow) in [
        (Method::GET, "/api/auth/login", "POST, OPTIONS"),
        (Method::HEAD, "/api/sessions/start", "POST, OPTIONS"),
        (Method::DELETE, "/api/sessions/active", "GET, HEAD, OPTIONS"),
        (Method::POST, "/healthz", "GET, HEAD, OPTIONS"),
        (Method::PUT, "/", "GET, HEAD, OPTIONS"),
    ] {
        let answer = call(method.clone(), path).send(&server).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, allow),
            "{method} {path}"
        );
        if method != Method::HEAD {
            answer.expect_failure(405, "method_not_allowed");
        }
    }
    let answer = call(Method::OPTIONS, "/api/auth/login").send(&server).await;
    assert_eq!(
        (answer.status, answer.header("allow"), answer.body.len()),
        (204, "POST, OPTIONS", 0)
    );
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let got = get("/api/sessions/credits")
        .token(&token)
        .send(&server)
        .await;
    let head = call(Method::HEAD, "/api/sessions/credits")
        .token(&token)
        .send(&server)
        .await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), got.header("content-length"));
}

#[tokio::test]
async fn bodies_that_are_not_json_are_refused() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let deep = "[".repeat(10_000);
    for body in [
        "{",
        "{\"email\"",
        "[]",
        "5",
        "null",
        "\"text\"",
        "{} {}",
        "\u{feff}{}",
        deep.as_str(),
    ] {
        for path in [
            "/api/auth/signup",
            "/api/auth/login",
            "/api/sessions/start",
            "/api/sessions/stop",
        ] {
            let call = post(path)
                .token(&token)
                .header("content-type", "application/json");
            call.body(body.to_owned())
                .send(&server)
                .await
                .expect_failure(400, "invalid_json");
        }
    }
    let call = post("/api/auth/login").body(&b"{\"email\": \"\xff\"}"[..]);
    call.send(&server).await.expect_failure(400, "invalid_json");
    let text = post("/api/auth/login")
        .header("content-type", "text/plain")
        .body("{}");
    text.send(&server)
        .await
        .expect_failure(415, "unsupported_media_type");
    post("/api/auth/login")
        .body("{}")
        .send(&server)
        .await
        .expect_failure(422, "invalid_field");
    post("/api/auth/login")
        .send(&server)
        .await
        .expect_failure(422, "invalid_field");
}

#[tokio::test]
async fn huge_and_slow_bodies_are_cut() {
    let server = TestServer::with(&[
        ("http.body_timeout_ms", "200"),
        ("http.body_bytes_max", "3000"),
    ])
    .await;
    let fits = json!({"email": "ada@example.com", "password": "x".repeat(1_024)});
    post("/api/auth/signup")
        .json(&fits)
        .send(&server)
        .await
        .expect(201);
    let huge = post("/api/auth/signup")
        .body(" ".repeat(3_001))
        .send(&server)
        .await;
    assert_eq!(huge.header("connection"), "close");
    huge.expect_failure(413, "body_too_large");

    // Chunks don't say how many will come.
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\n";
    let chunk = format!("100\r\n{}\r\n", "x".repeat(256));
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\n\r\n{}",
        chunk.repeat(20)
    );
    assert!(raw(&server, &chunked).await.starts_with("HTTP/1.1 413 "));
    let slow = format!("{head}content-length: 10\r\n\r\n{{");
    let answer = raw(&server, &slow).await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"),
        "{answer}"
    );
}

#[tokio::test]
async fn slow_heads_are_cut() {
    let server = TestServer::with(&[("http.header_timeout_ms", "200")]).await;
    let answer = raw(&server, "GET /healthz HTTP/1.1\r\nhost: ").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_not_http_harms_nobody() {
    let server = TestServer::start().await;
    for nonsense in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    ] {
        assert!(
            raw(&server, nonsense).await.starts_with("HTTP/1.1 400 "),
            "{nonsense:?}"
        );
    }
    let large_head = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    assert!(raw(&server, &large_head).await.starts_with("HTTP/1.1 431 "));
    get("/healthz").send(&server).await;
}

/// Sends `text` and reads until the server closes.
async fn raw(server: &TestServer, text: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset after the answer is as good as an end.
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

//! HTTP as no client means it: too slow, of two minds about its length, with more in a line than a
//! line holds, and out for files that are none of the page's.

use std::time::{Duration, Instant};

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

/// Sends a request as most programs do: all of it, and only then the answer is read. The status.
async fn status_after_all_is_sent(server: &TestServer, head: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    parse(&answer).status
}

#[tokio::test]
async fn who_sends_all_first_gets_the_answer_and_no_reset() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let body = vec![b' '; 5 << 20];
    let length = format!("content-length: {}\r\n", body.len());
    let auth = format!("authorization: Bearer {token}\r\n");
    let foreign = "origin: https://evil.example\r\n";
    for (line, headers, status) in [
        ("POST /api/auth/login", "", 413),
        ("POST /api/sessions/start", auth.as_str(), 413),
        ("POST /api/sessions/start", "", 401),
        (
            "POST /api/ws/ticket",
            "authorization: Bearer nonsense\r\n",
            401,
        ),
        ("POST /api/auth/login", foreign, 403),
        ("POST /api/nothing", "", 404),
        ("POST /nothing", "", 404),
        ("PUT /api/auth/login", "", 405),
        ("POST /api/ledger", "", 405),
        ("GET /api/auth/me", "", 401),
        (
            "POST /api/auth/login",
            "transfer-encoding: gzip, chunked\r\n",
            400,
        ),
    ] {
        let length = if headers.contains("transfer") {
            ""
        } else {
            &length
        };
        let head =
            format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}{length}connection: close\r\n\r\n");
        let got = status_after_all_is_sent(&server, &head, &body).await;
        assert_eq!(got, status, "{line} {headers}");
    }
    // The same of a head that is too large or makes no sense.
    let endless = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    let got = status_after_all_is_sent(&server, &endless, &[]).await;
    assert!(matches!(got, 414 | 431), "{got}");
    let nonsense = "GET /\u{1} HTTP/1.1\r\n\r\n";
    assert_eq!(
        status_after_all_is_sent(&server, nonsense, &body).await,
        400
    );
}

#[tokio::test]
async fn who_asks_before_it_sends_need_not_send() {
    let server = TestServer::start().await;
    for (length, expected) in [(5_000_000, "HTTP/1.1 413 "), (2, "HTTP/1.1 100 ")] {
        let head = format!(
            "POST /api/auth/login HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 13];
        timeout(PATIENCE, stream.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }
}

#[tokio::test]
async fn a_request_has_one_host_and_a_body_of_one_meaning() {
    let server = TestServer::start().await;
    for (request, status) in [
        ("GET /healthz HTTP/1.1\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\nhost: x\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: x y\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: me@x\r\n", 400),
        ("GET http://x/healthz HTTP/1.1\r\n", 400),
        ("GET http://x/healthz HTTP/1.1\r\nhost: x\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nhost:\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nhost: [::1]:8000\r\n", 200),
        ("GET /healthz HTTP/1.0\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nhost: x\r\n", 204),
        (
            "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n",
            400,
        ),
        (
            "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n",
            400,
        ),
    ] {
        let bytes = format!("{request}connection: close\r\n\r\n0\r\n\r\n");
        let received = exchange(&server, bytes.as_bytes()).await;
        assert_eq!(parse(&received).status, status, "{request}");
    }
    // Several requests at once are answered in their order.
    let line = |path: &str, end: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{end}\r\n");
    let pipelined =
        line("/healthz", "") + &line("/nothing", "") + &line("/readyz", "connection: close\r\n");
    let received = exchange(&server, pipelined.as_bytes()).await;
    let text = String::from_utf8(received).unwrap();
    let places = ["ok\n", "not_found", "ready\n"].map(|body| text.find(body).unwrap());
    assert!(places.is_sorted(), "{text}");
}

#[tokio::test]
async fn bodies_in_other_encodings_are_refused_by_name() {
    let server = TestServer::start().await;
    let good = json!({"email": "ada@example.com", "password": "correct horse"}).to_string();
    let check = async |header: (&str, &str), body: Vec<u8>, status: u16| {
        let call = post("/api/auth/signup").header(header.0, header.1);
        let call = if header.0 == "content-type" {
            call
        } else {
            call.header("content-type", "application/json")
        };
        let answer = call.body(body).send(&server).await;
        assert_eq!(answer.status, status, "{header:?} {answer:?}");
    };
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    check(("content-encoding", "gzip"), b"\x1f\x8b\x08".to_vec(), 415).await;
    check(("content-encoding", "br"), good.clone().into(), 415).await;
    check(
        ("content-type", "application/json; charset=utf-16"),
        utf16.clone(),
        415,
    )
    .await;
    check(("content-type", "application/json"), utf16, 400).await;
    let latin = b"{\"email\": \"j\xfcrgen@example.com\", \"password\": \"correct horse\"}";
    check(("content-type", "application/json"), latin.to_vec(), 400).await;
    let twice =
        r#"{"email": "ada@example.com", "email": "bob@example.com", "password": "correct horse"}"#;
    check(("content-type", "application/json"), twice.into(), 400).await;
    let mut marked = "\u{feff}".as_bytes().to_vec();
    marked.extend(good.bytes());
    check(("content-encoding", "identity"), marked, 400).await;
    check(("content-encoding", "identity"), good.into(), 201).await;
}

#[tokio::test]
async fn control_characters_reach_no_database() {
    let server = TestServer::start().await;
    sign_up(&server, "ada@example.com").await;
    let send =
        async |path: &str, body: serde_json::Value| post(path).json(&body).send(&server).await;
    for odd in ["\u{0}", "\u{1}", "\u{1b}", "\u{7f}", "\u{85}"] {
        for email in [
            format!("ada@example.com{odd}x"),
            format!("a{odd}da@example.com"),
            odd.to_owned(),
        ] {
            let body = json!({"email": email, "password": "correct horse"});
            let answer = send("/api/auth/signup", body.clone()).await;
            answer.expect_failure(422, "invalid_email");
            let answer = send("/api/auth/login", body).await;
            // Some are white space, which is cut off: nobody has what is left.
            answer.expect_failure(401, "invalid_credentials");
        }
    }
    // Such a try counts as any other wrong password.
    let settings = [(
        "limits.wrong_passwords_per_account_and_address_per_hour",
        "2",
    )];
    let server = TestServer::with(&settings).await;
    let body = json!({"email": "ada\u{0}@example.com", "password": "correct horse"});
    for expected in [401, 401, 429] {
        let answer = post("/api/auth/login").json(&body).send(&server).await;
        assert_eq!(answer.status, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn who_is_refused_again_and_again_is_held_back_and_nobody_else() {
    let settings = [("limits.refused_requests_per_address_per_minute", "3")];
    let server = TestServer::with(&settings).await;
    let token = sign_up(&server, "ada@example.com").await;
    let held_back = async || {
        let metrics = get("/metrics").send(&server).await;
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        let line = "minute_credit_limited_total{limit=\"refused_requests\"} ";
        let count = text.lines().find_map(|told| told.strip_prefix(line));
        count.unwrap().parse::<u64>().unwrap()
    };
    for _ in 0..3 {
        get("/api/auth/me").token("nonsense").send(&server).await;
    }
    assert_eq!(held_back().await, 0);
    // What isn't HTTP is answered at once, and its connection lasts on: who waits for the end is held
    // back, and who doesn't has all its places taken.
    let began_at = Instant::now();
    let malformed = exchange(&server, b"nonsense\r\n\r\n").await;
    assert_eq!(parse(&malformed).status, 400);
    assert!(
        began_at.elapsed() >= Duration::from_millis(250),
        "held back"
    );
    for path in ["/api/nothing", "/api/sessions?limit=0"] {
        get(path).token(&token).send(&server).await;
    }
    let mut socket = crate::client::Socket::open(&server, "/ws?token=nonsense", &[])
        .await
        .unwrap();
    assert_eq!(socket.closed().await.0, 1008);
    assert_eq!(held_back().await, 4);
    // What is right, or right and impossible, is not.
    get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let stop = post("/api/sessions/stop").token(&token).send(&server).await;
    stop.expect_failure(409, "no_active_session");
    assert_eq!(held_back().await, 4);
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

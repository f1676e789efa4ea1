//! Pages of other origins: CORS, and the websocket's Origin check.

use hyper::Method;

use crate::{
    client::{Socket, call, get, post, sign_up},
    server::TestServer,
};

const DASHBOARD: &str = "http://localhost:3000";
const FOREIGN: &str = "http://evil.example";

async fn server() -> TestServer {
    TestServer::with(&[("http.allowed_origins", r#"["http://localhost:3000"]"#)]).await
}

#[tokio::test]
async fn an_allowed_page_may_ask_first_and_read_the_answer() {
    let server = server().await;
    let answer = call(Method::OPTIONS, "/api/sessions/start")
        .header("origin", DASHBOARD)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        )
        .send(&server)
        .await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), DASHBOARD);
    assert_eq!(
        answer.header("access-control-allow-methods"),
        "POST, OPTIONS"
    );
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "authorization, content-type"
    );
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert_eq!(answer.header("access-control-max-age"), "7200");
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    let asked_for = "Access-Control-Request-Headers, Access-Control-Request-Method";
    assert_eq!(vary, [asked_for, "Origin"]);

    // Failures can be read too, or the dashboard could not say what is wrong.
    let answer = post("/api/sessions/start")
        .header("origin", DASHBOARD)
        .send(&server)
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), DASHBOARD);
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    let readable = answer.header("access-control-expose-headers");
    for name in ["Retry-After", "X-Request-Id"] {
        assert!(
            readable.split(", ").any(|readable| readable == name),
            "{readable}"
        );
    }
    answer.expect_failure(401, "token_required");
}

#[tokio::test]
async fn an_allowed_page_may_send_what_libraries_and_proxies_add() {
    let server = server().await;
    for (path, method, headers) in [
        ("/api/stream", "GET", "authorization,last-event-id"),
        (
            "/api/sessions/credits",
            "GET",
            "authorization,sentry-trace,baggage",
        ),
        (
            "/api/sessions/active",
            "GET",
            "authorization,traceparent,tracestate",
        ),
        (
            "/api/sessions/start",
            "POST",
            "authorization,x-requested-with",
        ),
        ("/api/sessions/stop", "POST", "idempotency-key,x-request-id"),
        (
            "/api/auth/login",
            "POST",
            "content-type,x-datadog-trace-id,newrelic",
        ),
        ("/api/ledger", "GET", ""),
    ] {
        let preflight = call(Method::OPTIONS, path)
            .header("origin", DASHBOARD)
            .header("access-control-request-method", method)
            .header("access-control-request-private-network", "true")
            .header("access-control-request-headers", headers);
        let answer = preflight.send(&server).await;
        assert_eq!(answer.status, 204, "{path}");
        let granted: Vec<_> = answer
            .header("access-control-allow-headers")
            .split(", ")
            .map(str::to_lowercase)
            .collect();
        for wanted in headers.split(',').filter(|name| !name.is_empty()) {
            assert!(
                granted.contains(&wanted.to_owned()),
                "{wanted} in {granted:?}"
            );
        }
        assert_eq!(
            answer.header("access-control-allow-private-network"),
            "true"
        );
    }
}

#[tokio::test]
async fn a_page_behind_a_proxy_that_changes_the_host_is_our_own() {
    let settings = [
        ("http.trusted_proxies", r#"["127.0.0.1"]"#),
        ("http.public_url", "https://credit.example"),
    ];
    let server = TestServer::with(&settings).await;
    let check = async |origin: &str, header: (&str, &str), status: u16| {
        let call = get("/api/auth/me").header("origin", origin);
        let answer = call.header(header.0, header.1).send(&server).await;
        assert_eq!(answer.status, status, "{origin} {header:?}");
    };
    let none = ("x-none", "x");
    check("https://credit.example", none, 401).await;
    check("https://other.example", none, 403).await;
    let forwarded = ("x-forwarded-host", "other.example");
    check("https://other.example", forwarded, 401).await;
    check("https://evil.example", forwarded, 403).await;
    let same = ("sec-fetch-site", "same-origin");
    check("https://third.example", same, 401).await;
}

#[tokio::test]
async fn a_foreign_page_may_not() {
    let server = server().await;
    let token = sign_up(&server, "ada@example.com").await;
    for origin in [
        FOREIGN,
        "null",
        "http://localhost:3001",
        "https://localhost:3000",
    ] {
        let preflight = call(Method::OPTIONS, "/api/sessions/start")
            .header("origin", origin)
            .header("access-control-request-method", "POST");
        let start = post("/api/sessions/start")
            .header("origin", origin)
            .token(&token);
        for call in [preflight, start] {
            let answer = call.send(&server).await;
            assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}");
            answer.expect_failure(403, "origin_not_allowed");
        }
    }
    let active = get("/api/sessions/active")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    assert_eq!(active["active"], false, "nothing was started");
}

#[tokio::test]
async fn our_own_page_needs_no_permission() {
    let server = TestServer::start().await;
    let own = format!("http://{}", server.address);
    let answer = post("/api/sessions/start")
        .header("origin", &own)
        .send(&server)
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    answer.expect_failure(401, "token_required");
}

#[tokio::test]
async fn websockets_ask_the_same() {
    let server = server().await;
    let token = sign_up(&server, "ada@example.com").await;
    let own = format!("http://{}", server.address);
    for path in [format!("/?token={token}"), format!("/ws?token={token}")] {
        for origin in [DASHBOARD, own.as_str()] {
            let mut socket = Socket::open(&server, &path, &[("origin", origin)])
                .await
                .unwrap();
            assert_eq!(socket.next().await["credits"], 100);
        }
        for origin in [FOREIGN, "null", "http://localhost:3001"] {
            let refused = Socket::open(&server, &path, &[("origin", origin)])
                .await
                .err()
                .unwrap();
            let tokio_tungstenite::tungstenite::Error::Http(answer) = refused else {
                panic!("{refused}")
            };
            assert_eq!(answer.status(), 403, "{origin}");
        }
    }
}

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
        "Authorization, Content-Type, Idempotency-Key"
    );
    assert_eq!(answer.header("vary"), "Origin");

    // Failures can be read too, or the dashboard could not say what is wrong.
    let answer = post("/api/sessions/start")
        .header("origin", DASHBOARD)
        .send(&server)
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), DASHBOARD);
    assert_eq!(
        answer.header("access-control-expose-headers"),
        "Retry-After"
    );
    answer.expect_failure(401, "token_required");
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

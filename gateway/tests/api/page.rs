//! Everything that is not the API: the page. Its files have unit tests in `src/page.rs`.

use hyper::Method;

use crate::{
    client::{call, get},
    server::TestServer,
};

/// What a browser asks for when it goes to an address.
const NAVIGATION: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

#[tokio::test]
async fn the_page_has_a_strict_policy() {
    let server = TestServer::start().await;
    for path in ["/", "/?x=1"] {
        let answer = get(path).send(&server).await;
        assert_eq!(
            answer.header("content-type"),
            "text/html; charset=utf-8",
            "{path}"
        );
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self' 'wasm-unsafe-eval';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe-inline"), "{policy}");
    }
    get("/assets/missing.js")
        .send(&server)
        .await
        .expect_failure(404, "not_found");
    get("/../../etc/passwd.txt")
        .send(&server)
        .await
        .expect_failure(404, "not_found");
}

#[tokio::test]
async fn an_address_that_is_none_is_never_answered_with_200() {
    let server = TestServer::start().await;
    // Where something else is asked for, the page is no answer; least of all to a probe.
    for path in [
        "/readyz/",
        "//readyz",
        "/readyz//",
        "/./readyz",
        "/Readyz",
        "/READYZ",
        "/%72eadyz",
        "/readyz%20",
        "/ready",
        "/healthz/",
        "/healthz/x",
        "/health",
        "/livez",
        "/live",
        "/metrics/",
        "/ws/",
        "/ws/x",
        "//ws",
        "/api",
        "/api/",
        "//api/sessions",
        "/API/sessions",
        "/api//sessions",
        "/api/sessions/",
        "/api/sessions/1/",
        "/api/%73essions",
        "/api/sessions%2Fstart",
        "/api/openapi.json/",
    ] {
        for accept in ["*/*", NAVIGATION] {
            for method in [Method::GET, Method::POST, Method::OPTIONS] {
                let asked = call(method.clone(), path).header("accept", accept);
                let answer = asked.send(&server).await;
                assert_eq!(answer.status, 404, "{method} {path}");
                assert_eq!(answer.header("content-type"), "application/json", "{path}");
            }
        }
    }
    for path in ["/history", "/ledger/2", "//", "/x%2Fy/z"] {
        let answer = get(path).send(&server).await;
        answer.expect_failure(404, "not_found");
    }
    // A person who mistypes an address still gets the page, if it is built, and the status says the truth.
    let is_built = get("/").send(&server).await.status == 200;
    let mistyped = get("/history").header("accept", NAVIGATION);
    let mistyped = mistyped.header("if-none-match", "*").send(&server).await;
    assert_eq!(mistyped.status, 404);
    if is_built {
        assert_eq!(mistyped.header("content-type"), "text/html; charset=utf-8");
    }
}

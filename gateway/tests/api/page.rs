//! Everything that is not the API: the page. Its files have unit tests in `src/page.rs`.

use crate::{client::get, server::TestServer};

#[tokio::test]
async fn the_page_has_a_strict_policy() {
    let server = TestServer::start().await;
    for path in ["/", "/history", "/?x=1"] {
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

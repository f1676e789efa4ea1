//! `/healthz` and `/readyz`

use crate::{client::get, server::TestServer};

#[tokio::test]
async fn a_running_server_is_alive_and_ready() {
    let server = TestServer::start().await;
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = get(path).send(&server).await;
        assert_eq!((answer.status, &answer.body[..]), (200, text.as_bytes()));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn every_answer_is_hardened_and_has_an_id() {
    let server = TestServer::start().await;
    let mut ids = std::collections::BTreeSet::new();
    for path in ["/healthz", "/", "/api/nothing", "/api/auth/me"] {
        let answer = get(path).send(&server).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert!(
            ids.insert(answer.header("x-request-id").to_owned()),
            "{path}"
        );
    }
}

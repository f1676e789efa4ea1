//! Tokens that are not what they seem.

use serde_json::{Value, json};

use crate::{
    client::{get, sign_up},
    server::TestServer,
    token::made_token,
};

/// What the server says to who comes with `token`.
async fn answer(server: &TestServer, token: &str) -> Value {
    let answer = get("/api/auth/me").token(token).send(server).await;
    answer.expect_failure(401, "invalid_token")
}

#[tokio::test]
async fn every_bad_token_gets_the_same_answer() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let expected = answer(&server, "nonsense").await;
    let told = |what: &str, claim: &'static str, value: Value| {
        (
            what.to_owned(),
            made_token(1, |claims| claims[claim] = value.clone()),
        )
    };
    for (what, token) in [
        told("expired", "exp", json!("2020-01-01T00:00:00Z")),
        told("not yet valid", "nbf", json!("2100-01-01T00:00:00Z")),
    ] {
        assert_eq!(answer(&server, &token).await, expected, "{what}");
    }
    get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
}

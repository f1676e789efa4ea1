//! Tokens that are not what they seem.

use serde_json::{Value, json};

use crate::{
    client::{Socket, get, sign_up},
    server::{TOKEN_KEY, TestServer},
    token::{claims, footer_of, made_token, sealed},
};

/// Somebody else's key.
const FOREIGN_KEY: &str = "k4.local.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Tokens of the user 1 that are no good, each for another reason.
fn bad_tokens(good: &str) -> Vec<(&'static str, String)> {
    let with =
        |claim: &'static str, value: Value| made_token(1, |claims| claims[claim] = value.clone());
    let made =
        |key: &str, footer: &str, assertion: &str| sealed(key, footer, assertion, &claims(1));
    let (ours, foreign) = (footer_of(TOKEN_KEY), footer_of(FOREIGN_KEY));
    let mut tampered = good.to_owned().into_bytes();
    tampered[60] ^= 1;
    let (body, _) = good.rsplit_once('.').unwrap();
    vec![
        ("expired", with("exp", json!("2020-01-01T00:00:00Z"))),
        ("not yet valid", with("nbf", json!("2100-01-01T00:00:00Z"))),
        (
            "made in the future",
            with("iat", json!("2100-01-01T00:00:00Z")),
        ),
        ("of another issuer", with("iss", json!("somebody-else"))),
        ("for another audience", with("aud", json!("somebody-else"))),
        ("of a user who is not", with("sub", json!("1000000"))),
        ("of no user", with("sub", json!("-1"))),
        (
            "of a number past all bounds",
            with("sub", json!("99999999999999999999999")),
        ),
        ("without an id", with("jti", json!(""))),
        ("with an id that is SQL", with("jti", json!("' OR 1=1 --"))),
        ("without an end", with("exp", Value::Null)),
        ("tampered with", String::from_utf8(tampered).unwrap()),
        ("without its footer", body.to_owned()),
        (
            "of an unknown key",
            made(FOREIGN_KEY, &foreign, "minute-credit"),
        ),
        (
            "of an unknown key with our footer",
            made(FOREIGN_KEY, &ours, "minute-credit"),
        ),
        (
            "of our key with an unknown footer",
            made(TOKEN_KEY, &foreign, "minute-credit"),
        ),
        (
            "of our key with a footer of more",
            made(TOKEN_KEY, &format!("{ours} "), "minute-credit"),
        ),
        (
            "of our key for another purpose",
            made(TOKEN_KEY, &ours, "minute-credit ticket"),
        ),
        ("of our key for no purpose", made(TOKEN_KEY, &ours, "")),
        ("of another version", good.replacen("v4.", "v3.", 1)),
        ("public", good.replacen("local", "public", 1)),
        (
            "a JWT without a signature",
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.".to_owned(),
        ),
        ("endless", "v4.local.".repeat(1_000)),
        ("nonsense", "nonsense".to_owned()),
    ]
}

#[tokio::test]
async fn every_bad_token_gets_the_same_answer() {
    let server = TestServer::start().await;
    let good = sign_up(&server, "ada@example.com").await;
    get("/api/auth/me")
        .token(&good)
        .send(&server)
        .await
        .expect(200);
    get("/api/auth/me")
        .token(&made_token(1, |_| ()))
        .send(&server)
        .await
        .expect(200);

    let mut first = None;
    for (what, token) in bad_tokens(&good) {
        let answer = get("/api/auth/me").token(&token).send(&server).await;
        let mut headers = answer.headers.clone();
        headers.remove("date");
        headers.remove("x-request-id");
        let told = (headers, answer.expect_failure(401, "invalid_token"));
        assert_eq!(*first.get_or_insert(told.clone()), told, "{what}");
    }
}

#[tokio::test]
async fn every_bad_token_closes_its_socket_in_the_same_words() {
    let server = TestServer::start().await;
    let good = sign_up(&server, "ada@example.com").await;
    for (what, token) in bad_tokens(&good) {
        let token = token.replace([' ', '\''], "%20");
        let mut socket = Socket::with_token(&server, &token).await;
        assert_eq!(
            socket.closed().await,
            (1008, "Invalid token".to_owned()),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_token_of_a_user_reaches_nobody_elses_rows() {
    let server = TestServer::start().await;
    let (ada, eve) = (
        sign_up(&server, "ada@example.com").await,
        sign_up(&server, "eve@example.com").await,
    );
    let started = crate::client::post("/api/sessions/start")
        .token(&ada)
        .send(&server)
        .await;
    let session = started.expect(200)["sessionId"].as_i64().unwrap();
    let path = format!("/api/sessions/{session}");
    get(&path).token(&ada).send(&server).await.expect(200);
    let foreign = get(&path).token(&eve).send(&server).await;
    let absent = get("/api/sessions/999999").token(&eve).send(&server).await;
    assert_eq!(
        foreign.expect_failure(404, "not_found"),
        absent.expect_failure(404, "not_found")
    );
    let stop = crate::client::post("/api/sessions/stop")
        .token(&eve)
        .send(&server)
        .await;
    stop.expect_failure(409, "no_active_session");
    let active = get("/api/sessions/active").token(&ada).send(&server).await;
    assert_eq!(active.expect(200)["active"], true);
}

//! Tickets that are not what they seem, or come too often.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    client::{Socket, get, post, sign_up},
    server::TestServer,
    token::made_token,
};

async fn ticket(server: &TestServer, token: &str) -> String {
    let answer = post("/api/ws/ticket").token(token).send(server).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let body = answer.expect(200);
    assert_eq!(body["expiresIn"], 30);
    body["ticket"].as_str().unwrap().to_owned()
}

async fn open(server: &TestServer, ticket: &str) -> Socket {
    let path = format!("/ws?ticket={ticket}");
    Socket::open(server, &path, &[]).await.unwrap()
}

async fn assert_opens(mut socket: Socket) {
    assert_eq!(socket.next().await["type"], "credit_update");
}

async fn assert_refused(mut socket: Socket) {
    assert_eq!(socket.closed().await, (1008, "Invalid token".to_owned()));
}

#[tokio::test]
async fn a_ticket_that_is_replayed_opens_nothing() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    for path in ["/?ticket=", "/ws?ticket=", "/ws?token=nonsense&ticket="] {
        let path = format!("{path}{}", ticket(&server, &token).await);
        let mut first = Socket::open(&server, &path, &[]).await.unwrap();
        assert_eq!(first.next().await["type"], "credit_update", "{path}");
        assert_refused(Socket::open(&server, &path, &[]).await.unwrap()).await;
        drop(first);
        assert_refused(Socket::open(&server, &path, &[]).await.unwrap()).await;
    }
    // The token is as good as before.
    assert_opens(Socket::with_token(&server, &token).await).await;
}

#[tokio::test]
async fn of_a_hundred_uses_of_a_ticket_at_once_one_wins() {
    let server = TestServer::with(&[("sockets.per_user_max", "1000")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let ticket = ticket(&server, &token).await;
    let mut sockets = join_all((0..100).map(|_| open(&server, &ticket))).await;
    let firsts = join_all(sockets.iter_mut().map(Socket::first)).await;
    let opened = firsts
        .iter()
        .filter(|first| **first == "credit_update")
        .count();
    let refused = firsts
        .iter()
        .filter(|first| **first == "1008 Invalid token")
        .count();
    assert_eq!((opened, refused), (1, 99), "{firsts:?}");
}

#[tokio::test]
async fn a_ticket_is_no_token_and_a_token_no_ticket() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let ticket = ticket(&server, &token).await;
    let me = get("/api/auth/me").token(&ticket).send(&server).await;
    me.expect_failure(401, "invalid_token");
    let more = post("/api/ws/ticket").token(&ticket).send(&server).await;
    more.expect_failure(401, "invalid_token");
    assert_refused(Socket::with_token(&server, &ticket).await).await;
    let bearer = format!("Bearer {ticket}");
    let by_header = Socket::open(&server, "/ws", &[("authorization", &bearer)]).await;
    assert_refused(by_header.unwrap()).await;
    assert_refused(open(&server, &token).await).await;
    assert_refused(open(&server, &made_token(1, |_| ())).await).await;
    assert_opens(open(&server, &ticket).await).await;
}

#[tokio::test]
async fn a_ticket_is_good_on_its_own_process_alone() {
    let here = TestServer::start().await;
    let there = here.beside(&[]).await;
    let token = sign_up(&here, "ada@example.com").await;
    let ticket = ticket(&here, &token).await;
    assert_refused(open(&there, &ticket).await).await;
    assert_opens(open(&here, &ticket).await).await;
}

#[tokio::test]
async fn a_ticket_dies_with_its_token() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let made_before = ticket(&server, &token).await;
    let body = json!({"everywhere": true});
    post("/api/auth/logout")
        .token(&token)
        .json(&body)
        .send(&server)
        .await
        .expect(200);
    assert_refused(open(&server, &made_before).await).await;

    let soon = made_token(1, |claims| {
        let now: jiff::Timestamp = claims["iat"].as_str().unwrap().parse().unwrap();
        claims["generation"] = json!(1);
        claims["exp"] = json!((now + Duration::from_millis(1_500)).to_string());
    });
    let mut socket = open(&server, &ticket(&server, &soon).await).await;
    assert_eq!(socket.next().await["type"], "credit_update");
    // A socket that a ticket opened ends with the token too.
    assert_refused(socket).await;
}

#[tokio::test]
async fn a_tampered_or_empty_ticket_opens_nothing() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let ticket = ticket(&server, &token).await;
    let mut tampered = ticket.clone().into_bytes();
    tampered[60] ^= 1;
    assert_refused(open(&server, &String::from_utf8(tampered).unwrap()).await).await;
    assert_refused(open(&server, "nonsense").await).await;
    assert_refused(open(&server, &"A".repeat(9_000)).await).await;
    let mut none = open(&server, "").await;
    assert_eq!(
        none.closed().await,
        (1008, "Authentication required".to_owned())
    );
    assert_opens(open(&server, &ticket).await).await;
}

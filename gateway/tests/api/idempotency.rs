//! The `Idempotency-Key` header: a request under a key is done once.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    client::{Answer, get, post, sign_up},
    server::TestServer,
};

const START: &str = "/api/sessions/start";
const STOP: &str = "/api/sessions/stop";

async fn send(server: &TestServer, token: &str, path: &str, key: &str) -> Answer {
    let call = post(path).token(token).header("idempotency-key", key);
    call.send(server).await
}

async fn sessions(server: &TestServer, token: &str) -> Vec<Value> {
    let body = get("/api/sessions").token(token).send(server).await;
    body.expect(200)["sessions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn twenty_starts_at_once_under_one_key_are_one_start() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let answers = join_all((0..20).map(|_| send(&server, &token, START, "once"))).await;
    let bodies: Vec<Value> = answers.into_iter().map(|a| a.expect(200)).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    let sessions = sessions(&server, &token).await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0]["sessionId"], bodies[0]["sessionId"]);

    let answers = join_all((0..20).map(|_| send(&server, &token, STOP, "over"))).await;
    let bodies: Vec<Value> = answers.into_iter().map(|a| a.expect(200)).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
}

#[tokio::test]
async fn a_request_that_was_done_is_answered_the_same_again() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let started = send(&server, &token, START, "first").await.expect(200);
    let again = send(&server, &token, START, "first").await.expect(200);
    assert_eq!(again, started, "while the session lives");
    let other = send(&server, &token, START, "second").await;
    other.expect_failure(409, "session_active");

    let stopped = send(&server, &token, STOP, "third").await.expect(200);
    assert_eq!(stopped["sessionId"], started["sessionId"]);
    assert_eq!(
        send(&server, &token, STOP, "third").await.expect(200),
        stopped
    );
    let again = send(&server, &token, START, "first").await.expect(200);
    assert_eq!(again, started, "after its end");
    let nothing = post(STOP).token(&token).send(&server).await;
    nothing.expect_failure(409, "no_active_session");

    // A refusal keeps nothing: the key of the refused start is free.
    let second = send(&server, &token, START, "second").await.expect(200);
    assert_ne!(second["sessionId"], started["sessionId"]);
    let again = send(&server, &token, STOP, "third").await.expect(200);
    assert_eq!(again, stopped, "although another session lives");

    let server = server.restart(&[]).await;
    for (path, key, first) in [
        (START, "first", &started),
        (STOP, "third", &stopped),
        (START, "second", &second),
    ] {
        let again = send(&server, &token, path, key).await.expect(200);
        assert_eq!(again, *first, "{key}, after a restart");
    }
    assert_eq!(sessions(&server, &token).await.len(), 2);
    send(&server, &token, STOP, "fourth").await.expect(200);
}

#[tokio::test]
async fn another_request_under_a_key_is_a_conflict() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    send(&server, &token, START, "mine").await.expect(200);
    let conflict = |answer: Answer| answer.expect_failure(409, "idempotency_conflict");
    conflict(send(&server, &token, STOP, "mine").await);
    let body = post(START)
        .token(&token)
        .header("idempotency-key", "mine")
        .json(&json!({}));
    conflict(body.send(&server).await);
    let active = get("/api/sessions/active")
        .token(&token)
        .send(&server)
        .await;
    assert_eq!(active.expect(200)["active"], true, "nothing was stopped");

    send(&server, &token, STOP, "yours").await.expect(200);
    conflict(send(&server, &token, START, "yours").await);
    conflict(send(&server, &token, STOP, "mine").await);

    // Keys are each user's own.
    let token = sign_up(&server, "bob@example.com").await;
    send(&server, &token, START, "yours").await.expect(200);
    send(&server, &token, STOP, "mine").await.expect(200);
}

#[tokio::test]
async fn a_key_must_be_a_key() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let long = "k".repeat(256);
    for key in ["", "two words", "clé", &long] {
        for path in [START, STOP] {
            let answer = send(&server, &token, path, key).await;
            let body = answer.expect_failure(422, "invalid_field");
            assert_eq!(body["field"], "Idempotency-Key");
        }
    }
    let twice = post(START)
        .token(&token)
        .header("idempotency-key", "a")
        .header("idempotency-key", "a");
    let body = twice
        .send(&server)
        .await
        .expect_failure(422, "invalid_field");
    assert_eq!(body["error"], "The header Idempotency-Key must come once.");
    // Who it is comes first.
    let anonymous = post(START).header("idempotency-key", "").send(&server);
    anonymous.await.expect_failure(401, "token_required");

    let longest = "~".repeat(255);
    send(&server, &token, START, &longest).await.expect(200);
    assert_eq!(sessions(&server, &token).await.len(), 1);
}

#[tokio::test]
async fn starts_and_stops_under_keys_at_once_leave_one_effect_each() {
    let server = Arc::new(TestServer::start().await);
    let token = sign_up(&server, "ada@example.com").await;
    for round in 0..5 {
        let (start, stop) = (format!("start-{round}"), format!("stop-{round}"));
        let calls = (0..20).map(|n| {
            let (path, key) = if n % 2 == 0 {
                (START, &start)
            } else {
                (STOP, &stop)
            };
            send(&server, &token, path, key)
        });
        let answers = join_all(calls).await;
        let done = |path: usize| {
            let answers = answers.iter().skip(path).step_by(2);
            let done = answers.filter(|answer| answer.status == 200);
            done.map(Answer::json).collect::<Vec<_>>()
        };
        let (starts, stops) = (done(0), done(1));
        assert_eq!(starts.len(), 10);
        assert!(starts.iter().all(|body| *body == starts[0]), "{starts:?}");
        assert!(stops.iter().all(|body| *body == stops[0]), "{stops:?}");
        if stops.is_empty() {
            send(&server, &token, STOP, &stop).await.expect(200);
        }
        assert_eq!(sessions(&server, &token).await.len(), round + 1);
    }
}

//! Users who are erased while they are at it.

use serde_json::json;

use crate::{
    client::{Answer, PASSWORD, Socket, get, post, sign_up},
    server::TestServer,
};

async fn erase(server: &TestServer, token: &str, password: &str) -> Answer {
    let call = post("/api/auth/erase").token(token);
    call.json(&json!({"password": password})).send(server).await
}

#[tokio::test]
async fn whoever_is_erased_is_gone_with_all_that_was_theirs() {
    let server = TestServer::with(&[("tariff.charged_at", "start")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let me = get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let mut socket = Socket::with_token(&server, &token).await;
    socket.next().await;
    let start = post("/api/sessions/start")
        .token(&token)
        .header("idempotency-key", "mine");
    start.send(&server).await.expect(200);
    erase(&server, &token, "wrong horse")
        .await
        .expect_failure(401, "invalid_credentials");
    get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);

    let erased = erase(&server, &token, PASSWORD).await.expect(200);
    assert_eq!(erased["message"], "Account erased");
    let stopped = socket.next_of("session_stopped").await;
    assert_eq!(
        (&stopped["reason"], &stopped["finalCredits"]),
        (&json!("user"), &json!(99))
    );
    assert_eq!(socket.closed().await, (1008, "Invalid token".to_owned()));
    for call in [
        get("/api/auth/me"),
        post("/api/sessions/start"),
        post("/api/auth/logout"),
        get("/api/ledger"),
    ] {
        let answer = call.token(&token).send(&server).await;
        answer.expect_failure(401, "invalid_token");
    }
    erase(&server, &token, PASSWORD)
        .await
        .expect_failure(401, "invalid_token");
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let log_in = post("/api/auth/login").json(&body).send(&server).await;
    log_in.expect_failure(401, "invalid_credentials");

    let again = sign_up(&server, "ada@example.com").await;
    let new = get("/api/auth/me")
        .token(&again)
        .send(&server)
        .await
        .expect(200);
    assert_ne!(new["id"], me["id"]);
    assert_eq!(new["credits"], 100);
}

#[tokio::test]
async fn a_session_that_another_process_serves_ends_too() {
    let here = TestServer::start().await;
    let there = here.beside(&[]).await;
    let token = sign_up(&here, "ada@example.com").await;
    let mut socket = Socket::with_token(&there, &token).await;
    socket.next().await;
    post("/api/sessions/start")
        .token(&token)
        .send(&there)
        .await
        .expect(200);
    erase(&here, &token, PASSWORD).await.expect(200);
    assert_eq!(socket.next_of("session_stopped").await["reason"], "admin");
    assert_eq!(socket.closed().await, (1008, "Invalid token".to_owned()));
    let start = post("/api/sessions/start").token(&token).send(&there).await;
    start.expect_failure(401, "invalid_token");
}

#[tokio::test]
async fn starts_at_the_moment_of_an_erasure_leave_nothing_live() {
    let server = TestServer::with(&[("limits.unpaid_sessions_per_hour", "0")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let me = get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let restless = async {
        loop {
            let start = post("/api/sessions/start")
                .token(&token)
                .send(&server)
                .await;
            if start.status == 401 {
                return;
            }
            assert!([200, 402, 409].contains(&start.status), "{start:?}");
        }
    };
    let (erased, ()) = tokio::join!(erase(&server, &token, PASSWORD), restless);
    erased.expect(200);
    let user = schema::UserId::new(me["id"].as_i64().unwrap()).unwrap();
    let store = server.store().await;
    let sessions = store.sessions(user, None, 100).await.unwrap();
    assert!(
        sessions.iter().all(|session| session.ended_at.is_some()),
        "{sessions:?}"
    );
    assert!(store.user(user).await.unwrap().is_none());
}

//! `/api/sessions`, `/api/sessions/{id}` and `/api/ledger`.

use serde_json::{Value, json};

use crate::{
    client::{get, post, sign_up},
    server::TestServer,
};

async fn read(server: &TestServer, path: &str, token: &str) -> Value {
    get(path).token(token).send(server).await.expect(200)
}

/// Starts and stops `count` sessions, and gives their ids, newest first.
async fn some_sessions(server: &TestServer, token: &str, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let started = post("/api/sessions/start")
            .token(token)
            .send(server)
            .await
            .expect(200);
        post("/api/sessions/stop")
            .token(token)
            .send(server)
            .await
            .expect(200);
        ids.insert(0, started["sessionId"].clone());
    }
    ids
}

#[tokio::test]
async fn sessions_are_listed_page_by_page_newest_first() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let none = read(&server, "/api/sessions", &token).await;
    assert_eq!(none, json!({"sessions": [], "nextCursor": null}));

    let ids = some_sessions(&server, &token, 5).await;
    let (mut seen, mut path) = (Vec::new(), "/api/sessions?limit=2".to_owned());
    loop {
        let page = read(&server, &path, &token).await;
        let sessions = page["sessions"].as_array().unwrap();
        assert!((1..=2).contains(&sessions.len()));
        seen.extend(sessions.iter().map(|session| session["sessionId"].clone()));
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        path = format!("/api/sessions?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    let all = read(&server, "/api/sessions?limit=5", &token).await;
    assert_eq!(
        (
            all["sessions"].as_array().unwrap().len(),
            &all["nextCursor"]
        ),
        (5, &Value::Null)
    );
    let first = &all["sessions"][0];
    assert_eq!(
        (
            &first["endReason"],
            &first["creditsConsumed"],
            &first["creditsPerInterval"],
            &first["intervalMs"]
        ),
        (&json!("user"), &json!(0), &json!(1), &json!(6_000))
    );
    let length = first["endedAt"].as_i64().unwrap() - first["startedAt"].as_i64().unwrap();
    assert_eq!(first["servedMs"], length);
}

#[tokio::test]
async fn a_live_session_is_shown_with_what_it_costs_now() {
    let server = TestServer::with(&[("tariff.interval_ms", "50")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let started = post("/api/sessions/start")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let path = format!("/api/sessions/{}", started["sessionId"]);
    for path in [path.as_str(), "/api/sessions"] {
        loop {
            let body = read(&server, path, &token).await;
            let session = if path == "/api/sessions" {
                &body["sessions"][0]
            } else {
                &body
            };
            assert_eq!(
                (&session["endedAt"], &session["endReason"]),
                (&Value::Null, &Value::Null)
            );
            if session["creditsConsumed"].as_i64() > Some(1) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn another_users_session_is_not_found() {
    let server = TestServer::start().await;
    let (ada, bob) = (
        sign_up(&server, "ada@example.com").await,
        sign_up(&server, "bob@example.com").await,
    );
    let id = some_sessions(&server, &ada, 1).await[0].clone();
    assert_eq!(
        read(&server, &format!("/api/sessions/{id}"), &ada).await["sessionId"],
        id
    );
    for path in [
        format!("/api/sessions/{id}"),
        "/api/sessions/x".to_owned(),
        "/api/sessions/-1".to_owned(),
    ] {
        get(&path)
            .token(&bob)
            .send(&server)
            .await
            .expect_failure(404, "not_found");
    }
    assert_eq!(
        read(&server, "/api/sessions", &bob).await["sessions"],
        json!([])
    );
}

#[tokio::test]
async fn the_ledger_tells_every_movement() {
    let server = TestServer::with(&[("tariff.interval_ms", "50")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let started = post("/api/sessions/start")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    while read(&server, "/api/sessions/credits", &token).await["credits"].as_i64() > Some(97) {}
    let stopped = post("/api/sessions/stop")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let consumed = stopped["creditsConsumed"].as_i64().unwrap();

    let ledger = read(&server, "/api/ledger", &token).await;
    let [usage, grant] = ledger["entries"].as_array().unwrap().as_slice() else {
        panic!("{ledger}")
    };
    assert_eq!(
        (&usage["kind"], &usage["amount"]),
        (&json!("usage"), &json!(-consumed))
    );
    assert_eq!(
        (&usage["balanceAfter"], &usage["sessionId"]),
        (&stopped["finalCredits"], &started["sessionId"])
    );
    assert_eq!(usage["at"], stopped["endedAt"]);
    assert_eq!(
        (&grant["kind"], &grant["amount"]),
        (&json!("signup_grant"), &json!(100))
    );
    assert_eq!(
        (&grant["balanceAfter"], &grant["sessionId"]),
        (&json!(100), &Value::Null)
    );

    let first = read(&server, "/api/ledger?limit=1", &token).await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = read(
        &server,
        &format!("/api/ledger?limit=1&cursor={cursor}"),
        &token,
    )
    .await;
    assert_eq!(
        (&first["entries"][0], &second["entries"][0]),
        (usage, grant)
    );
    assert_eq!(second["nextCursor"], Value::Null);
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    for path in ["/api/sessions", "/api/ledger"] {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("cursor=", "cursor"),
            ("cursor=x", "cursor"),
            ("cursor=1-x", "cursor"),
            ("cursor=-1", "cursor"),
            ("cursor=99999999999999999999", "cursor"),
        ] {
            let answer = get(&format!("{path}?{query}"))
                .token(&token)
                .send(&server)
                .await;
            assert_eq!(
                answer.expect_failure(422, "invalid_field")["field"],
                field,
                "{path}?{query}"
            );
        }
    }
}

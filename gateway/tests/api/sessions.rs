//! `/api/sessions/…`: starting, stopping and watching.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    client::{get, post, sign_up},
    server::TestServer,
};

/// An interval short enough to wait for.
const FAST: (&str, &str) = ("tariff.interval_ms", "50");

async fn start(server: &TestServer, token: &str) -> crate::client::Answer {
    post("/api/sessions/start").token(token).send(server).await
}

async fn stop(server: &TestServer, token: &str) -> crate::client::Answer {
    post("/api/sessions/stop").token(token).send(server).await
}

async fn read(server: &TestServer, path: &str, token: &str) -> Value {
    get(path).token(token).send(server).await.expect(200)
}

/// Reads until what is read is `wanted`.
async fn wait_for(
    server: &TestServer,
    path: &str,
    token: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    loop {
        let body = read(server, path, token).await;
        if wanted(&body) {
            return body;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_session_starts_runs_and_stops() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let idle = read(&server, "/api/sessions/active", &token).await;
    assert_eq!(
        (&idle["active"], &idle["credits"], &idle["sessionId"]),
        (&json!(false), &json!(100), &Value::Null)
    );

    let started = start(&server, &token).await.expect(200);
    assert_eq!(started["message"], "Session started");
    let id = started["sessionId"].as_u64().unwrap();
    let active = read(&server, "/api/sessions/active", &token).await;
    assert_eq!(
        (&active["active"], &active["sessionId"]),
        (&json!(true), &json!(id))
    );
    let credits = read(&server, "/api/sessions/credits", &token).await;
    let started_at = started["startedAt"].as_i64().unwrap();
    assert_eq!(
        (
            &credits["credits"],
            &credits["consumed"],
            &credits["creditsPerInterval"],
            &credits["intervalMs"]
        ),
        (&json!(100), &json!(0), &json!(1), &json!(6_000))
    );
    assert_eq!(
        (
            &credits["startedAt"],
            &credits["depletesAt"],
            &credits["nextChargeAt"]
        ),
        (
            &json!(started_at),
            &json!(started_at + 600_000),
            &json!(started_at + 6_000)
        )
    );
    assert!(credits["asOf"].as_i64().unwrap() >= started_at);

    let stopped = stop(&server, &token).await.expect(200);
    assert_eq!(stopped["message"], "Session stopped");
    assert_eq!(
        (
            &stopped["sessionId"],
            &stopped["creditsConsumed"],
            &stopped["finalCredits"],
            &stopped["reason"]
        ),
        (&json!(id), &json!(0), &json!(100), &json!("user"))
    );
    assert_eq!(
        read(&server, "/api/sessions/active", &token).await["active"],
        false
    );
    assert_eq!(read(&server, "/api/auth/me", &token).await["credits"], 100);
}

#[tokio::test]
async fn what_was_consumed_and_what_is_left_make_what_there_was() {
    let server = TestServer::with(&[FAST]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut opening = 100;
    for rounds in 1..=3 {
        let started = start(&server, &token).await.expect(200);
        let target = opening - rounds;
        wait_for(&server, "/api/sessions/credits", &token, |body| {
            body["credits"].as_i64() <= Some(target)
        })
        .await;
        let stopped = stop(&server, &token).await.expect(200);
        let consumed = stopped["creditsConsumed"].as_i64().unwrap();
        let length = stopped["endedAt"].as_i64().unwrap() - started["startedAt"].as_i64().unwrap();
        assert_eq!(
            consumed,
            length / 50,
            "the charge is what the recorded instants say"
        );
        assert_eq!(
            consumed + stopped["finalCredits"].as_i64().unwrap(),
            opening
        );
        opening = stopped["finalCredits"].as_i64().unwrap();
    }
    assert_eq!(
        read(&server, "/api/sessions/credits", &token).await["credits"],
        opening
    );
}

#[tokio::test]
async fn a_body_may_be_empty_or_an_object() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    for body in ["", "{}", " {\"anything\": 1} ", "\n"] {
        for path in ["/api/sessions/start", "/api/sessions/stop"] {
            post(path)
                .token(&token)
                .body(body)
                .send(&server)
                .await
                .expect(200);
        }
    }
    // What axios sends when a page posts nothing.
    let form = "application/x-www-form-urlencoded";
    post("/api/sessions/start")
        .token(&token)
        .header("content-type", form)
        .send(&server)
        .await
        .expect(200);
}

#[tokio::test]
async fn starting_and_stopping_twice_is_refused() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    stop(&server, &token)
        .await
        .expect_failure(409, "no_active_session");
    start(&server, &token).await.expect(200);
    start(&server, &token)
        .await
        .expect_failure(409, "session_active");
    stop(&server, &token).await.expect(200);
    stop(&server, &token)
        .await
        .expect_failure(409, "no_active_session");
}

#[tokio::test]
async fn of_a_hundred_starts_one_wins() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let answers = join_all((0..100).map(|_| start(&server, &token))).await;
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 99));
    for answer in lost {
        answer.expect_failure(409, "session_active");
    }
    let sessions = read(&server, "/api/sessions", &token).await;
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
    let answers = join_all((0..10).map(|_| stop(&server, &token))).await;
    // A stop that meets the end before it is durable is told the same end.
    let stopped: Vec<_> = answers
        .into_iter()
        .filter(|answer| answer.status == 200)
        .map(|a| a.json())
        .collect();
    assert!(
        !stopped.is_empty() && stopped.iter().all(|end| *end == stopped[0]),
        "{stopped:?}"
    );
}

#[tokio::test]
async fn a_session_ends_itself_when_the_credits_run_out() {
    let server = TestServer::with(&[FAST, ("signup.credits", "3")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let started = start(&server, &token).await.expect(200);
    wait_for(&server, "/api/sessions/active", &token, |body| {
        body["active"] == false
    })
    .await;
    let path = format!("/api/sessions/{}", started["sessionId"]);
    let ended = wait_for(&server, &path, &token, |body| !body["endedAt"].is_null()).await;
    let length = ended["endedAt"].as_i64().unwrap() - started["startedAt"].as_i64().unwrap();
    assert_eq!(
        (length, &ended["creditsConsumed"], &ended["endReason"]),
        (150, &json!(3), &json!("depleted"))
    );
    assert_eq!(
        read(&server, "/api/sessions/credits", &token).await["credits"],
        0
    );
    start(&server, &token)
        .await
        .expect_failure(402, "insufficient_credits");
    stop(&server, &token)
        .await
        .expect_failure(409, "no_active_session");
}

#[tokio::test]
async fn a_live_session_survives_a_restart() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let started = start(&server, &token).await.expect(200);
    let server = server.restart(&[]).await;
    let active = read(&server, "/api/sessions/active", &token).await;
    assert_eq!(
        (&active["active"], &active["sessionId"]),
        (&json!(true), &started["sessionId"])
    );
    stop(&server, &token).await.expect(200);
}

#[tokio::test]
async fn stopping_before_it_costs_anything_is_free_so_many_times() {
    let settings = [("limits.unpaid_sessions_per_hour", "2")];
    let server = TestServer::with(&settings).await;
    let token = sign_up(&server, "ada@example.com").await;
    for _ in 0..2 {
        start(&server, &token).await.expect(200);
        let stopped = stop(&server, &token).await.expect(200);
        assert_eq!(stopped["creditsConsumed"], 0);
    }
    let refused = start(&server, &token).await;
    let seconds: i64 = refused.header("retry-after").parse().unwrap();
    assert!((3_500..=3_600).contains(&seconds), "{seconds}");
    refused.expect_failure(429, "too_many_unpaid_sessions");

    // It outlives the process, and others don't notice.
    let server = server.restart(&settings).await;
    start(&server, &token)
        .await
        .expect_failure(429, "too_many_unpaid_sessions");
    let other = sign_up(&server, "bob@example.com").await;
    start(&server, &other).await.expect(200);
    let server = server
        .restart(&[("limits.unpaid_sessions_per_hour", "0")])
        .await;
    start(&server, &token).await.expect(200);
}

//! `/api/openapi.json`, and that what it documents is so: every failure that many calls have in
//! common is produced here for each of them. The other tests produce those of single calls.

use std::{collections::BTreeSet, fs, time::Duration};

use hyper::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    client::{Answer, Call, PASSWORD, Socket, call, get, post, sign_up},
    contract::{self, DOCUMENT, Operation},
    home::Held,
    raw,
    server::TestServer,
};

#[tokio::test]
async fn the_document_is_served_and_may_be_kept() {
    let server = TestServer::start().await;
    let answer = get("/api/openapi.json").send(&server).await;
    let tag = answer.header("etag").to_owned();
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.expect(200), *DOCUMENT);
    for known in [tag.as_str(), &format!("\"other\", W/{tag}"), "*"] {
        let again = get("/api/openapi.json").header("if-none-match", known);
        let again = again.send(&server).await;
        assert_eq!((again.status, again.header("etag")), (304, tag.as_str()));
    }
    get("/api/openapi.json")
        .header("if-none-match", "\"other\"")
        .send(&server)
        .await
        .expect(200);
}

#[tokio::test]
async fn calls_that_need_a_token_say_so() {
    let server = TestServer::start().await;
    for operation in all_that_answer("token_required") {
        let bare = request(operation).send(&server).await;
        assert_eq!(bare.header("www-authenticate"), "Bearer");
        bare.expect_failure(401, "token_required");
        let bad = request(operation).token("nonsense").send(&server).await;
        bad.expect_failure(401, "invalid_token");
    }
}

#[tokio::test]
async fn what_is_missing_or_odd_is_named() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    for operation in all_that_answer("invalid_field") {
        let call = request(operation).token(&token);
        let call = call.header("idempotency-key", "not one");
        let answer = if operation.method == "POST" {
            call.json(&json!({"everywhere": "yes"})).send(&server).await
        } else {
            let odd = get(&format!("{}?limit=x&since=x&updates=x", operation.path));
            upgrade(odd.token(&token)).send(&server).await
        };
        let body = answer.expect_failure(422, "invalid_field");
        assert!(body["field"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn no_call_is_for_pages_of_foreign_origins() {
    let server = TestServer::start().await;
    for operation in all_that_answer("origin_not_allowed") {
        let foreign = request(operation).header("origin", "https://evil.example");
        let answer = if operation.path == "/ws" {
            upgrade(foreign).send(&server).await
        } else {
            foreign.send(&server).await
        };
        answer.expect_failure(403, "origin_not_allowed");
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused_by_every_call() {
    let settings = [
        ("http.body_timeout_ms", "200"),
        ("http.body_bytes_max", "3000"),
    ];
    let server = TestServer::with(&settings).await;
    let token = sign_up(&server, "ada@example.com").await;
    for operation in all_that_answer("invalid_json") {
        let send = async |content_type: &str, body: String| -> Answer {
            let call = request(operation).token(&token);
            let call = call.header("content-type", content_type).body(body);
            call.send(&server).await
        };
        let not_json = send("application/json", "{".to_owned()).await;
        not_json.expect_failure(400, "invalid_json");
        let text = send("text/plain", "{}".to_owned()).await;
        text.expect_failure(415, "unsupported_media_type");
        let huge = send("application/json", " ".repeat(3_001)).await;
        assert_eq!(huge.header("connection"), "close");
        huge.expect_failure(413, "body_too_large");

        let head = format!(
            "{} {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n",
            operation.method,
            operation.example_path()
        );
        let broken = format!("{head}transfer-encoding: chunked\r\n\r\nno number\r\n");
        let broken = raw::answer_to(&server, broken.as_bytes()).await;
        broken.expect_failure(400, "invalid_request");
        let slow = format!("{head}content-length: 10\r\n\r\n{{");
        let slow = raw::answer_to(&server, slow.as_bytes()).await;
        slow.expect_failure(408, "request_timeout");
    }
}

#[tokio::test]
async fn while_nothing_can_be_written_no_outcome_is_promised() {
    let settings = [
        ("database.call_timeout_ms", "1000"),
        ("limits.call_timeout_ms", "1000"),
    ];
    let server = TestServer::with(&settings).await;
    for operation in all_that_answer("outcome_unknown") {
        let email = format!("{}@example.com", operation.path.replace('/', "."));
        let email = email.trim_start_matches('.');
        let token = sign_up(&server, email).await;
        if operation.path == "/api/sessions/stop" {
            until_done(async || {
                let start = post("/api/sessions/start").token(&token);
                start.send(&server).await
            })
            .await;
        }
        // From now on the server knows the token.
        let credits = get("/api/sessions/credits").token(&token);
        credits.send(&server).await.expect(200);

        let hold = server.home().hold(Held::Writes).await;
        let call = request(operation).token(&token);
        let call = call.json(&good_body(&format!("new.{email}")));
        let answer = call.send(&server).await;
        assert_ne!(answer.header("retry-after"), "", "{}", operation.path);
        answer.expect_failure(503, "outcome_unknown");
        hold.release().await;
        // What was given up by us still runs in the database for a moment.
        until_done(async || post("/api/auth/logout").token(&token).send(&server).await).await;
    }
}

/// Sends a request as often as it is told to come back: until it was done, now or the time before.
async fn until_done(send: impl AsyncFn() -> Answer) {
    loop {
        let answer = send().await;
        if answer.status != 503 {
            assert!(matches!(answer.status, 200 | 401 | 409), "{answer:?}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn while_the_database_is_away_every_call_says_so() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    // A new process knows nothing yet.
    let server = server.restart(&[("database.call_timeout_ms", "200")]).await;
    // SQLite lets readers read, so there only those that write can tell.
    let what = if server.home().is_postgres() {
        Held::Everything
    } else {
        Held::Writes
    };
    let hold = server.home().hold(what).await;
    while get("/readyz").send(&server).await.status == 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unready = get("/readyz").send(&server).await;
    unready.expect_failure(503, "unavailable");
    if what == Held::Everything {
        for operation in all_that_answer("unavailable") {
            // Signing up has read nothing before it writes; a websocket is told by its close code.
            if ["/api/auth/signup", "/ws"].contains(&operation.path) {
                continue;
            }
            let mut call = request(operation).token(&token);
            if operation.method == "POST" {
                call = call.json(&good_body("ada@example.com"));
            }
            let answer = call.send(&server).await;
            answer.expect_failure(503, "unavailable");
        }
    }
    hold.release().await;
}

#[tokio::test]
async fn while_too_many_requests_are_being_answered_every_call_says_so() {
    let server = TestServer::with(&[("http.requests_in_flight_max", "1")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    // A request whose body never comes is being answered for as long as it is waited for.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    let is_there = async || {
        let call = get("/api/sessions/active").token(&token);
        call.send(&server).await.status == 503
    };
    while !is_there().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for operation in all_that_answer("unavailable") {
        // How the server is can be asked however busy it is.
        if operation.path == "/readyz" {
            continue;
        }
        let call = upgrade(request(operation).token(&token));
        let answer = call.send(&server).await;
        assert_eq!(answer.header("retry-after"), "1");
        answer.expect_failure(503, "unavailable");
    }
    assert_eq!(get("/readyz").send(&server).await.status, 200);
}

#[tokio::test]
async fn a_websocket_too_many_from_one_address_is_refused() {
    let server = TestServer::with(&[("sockets.per_address_max", "1")]).await;
    let token = sign_up(&server, "ada@example.com").await;
    let mut first = Socket::with_token(&server, &token).await;
    first.next_of("credit_update").await;
    // What is answered is held against the document where sockets are opened.
    let second = Socket::open(&server, &format!("/ws?token={token}"), &[]).await;
    let refusal = second.err().unwrap().to_string();
    assert!(refusal.contains("429"), "{refusal}");
}

#[tokio::test]
async fn too_many_signups_at_once_are_refused_for_now() {
    let settings = [
        ("passwords.hashes_at_once", "1"),
        ("passwords.waiting_max", "0"),
    ];
    let server = TestServer::with(&settings).await;
    let signups = (0..8).map(|number| {
        let email = format!("user{number}@example.com");
        let body = json!({"email": email, "password": PASSWORD});
        post("/api/auth/signup").json(&body).send(&server)
    });
    let answers = futures_util::future::join_all(signups).await;
    let refused = answers.into_iter().filter(|answer| answer.status != 201);
    for answer in refused {
        answer.expect_failure(503, "unavailable");
    }
}

/// Only `scripts/test` can tell that all tests have run.
#[test]
#[ignore = "asks what all the other tests have produced"]
fn every_documented_answer_was_produced() {
    let mut produced = BTreeSet::new();
    for file in fs::read_dir(contract::answers_dir()).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        produced.extend(text.lines().map(ToOwned::to_owned));
    }
    let mut missing = Vec::new();
    for operation in Operation::all() {
        for (status, code) in operation.answers() {
            let line = contract::line(operation, status, code.as_deref());
            if !produced.contains(&line) {
                missing.push(line);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "documented, and produced by no test:\n{}",
        missing.join("\n")
    );
}

/// The operations that may answer with `code`.
fn all_that_answer(code: &str) -> Vec<Operation> {
    let mut operations = Operation::all();
    operations.retain(|operation| operation.may_answer(code));
    assert!(!operations.is_empty(), "no call answers {code}");
    operations
}

/// A body that every call takes: each reads the fields that it knows.
fn good_body(email: &str) -> Value {
    json!({"email": email, "password": PASSWORD, "current": PASSWORD, "new": PASSWORD})
}

fn request(operation: Operation) -> Call {
    let method: Method = operation.method.parse().unwrap();
    call(method, &operation.example_path())
}

/// The same as a request for a websocket.
fn upgrade(call: Call) -> Call {
    [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    .into_iter()
    .fold(call, |call, (name, value)| call.header(name, value))
}

//! `/api/auth`

use std::time::Duration;

use engine::store::NewPassword;
use serde_json::{Value, json};

use crate::{
    client::{PASSWORD, get, post, sign_up},
    server::TestServer,
    token::made_token,
};

fn credentials(email: &str, password: &str) -> Value {
    json!({"email": email, "password": password})
}

#[tokio::test]
async fn a_signup_gives_a_token_and_credits() {
    let server = TestServer::start().await;
    let call = post("/api/auth/signup").json(&credentials(" Ada@Example.com", PASSWORD));
    let body = call.send(&server).await.expect(201);
    assert_eq!(body["message"], "User created successfully");
    assert!(body["token"].as_str().unwrap().starts_with("v4.local."));
    assert!(body["user"]["id"].is_u64());
    assert_eq!(body["user"]["email"], "Ada@Example.com");
    assert_eq!(body["user"]["credits"], 100);

    let token = body["token"].as_str().unwrap();
    let me = get("/api/auth/me")
        .token(token)
        .send(&server)
        .await
        .expect(200);
    assert_eq!(
        (&me["id"], &me["email"]),
        (&body["user"]["id"], &body["user"]["email"])
    );
    assert_eq!(
        (&me["credits"], me["createdAt"].is_u64()),
        (&json!(100), true)
    );
}

#[tokio::test]
async fn a_signup_is_refused_with_the_reason() {
    let server = TestServer::start().await;
    sign_up(&server, "ada@example.com").await;
    let long = "x".repeat(1_025);
    for (body, status, code, field) in [
        (
            credentials("ADA@example.com", PASSWORD),
            409,
            "email_taken",
            "email",
        ),
        (credentials("ada", PASSWORD), 422, "invalid_email", "email"),
        (
            credentials("a b@example.com", PASSWORD),
            422,
            "invalid_email",
            "email",
        ),
        (
            credentials("bob@example.com", "1234567"),
            422,
            "invalid_password",
            "password",
        ),
        (
            credentials("bob@example.com", &long),
            422,
            "invalid_password",
            "password",
        ),
        (
            credentials("bob@example.com", "password1"),
            422,
            "invalid_password",
            "password",
        ),
        (
            credentials("bob@example.com", "Bob@Example.com"),
            422,
            "invalid_password",
            "password",
        ),
        (
            credentials("bob@example.com", "äöüßéèê"),
            422,
            "invalid_password",
            "password",
        ),
        (
            json!({"email": "bob@example.com"}),
            422,
            "invalid_field",
            "password",
        ),
        (json!({"password": PASSWORD}), 422, "invalid_field", "email"),
        (
            json!({"email": 5, "password": PASSWORD}),
            422,
            "invalid_field",
            "email",
        ),
        (
            json!({"email": "bob@example.com", "password": null}),
            422,
            "invalid_field",
            "password",
        ),
    ] {
        let answer = post("/api/auth/signup").json(&body).send(&server).await;
        assert_eq!(
            answer.expect_failure(status, code)["field"],
            field,
            "{body}"
        );
    }
    for password in ["kfhe72b1".to_owned(), "x".repeat(1_024)] {
        let body = credentials(&format!("bob{}@example.com", password.len()), &password);
        post("/api/auth/signup")
            .json(&body)
            .send(&server)
            .await
            .expect(201);
    }
}

/// One keyboard writes an accented letter as one character, another as two, and a domain has two spellings.
#[tokio::test]
async fn an_account_is_the_same_on_every_keyboard() {
    let server = TestServer::start().await;
    let sign_up = async |email: &str| {
        let body = credentials(email, "pferdesta\u{308}rke 7");
        post("/api/auth/signup").json(&body).send(&server).await
    };
    let body = sign_up("ju\u{308}rgen@mu\u{308}ller.example")
        .await
        .expect(201);
    assert_eq!(body["user"]["email"], "jürgen@müller.example");
    for same in [
        "jürgen@müller.example",
        "jürgen@MÜLLER.example",
        "jürgen@xn--mller-kva.example",
    ] {
        sign_up(same).await.expect_failure(409, "email_taken");
        log_in(&server, same, "pferdestärke 7").await;
        log_in(&server, same, "pferdesta\u{308}rke 7").await;
    }
    let wrong = credentials("jürgen@müller.example", "pferdestarke 7");
    let call = post("/api/auth/login").json(&wrong).send(&server).await;
    call.expect_failure(401, "invalid_credentials");
}

/// What was recorded before there were rules goes on working.
#[tokio::test]
async fn an_old_account_goes_on_working() {
    let server = TestServer::start().await;
    let store = server.store().await;
    let hash = |password: &str| {
        use argon2::PasswordHasher as _;
        let hash = argon2::Argon2::default().hash_password(password.as_bytes());
        hash.unwrap().to_string()
    };
    let (email, password) = ("ju\u{308}rgen@MÜLLER.example", "sta\u{308}rke");
    let mut user = engine::store::NewUser {
        email: email.to_owned(),
        password_hash: Some(hash(password)),
        grant: schema::Credits::ZERO,
        created_at: schema::UnixMillis::new(1).unwrap(),
    };
    store.create_user(user.clone()).await.unwrap();
    log_in(&server, email, password).await;
    user.email = "weak@example.com".to_owned();
    user.password_hash = Some(hash("password"));
    store.create_user(user).await.unwrap();
    log_in(&server, "weak@example.com", "password").await;
}

#[tokio::test]
async fn of_many_signups_with_one_email_one_wins() {
    let server = TestServer::start().await;
    let signups = (0..20).map(|_| {
        let body = credentials("ada@example.com", PASSWORD);
        post("/api/auth/signup").json(&body).send(&server)
    });
    let mut statuses: Vec<_> = futures_util::future::join_all(signups)
        .await
        .iter()
        .map(|a| a.status)
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses[0], 201);
    assert!(
        statuses[1..].iter().all(|status| *status == 409),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn a_login_tells_nothing_of_who_is_known() {
    let server = TestServer::start().await;
    sign_up(&server, "ada@example.com").await;
    let log_in = async |email: &str, password: &str| {
        post("/api/auth/login")
            .json(&credentials(email, password))
            .send(&server)
            .await
    };
    let body = log_in("ADA@example.com", PASSWORD).await.expect(200);
    assert_eq!(body["message"], "Login successful");
    assert_eq!(
        (&body["user"]["email"], &body["user"]["credits"]),
        (&json!("ada@example.com"), &json!(100))
    );
    let wrong = log_in("ada@example.com", "wrong horse")
        .await
        .expect_failure(401, "invalid_credentials");
    let unknown = log_in("bob@example.com", PASSWORD)
        .await
        .expect_failure(401, "invalid_credentials");
    let no_email = log_in("", "")
        .await
        .expect_failure(401, "invalid_credentials");
    assert!(wrong == unknown && unknown == no_email);
}

#[tokio::test]
async fn a_token_is_required_and_must_be_ours() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    for (method, path) in [
        ("GET", "/api/auth/me"),
        ("POST", "/api/auth/logout"),
        ("POST", "/api/auth/password"),
        ("POST", "/api/auth/erase"),
        ("POST", "/api/ws/ticket"),
        ("POST", "/api/sessions/start"),
        ("POST", "/api/sessions/stop"),
        ("GET", "/api/sessions/active"),
        ("GET", "/api/sessions/credits"),
        ("GET", "/api/sessions"),
        ("GET", "/api/sessions/1"),
        ("GET", "/api/ledger"),
    ] {
        let call = || {
            if method == "GET" {
                get(path)
            } else {
                post(path)
            }
        };
        let answer = call().send(&server).await;
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        answer.expect_failure(401, "token_required");
        call()
            .header("authorization", "Basic x")
            .send(&server)
            .await
            .expect_failure(401, "token_required");
        call()
            .token("nonsense")
            .send(&server)
            .await
            .expect_failure(401, "invalid_token");
    }
    let me =
        |scheme: &str| get("/api/auth/me").header("authorization", &format!("{scheme} {token}"));
    me("bearer").send(&server).await.expect(200);
    me("Bearer ").send(&server).await.expect(200);
}

#[tokio::test]
async fn forged_expired_and_foreign_tokens_look_the_same() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    let me = async |token: &str| get("/api/auth/me").token(token).send(&server).await;
    let id = me(&token).await.expect(200)["id"].as_u64().unwrap();
    me(&made_token(id, |_| ())).await.expect(200);

    let mut forged = token.clone().into_bytes();
    forged[60] ^= 1;
    let refused = [
        String::from_utf8(forged).unwrap(),
        made_token(id, |claims| claims["exp"] = json!("2020-01-01T00:00:00Z")),
        made_token(id, |claims| claims["nbf"] = json!("2100-01-01T00:00:00Z")),
        made_token(id, |claims| claims["iss"] = json!("somebody-else")),
        made_token(id, |claims| claims["aud"] = json!("somebody-else")),
        made_token(id + 1_000, |_| ()),
    ];
    let mut bodies = Vec::new();
    for token in &refused {
        bodies.push(me(token).await.expect_failure(401, "invalid_token"));
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "all are refused in the same words");
}

#[tokio::test]
async fn a_logout_kills_one_token_for_good() {
    let server = TestServer::start().await;
    let first = sign_up(&server, "ada@example.com").await;
    let body = credentials("ada@example.com", PASSWORD);
    let second = post("/api/auth/login")
        .json(&body)
        .send(&server)
        .await
        .expect(200);
    let second = second["token"].as_str().unwrap();

    post("/api/auth/logout")
        .token(&first)
        .send(&server)
        .await
        .expect(200);
    get("/api/auth/me")
        .token(&first)
        .send(&server)
        .await
        .expect_failure(401, "invalid_token");
    post("/api/auth/logout")
        .token(&first)
        .send(&server)
        .await
        .expect_failure(401, "invalid_token");
    get("/api/auth/me")
        .token(second)
        .send(&server)
        .await
        .expect(200);

    let server = server.restart(&[]).await;
    get("/api/auth/me")
        .token(&first)
        .send(&server)
        .await
        .expect_failure(401, "invalid_token");
    get("/api/auth/me")
        .token(second)
        .send(&server)
        .await
        .expect(200);
}

#[tokio::test]
async fn a_password_set_by_another_process_voids_tokens() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);

    let store = server.store().await;
    let user = store
        .user_by_email("ada@example.com")
        .await
        .unwrap()
        .unwrap();
    let password = NewPassword {
        user: user.id,
        hash: user.password_hash.clone().unwrap(),
        decided_in: None,
        kept_token: None,
        at: user.created_at,
    };
    assert!(store.set_password(password).await.unwrap());
    while get("/api/auth/me").token(&token).send(&server).await.status != 401 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A further token of the user, by logging in.
async fn log_in(server: &TestServer, email: &str, password: &str) -> String {
    let call = post("/api/auth/login").json(&credentials(email, password));
    let body = call.send(server).await.expect(200);
    body["token"].as_str().unwrap().to_owned()
}

async fn is_valid(server: &TestServer, token: &str) -> bool {
    let answer = get("/api/auth/me").token(token).send(server).await;
    assert!([200, 401].contains(&answer.status), "{answer:?}");
    answer.status == 200
}

#[tokio::test]
async fn a_new_password_kills_all_tokens_but_the_one_it_was_changed_by() {
    let server = TestServer::start().await;
    let first = sign_up(&server, "ada@example.com").await;
    let second = log_in(&server, "ada@example.com", PASSWORD).await;
    let stranger = sign_up(&server, "bob@example.com").await;
    let change = async |token: &str, current: &str, new: &str| {
        let body = json!({"current": current, "new": new});
        let call = post("/api/auth/password").token(token).json(&body);
        call.send(&server).await
    };
    change(&first, "wrong horse", "battery staple")
        .await
        .expect_failure(401, "invalid_credentials");
    change(&first, &"x".repeat(2_000), "battery staple")
        .await
        .expect_failure(401, "invalid_credentials");
    for new in ["short".to_owned(), "x".repeat(1_025)] {
        let refused = change(&first, PASSWORD, &new)
            .await
            .expect_failure(422, "invalid_password");
        assert_eq!(refused["field"], "new");
    }
    for (body, field) in [(json!({}), "current"), (json!({"current": "x"}), "new")] {
        let call = post("/api/auth/password").token(&first).json(&body);
        let refused = call
            .send(&server)
            .await
            .expect_failure(422, "invalid_field");
        assert_eq!(refused["field"], field);
    }
    assert!(
        is_valid(&server, &second).await,
        "nothing has changed so far"
    );

    let changed = change(&first, PASSWORD, "battery staple").await.expect(200);
    assert_eq!(changed["message"], "Password changed");
    assert!(is_valid(&server, &first).await && !is_valid(&server, &second).await);
    assert!(is_valid(&server, &stranger).await);
    let old = post("/api/auth/login").json(&credentials("ada@example.com", PASSWORD));
    old.send(&server)
        .await
        .expect_failure(401, "invalid_credentials");
    let third = log_in(&server, "ada@example.com", "battery staple").await;

    // The next change is by another token, and then that is the one that is left.
    change(&third, "battery staple", PASSWORD).await.expect(200);
    assert!(is_valid(&server, &third).await && !is_valid(&server, &first).await);
    let server = server.restart(&[]).await;
    assert!(is_valid(&server, &third).await);
    assert!(!is_valid(&server, &first).await && !is_valid(&server, &second).await);
}

#[tokio::test]
async fn logging_out_everywhere_kills_every_token_of_the_user() {
    let server = TestServer::start().await;
    let first = sign_up(&server, "ada@example.com").await;
    let stranger = sign_up(&server, "bob@example.com").await;
    let everywhere = async |token: &str, body: Value| {
        post("/api/auth/logout")
            .token(token)
            .json(&body)
            .send(&server)
            .await
    };
    let wrong = everywhere(&first, json!({"everywhere": "yes"})).await;
    assert_eq!(
        wrong.expect_failure(422, "invalid_field")["field"],
        "everywhere"
    );

    // One that survived a change of the password dies too.
    let body = json!({"current": PASSWORD, "new": PASSWORD});
    let change = post("/api/auth/password").token(&first).json(&body);
    change.send(&server).await.expect(200);
    let second = log_in(&server, "ada@example.com", PASSWORD).await;
    let third = log_in(&server, "ada@example.com", PASSWORD).await;

    let one = everywhere(&third, json!({"everywhere": false}))
        .await
        .expect(200);
    assert_eq!(one["message"], "Logged out");
    assert!(is_valid(&server, &first).await && is_valid(&server, &second).await);
    let all = everywhere(&second, json!({"everywhere": true}))
        .await
        .expect(200);
    assert_eq!(all["message"], "Logged out everywhere");
    assert!(!is_valid(&server, &first).await && !is_valid(&server, &second).await);
    assert!(is_valid(&server, &stranger).await);
    everywhere(&second, json!({"everywhere": true}))
        .await
        .expect_failure(401, "invalid_token");
    let fresh = log_in(&server, "ada@example.com", PASSWORD).await;
    assert!(is_valid(&server, &fresh).await);
}

#[tokio::test]
async fn a_token_that_dies_in_one_process_dies_in_all_within_a_second() {
    let here = TestServer::start().await;
    let there = here.beside(&[]).await;
    let first = sign_up(&here, "ada@example.com").await;
    let second = log_in(&there, "ada@example.com", PASSWORD).await;
    assert!(is_valid(&there, &first).await && is_valid(&here, &second).await);

    post("/api/auth/logout")
        .token(&second)
        .send(&here)
        .await
        .expect(200);
    while is_valid(&there, &second).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let body = json!({"current": PASSWORD, "new": "battery staple"});
    let change = post("/api/auth/password").token(&first).json(&body);
    change.send(&there).await.expect(200);
    // Here nobody may have heard of it yet, and the new token is good at once.
    let third = log_in(&there, "ada@example.com", "battery staple").await;
    assert!(is_valid(&here, &third).await && is_valid(&here, &first).await);
    let all = post("/api/auth/logout")
        .token(&first)
        .json(&json!({"everywhere": true}));
    all.send(&here).await.expect(200);
    while is_valid(&there, &first).await || is_valid(&there, &third).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn too_many_passwords_at_once_are_refused_for_now() {
    let server = TestServer::with(&[
        ("passwords.hashes_at_once", "1"),
        ("passwords.waiting_max", "0"),
    ])
    .await;
    let logins = (0..8).map(|_| {
        let body = credentials("nobody@example.com", PASSWORD);
        post("/api/auth/login").json(&body).send(&server)
    });
    let answers = futures_util::future::join_all(logins).await;
    let busy: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 503)
        .collect();
    assert!(!busy.is_empty() && busy.len() < 8);
    assert!(busy.iter().all(
        |answer| answer.json()["code"] == "unavailable" && answer.header("retry-after") == "1"
    ));
}

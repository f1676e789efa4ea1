//! Passwords that are guessed, and what the guesser learns by it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    client::{Answer, Call, PASSWORD, get, post, sign_up},
    server::TestServer,
    token::made_token,
};

/// The tests' own address is a proxy's, so that they can come from anywhere.
const PROXIED: (&str, &str) = ("http.trusted_proxies", r#"["127.0.0.1/32"]"#);

/// So few tries that a thousand of them soon are too many, also where every hash takes a while.
const FEW: [(&str, &str); 4] = [
    PROXIED,
    ("limits.wrong_passwords_per_address_per_hour", "30"),
    ("limits.wrong_passwords_per_account_per_hour", "20"),
    (
        "limits.wrong_passwords_per_account_and_address_per_hour",
        "5",
    ),
];

const OWNER: &str = "192.0.2.77";
const ATTACKER: &str = "203.0.113.66";

fn log_in(email: &str, password: &str, from: &str) -> Call {
    let body = json!({"email": email, "password": password});
    let call = post("/api/auth/login").header("x-forwarded-for", from);
    call.json(&body)
}

/// Signs up from the owner's address.
async fn owner(server: &TestServer, email: &str) -> String {
    let body = json!({"email": email, "password": PASSWORD});
    let call = post("/api/auth/signup").header("x-forwarded-for", OWNER);
    let body = call.json(&body).send(server).await.expect(201);
    body["token"].as_str().unwrap().to_owned()
}

/// Tries a thousand wrong passwords, and tells how many were looked at before the rest were refused.
async fn thousand(server: &TestServer, call: impl Fn(usize) -> Call) -> usize {
    let mut tried = 0;
    for number in 0..1_000 {
        let answer = call(number).send(server).await;
        if answer.status == 401 {
            answer.expect_failure(401, "invalid_credentials");
            tried += 1;
        } else {
            let wait: u64 = answer.header("retry-after").parse().unwrap();
            assert!((1..=3_600).contains(&wait), "{wait}");
            answer.expect_failure(429, "rate_limited");
        }
    }
    tried
}

#[tokio::test]
async fn a_thousand_bad_passwords_on_one_account_from_one_address() {
    let server = TestServer::with(&FEW).await;
    owner(&server, "ada@example.com").await;
    let tried = thousand(&server, |number| {
        log_in("ada@example.com", &format!("guess {number}"), ATTACKER)
    });
    assert_eq!(tried.await, 5);
    // Then not even the right one is looked at.
    let right = log_in("ada@example.com", PASSWORD, ATTACKER)
        .send(&server)
        .await;
    right.expect_failure(429, "rate_limited");
    log_in("ada@example.com", PASSWORD, OWNER)
        .send(&server)
        .await
        .expect(200);
    log_in("ada@example.com", PASSWORD, "192.0.2.78")
        .send(&server)
        .await
        .expect(200);
}

#[tokio::test]
async fn a_thousand_bad_passwords_on_one_account_from_many_addresses_lock_no_owner_out() {
    let server = TestServer::with(&FEW).await;
    let token = owner(&server, "ada@example.com").await;
    let from = |number: usize| format!("203.0.{}.{}", number / 250, number % 250 + 1);
    let tried = thousand(&server, |number| {
        log_in("ada@example.com", "a guess", &from(number))
    });
    assert_eq!(tried.await, 20);
    let new_place = "198.51.100.9";
    let elsewhere = log_in("ada@example.com", PASSWORD, new_place)
        .send(&server)
        .await;
    elsewhere.expect_failure(429, "rate_limited");

    // The owner gets in from where she was before, and with a token of hers from anywhere.
    log_in("ada@example.com", PASSWORD, OWNER)
        .send(&server)
        .await
        .expect(200);
    let with_token = log_in("ada@example.com", PASSWORD, ATTACKER).token(&token);
    with_token.send(&server).await.expect(200);
    let me = get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let id = me["id"].as_u64().unwrap();
    let ended = made_token(id, |claims| claims["exp"] = claims["iat"].clone());
    let with_ended = log_in("ada@example.com", PASSWORD, new_place).token(&ended);
    with_ended.send(&server).await.expect(200);
}

#[tokio::test]
async fn only_a_good_token_of_the_owner_opens_the_way_around_the_limits() {
    let server = TestServer::with(&FEW).await;
    let token = owner(&server, "ada@example.com").await;
    let stranger = owner(&server, "eve@example.com").await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let logged_in = post("/api/auth/login")
        .json(&body)
        .send(&server)
        .await
        .expect(200);
    let logged_out = logged_in["token"].as_str().unwrap().to_owned();
    post("/api/auth/logout")
        .token(&logged_out)
        .send(&server)
        .await
        .expect(200);
    for number in 0..20 {
        let from = format!("203.0.113.{number}");
        let guess = log_in("ada@example.com", "a guess", &from)
            .send(&server)
            .await;
        guess.expect_failure(401, "invalid_credentials");
    }
    let me = get("/api/auth/me")
        .token(&token)
        .send(&server)
        .await
        .expect(200);
    let id = me["id"].as_u64().unwrap();
    let future = made_token(id, |claims| claims["nbf"] = json!("2100-01-01T00:00:00Z"));
    let ancient = made_token(id, |claims| claims["exp"] = json!("2020-01-01T00:00:00Z"));
    for (what, token) in [
        ("a stranger's", &stranger),
        ("a revoked one", &logged_out),
        ("one that is not yet valid", &future),
        ("one that ended long ago", &ancient),
        ("nonsense", &"nonsense".to_owned()),
    ] {
        let call = log_in("ada@example.com", PASSWORD, "198.51.100.9").token(token);
        let answer = call.send(&server).await;
        assert_eq!(answer.status, 429, "{what}: {answer:?}");
    }
    let call = || log_in("ada@example.com", "a guess", ATTACKER).token(&token);
    assert_eq!(
        thousand(&server, |_| call()).await,
        5,
        "nor is it open for ever"
    );
}

#[tokio::test]
async fn one_bad_password_on_each_of_a_thousand_accounts() {
    let server = TestServer::with(&FEW).await;
    owner(&server, "user7@example.com").await;
    let tried = thousand(&server, |number| {
        log_in(&format!("user{number}@example.com"), "password", ATTACKER)
    });
    assert_eq!(tried.await, 30);
    let other = log_in("user7@example.com", PASSWORD, "192.0.2.78")
        .send(&server)
        .await;
    other.expect(200);
}

#[tokio::test]
async fn addresses_that_anybody_can_claim_don_t_count() {
    // The tests' address is no proxy's here.
    let server = TestServer::with(&FEW[1..]).await;
    sign_up(&server, "ada@example.com").await;
    let tried = thousand(&server, |number| {
        let from = format!("203.0.{}.{}", number / 250, number % 250 + 1);
        log_in("ada@example.com", "a guess", &from)
    });
    assert_eq!(tried.await, 5);
}

#[tokio::test]
async fn the_current_password_can_t_be_guessed_with_a_stolen_token() {
    let server = TestServer::with(&FEW).await;
    let token = owner(&server, "ada@example.com").await;
    let guess = |path: &'static str, field: &'static str| {
        let body = json!({field: "a guess", "new": "battery staple"});
        post(path).token(&token).json(&body)
    };
    let mut guesses = 0;
    for call in 0..10 {
        let (path, field) = if call % 2 == 0 {
            ("/api/auth/password", "current")
        } else {
            ("/api/auth/erase", "password")
        };
        let answer = guess(path, field).send(&server).await;
        if answer.status == 401 {
            answer.expect_failure(401, "invalid_credentials");
            guesses += 1;
        } else {
            answer.expect_failure(429, "rate_limited");
        }
    }
    assert_eq!(guesses, 5);
    // The owner's log-in is another matter.
    log_in("ada@example.com", PASSWORD, OWNER)
        .send(&server)
        .await
        .expect(200);
}

#[tokio::test]
async fn known_and_unknown_users_look_the_same_also_when_limited() {
    let server = TestServer::with(&FEW).await;
    owner(&server, "ada@example.com").await;
    let seen = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        headers.remove("x-request-id");
        (answer.status, headers, answer.body.clone())
    };
    for number in 0..7 {
        let known = log_in("ada@example.com", "a guess", ATTACKER)
            .send(&server)
            .await;
        let unknown = log_in("eve@example.com", "a guess", "203.0.113.67")
            .send(&server)
            .await;
        assert_eq!(seen(&known), seen(&unknown), "try {number}");
        assert_eq!(known.status, if number < 5 { 401 } else { 429 });
    }
}

#[tokio::test]
async fn known_and_unknown_users_take_the_same_time() {
    let server = TestServer::with(&[PROXIED]).await;
    owner(&server, "ada@example.com").await;
    let mut took: [Vec<Duration>; 2] = Default::default();
    for number in 0..11 {
        for (email, took) in ["ada@example.com", "eve@example.com"]
            .into_iter()
            .zip(&mut took)
        {
            let began = Instant::now();
            let from = format!("203.0.113.{number}");
            let answer = log_in(email, "a guess", &from).send(&server).await;
            answer.expect_failure(401, "invalid_credentials");
            took.push(began.elapsed());
        }
    }
    // Without a hash for the unknown one, it would be faster by a factor of ten and more.
    let [known, unknown] = took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    });
    assert!(
        known < unknown * 4 && unknown < known * 4,
        "{known:?} and {unknown:?}"
    );
}

#[tokio::test]
async fn so_many_may_sign_up_from_one_address() {
    let settings = [PROXIED, ("limits.signups_per_address_per_hour", "3")];
    let server = TestServer::with(&settings).await;
    let sign_up = async |number: usize, from: &str| {
        let body = json!({"email": format!("user{number}@example.com"), "password": PASSWORD});
        let call = post("/api/auth/signup").header("x-forwarded-for", from);
        call.json(&body).send(&server).await
    };
    let mut made = 0;
    for number in 0..20 {
        let answer = sign_up(number, "2001:db8:0:1::7").await;
        if answer.status == 201 {
            made += 1;
        } else {
            let retry_after: u64 = answer.header("retry-after").parse().unwrap();
            assert!((1..=1_200).contains(&retry_after), "{retry_after}");
            answer.expect_failure(429, "rate_limited");
        }
    }
    assert_eq!(made, 3);
    // A customer has 2^64 such addresses.
    let same = sign_up(100, "2001:db8:0:1:ffff::1").await;
    same.expect_failure(429, "rate_limited");
    sign_up(101, "2001:db8:0:2::7").await.expect(201);
    let metrics = get("/metrics").send(&server).await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let hit = r#"minute_credit_limited_total{limit="signups_per_address"} 18"#;
    assert!(metrics.contains(hit), "{metrics}");
}

//! Websockets that are open when their token dies.

use serde_json::{Value, json};

use crate::{
    client::{PASSWORD, Socket, post, sign_up},
    server::TestServer,
};

/// A further token of the user, by logging in.
async fn log_in(server: &TestServer, password: &str) -> String {
    let body = json!({"email": "ada@example.com", "password": password});
    let body = post("/api/auth/login")
        .json(&body)
        .send(server)
        .await
        .expect(200);
    body["token"].as_str().unwrap().to_owned()
}

/// A socket that has got its first message.
async fn open(server: &TestServer, token: &str) -> Socket {
    let mut socket = Socket::with_token(server, token).await;
    assert_eq!(socket.next().await["type"], "credit_update");
    socket
}

async fn does(server: &TestServer, path: &str, token: &str, body: &Value) {
    post(path)
        .token(token)
        .json(body)
        .send(server)
        .await
        .expect(200);
}

/// The socket is closed because of its token.
async fn assert_closed(mut socket: Socket) {
    assert_eq!(socket.closed().await, (1008, "Invalid token".to_owned()));
}

/// The socket still tells what happens.
async fn assert_open(server: &TestServer, token: &str, mut socket: Socket) {
    does(server, "/api/sessions/start", token, &json!({})).await;
    socket.next_of("session_started").await;
    does(server, "/api/sessions/stop", token, &json!({})).await;
    socket.next_of("session_stopped").await;
}

#[tokio::test]
async fn a_log_out_closes_the_sockets_of_that_token_alone() {
    let here = TestServer::start().await;
    let there = here.beside(&[]).await;
    let first = sign_up(&here, "ada@example.com").await;
    let second = log_in(&here, PASSWORD).await;
    let dead = [open(&here, &first).await, open(&there, &first).await];
    let lives = open(&here, &second).await;
    does(&here, "/api/auth/logout", &first, &json!({})).await;
    for socket in dead {
        assert_closed(socket).await;
    }
    assert_open(&here, &second, lives).await;
}

#[tokio::test]
async fn a_log_out_everywhere_closes_every_socket_of_the_user() {
    let here = TestServer::start().await;
    let there = here.beside(&[]).await;
    let first = sign_up(&here, "ada@example.com").await;
    let stranger = sign_up(&here, "bob@example.com").await;
    let second = log_in(&there, PASSWORD).await;
    let mut sockets = Vec::new();
    for token in [&first, &second] {
        for server in [&here, &there] {
            sockets.push(open(server, token).await);
        }
    }
    let lives = open(&here, &stranger).await;
    does(
        &there,
        "/api/auth/logout",
        &first,
        &json!({"everywhere": true}),
    )
    .await;
    for socket in sockets {
        assert_closed(socket).await;
    }
    assert_open(&here, &stranger, lives).await;
}

#[tokio::test]
async fn a_change_of_the_password_closes_all_sockets_but_those_of_its_token() {
    let here = TestServer::start().await;
    let there = here.beside(&[]).await;
    let kept = sign_up(&here, "ada@example.com").await;
    let other = log_in(&here, PASSWORD).await;
    let dead = [open(&here, &other).await, open(&there, &other).await];
    let (lives, lives_too) = (open(&here, &kept).await, open(&there, &kept).await);
    let body = json!({"current": PASSWORD, "new": "battery staple"});
    does(&here, "/api/auth/password", &kept, &body).await;
    for socket in dead {
        assert_closed(socket).await;
    }
    assert_open(&here, &kept, lives).await;
    assert_open(&there, &kept, lives_too).await;
}

#[tokio::test]
async fn a_token_that_has_died_opens_no_socket() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    does(&server, "/api/auth/logout", &token, &json!({})).await;
    assert_closed(Socket::with_token(&server, &token).await).await;
}

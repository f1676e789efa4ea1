//! Attacks with requests.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Means,
    wire::{ask, request, upgrade},
};

/// One log-in after the other, half of them to accounts that there are not.
pub async fn passwords(means: &Means, number: usize, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let turn = means.count();
        let email = if turn.is_multiple_of(2) {
            "somebody@example.com".to_owned()
        } else {
            format!("nobody{number}x{turn}@example.com")
        };
        let body = format!(r#"{{"email":"{email}","password":"wrong {turn}"}}"#);
        let login = request("POST", "/api/auth/login", "", &body);
        ask(&mut stream, &login).await?;
    }
}

/// One log-in with that body after the other.
pub async fn log_ins(means: &Means, mut stream: TcpStream, body: &str) -> io::Result<()> {
    let log_in = request("POST", "/api/auth/login", "", body);
    loop {
        means.count();
        ask(&mut stream, &log_in).await?;
    }
}

/// A head that does not end.
pub async fn slow_head(means: &Means, mut stream: TcpStream) -> io::Result<()> {
    means.count();
    stream
        .write_all(b"GET /api/sessions/active HTTP/1.1\r\nhost: attacked\r\nx-slow: ")
        .await?;
    drip(stream).await
}

/// A body that does not end.
pub async fn slow_body(means: &Means, mut stream: TcpStream) -> io::Result<()> {
    means.count();
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: attacked\r\ncontent-type: application/json\r\ncontent-length: 10000\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    drip(stream).await
}

/// A byte a second, until the server hangs up.
async fn drip(stream: TcpStream) -> io::Result<()> {
    let (mut reading, mut writing) = stream.into_split();
    let dripping = async {
        loop {
            writing.write_all(b"a").await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let hung_up = async {
        let mut answer = [0; 1024];
        while reading.read(&mut answer).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::select! {
        done = dripping => done,
        done = hung_up => done,
    }
}

/// One request after the other, with tokens that look right.
pub async fn bad_tokens(means: &Means, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let turn = means.count();
        let token = means.token(usize::try_from(turn).unwrap_or(0));
        // The last characters are the key's name; one in the middle is part of what is sealed.
        let (begin, end) = token.split_at(token.len() / 3);
        let authorization = format!("authorization: Bearer {begin}A{}\r\n", &end[1..]);
        let asked = request("GET", "/api/sessions/active", &authorization, "");
        ask(&mut stream, &asked).await?;
    }
}

/// A connection that ends at once, as such or as a websocket.
pub async fn churn(means: &Means, number: usize, mut stream: TcpStream) -> io::Result<()> {
    means.count();
    if number.is_multiple_of(2) {
        upgrade(&mut stream, means.token(number), "").await?;
    }
    // A reset instead of an end, so that no port of ours waits.
    stream.set_zero_linger()
}

/// Requests for something long, whose answers nobody reads.
pub async fn never_read(means: &Means, mut stream: TcpStream) -> io::Result<()> {
    let asked = request("GET", "/api/openapi.json", "", "");
    loop {
        means.count();
        stream.write_all(asked.as_bytes()).await?;
    }
}

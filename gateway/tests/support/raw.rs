//! Bytes as no decent client sends them, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, header::HeaderName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{client::Answer, contract, server::TestServer};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends `bytes` and reads until the server closes: everything that it sent.
pub async fn exchange(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // A server that has seen enough may have closed already.
    stream.write_all(bytes).await.ok();
    let mut received = Vec::new();
    // A reset after the answer is as good as an end.
    let read = stream.read_to_end(&mut received);
    timeout(PATIENCE, read).await.unwrap().ok();
    received
}

/// Sends a request that begins with a sane line, and gives the first answer, held against the
/// description of the API.
pub async fn answer_to(server: &TestServer, request: &[u8]) -> Answer {
    let received = exchange(server, request).await;
    let answer = parse(&received);
    let line = String::from_utf8_lossy(request.split(|byte| *byte == b'\r').next().unwrap());
    let mut words = line.split(' ');
    let method: Method = words.next().unwrap().parse().unwrap();
    contract::check(&method, words.next().unwrap(), &answer);
    answer
}

/// The first answer in `received`.
#[track_caller]
pub fn parse(received: &[u8]) -> Answer {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer in {:?}", String::from_utf8_lossy(received)));
    let head = std::str::from_utf8(&received[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let mut body = &received[end + 4..];
    if let Some(length) = headers.get("content-length") {
        let length: usize = length.to_str().unwrap().parse().unwrap();
        body = &body[..length.min(body.len())];
    }
    Answer {
        status: status.parse().unwrap(),
        headers,
        body: Bytes::copy_from_slice(body),
    }
}

//! Single calls to a server, outside of what is measured.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::wire;

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body, if it is text.
    pub body: String,
}

/// `GET`s the path, as nobody.
pub fn get(server: SocketAddr, path: &str) -> anyhow::Result<Reply> {
    call(server, "GET", path, "")
}

/// Makes a call as the token's user. The reply must be a success.
pub fn call_as(
    server: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
) -> anyhow::Result<String> {
    let reply = call(server, method, path, token)?;
    ensure!(
        reply.status < 300,
        "{path} gave {}: {}",
        reply.status,
        reply.body
    );
    Ok(reply.body)
}

fn call(server: SocketAddr, method: &str, path: &str, token: &str) -> anyhow::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    wire::write_request(&mut request, method, path, token);
    stream.write_all(&request)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(reply) = wire::reply(&bytes)? {
            return Ok(Reply {
                status: reply.status,
                body: String::from_utf8(reply.body.to_vec()).context("a reply is no text")?,
            });
        }
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "the server closed the connection");
        bytes.extend_from_slice(&buffer[..length]);
    }
}

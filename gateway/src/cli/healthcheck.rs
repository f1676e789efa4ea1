//! `minute-credit healthcheck`: for container engines, whose images need no other program then.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::settings::Settings;

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of the answer is looked at, in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// `--ready`
#[derive(Args)]
#[command(after_help = "\
It asks the server that these settings describe, over HTTP on this machine.

Examples:
  minute-credit healthcheck           # alive: what is not may be restarted
  minute-credit healthcheck --ready   # requests can be served: no reason for a restart if not")]
pub(super) struct Arguments {
    /// Ask whether requests can be served, not only whether the process is alive
    #[arg(long)]
    ready: bool,
}

pub(super) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let address = reachable(settings.http.address);
    let path = if arguments.ready {
        "/readyz"
    } else {
        "/healthz"
    };
    let answer = timeout(PATIENCE, ask(address, path))
        .await
        .with_context(|| format!("no answer from {address} within {PATIENCE:?}"))?
        .with_context(|| format!("no answer from {address}"))?;
    if answer.starts_with("HTTP/1.1 200 ") {
        println!("{address} is well");
        return Ok(ExitCode::SUCCESS);
    }
    let said = answer.lines().last().unwrap_or_default();
    anyhow::bail!("{address} is not well: {said}")
}

/// Where a server that listens on `address` can be reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_everybody_is_asked_here() {
        let check = |listens: &str, asked: &str| {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), asked);
        };
        check("127.0.0.1:8000", "127.0.0.1:8000");
        check("0.0.0.0:80", "127.0.0.1:80");
        check("[::]:80", "[::1]:80");
        check("192.0.2.7:80", "192.0.2.7:80");
    }
}

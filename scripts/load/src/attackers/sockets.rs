//! Attacks with websockets.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Means,
    wire::{FIRST_FRAGMENT, NEXT_FRAGMENT, PING, WHOLE_TEXT, frame, upgrade},
};

/// A message of this many bytes is more than `sockets.message_bytes_max` allows.
const OVERSIZED_BYTES: u16 = 60_000;

/// A socket that does nothing, not even answer pings.
pub async fn idle(
    means: &Means,
    number: usize,
    mut stream: TcpStream,
    headers: &str,
) -> io::Result<()> {
    upgrade(&mut stream, means.token(number), headers).await?;
    means.count();
    let mut taken = [0; 1024];
    while stream.read(&mut taken).await? > 0 {}
    Ok(())
}

/// Pings without end, whose pongs are read.
pub async fn pings(means: &Means, number: usize, mut stream: TcpStream) -> io::Result<()> {
    upgrade(&mut stream, means.token(number), "").await?;
    flood(means, stream, &frame(PING, 0)).await
}

/// One message that does not end.
pub async fn fragments(means: &Means, number: usize, mut stream: TcpStream) -> io::Result<()> {
    upgrade(&mut stream, means.token(number), "").await?;
    stream.write_all(&frame(FIRST_FRAGMENT, 1)).await?;
    flood(means, stream, &frame(NEXT_FRAGMENT, 1)).await
}

/// Messages that are too large.
pub async fn oversized(means: &Means, number: usize, mut stream: TcpStream) -> io::Result<()> {
    upgrade(&mut stream, means.token(number), "").await?;
    flood(means, stream, &frame(WHOLE_TEXT, OVERSIZED_BYTES)).await
}

/// Sends the same again and again, and reads what comes, until the server hangs up.
async fn flood(means: &Means, stream: TcpStream, frame: &[u8]) -> io::Result<()> {
    let (mut reading, mut writing) = stream.into_split();
    let sending = async {
        loop {
            means.count();
            writing.write_all(frame).await?;
        }
    };
    let hung_up = async {
        let mut answer = [0; 4096];
        while reading.read(&mut answer).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::select! {
        done = sending => done,
        done = hung_up => done,
    }
}

/// A socket of a user whose balance falls, which reads nothing and pings for more.
pub async fn never_read(means: &Means, number: usize, mut stream: TcpStream) -> io::Result<()> {
    upgrade(&mut stream, means.token(number), "").await?;
    let ping = frame(PING, 125);
    loop {
        means.count();
        stream.write_all(&ping).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

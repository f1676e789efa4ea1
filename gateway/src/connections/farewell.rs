//! Closing a connection whose client may still be sending.
//!
//! A stream that is closed with something unread in it is reset, and a reset throws away what the client
//! has not read yet: `urllib`, Java's client and browsers then never see the 413 or 401 that stopped
//! them. So our side is ended first, and what comes is read and thrown away for a bounded while, at a
//! bounded rate, until the client has seen the answer and closes too.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep, timeout_at},
};

/// How long the client may go on sending, in all.
const LONGEST: Duration = Duration::from_secs(10);
/// How long the client may send nothing.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How much is read at once, in bytes.
const SCRAP_BYTES: usize = 32 << 10;
/// How long to wait between two readings: so a flood costs us 16 MB/s of reading at most.
const PAUSE: Duration = Duration::from_millis(2);

/// Ends our side of `stream`, and waits until the client has ended its own, within bounds.
pub async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let ends_at = Instant::now() + LONGEST;
    let silent_at = |now: Instant| ends_at.min(now + SILENCE_MAX);
    let ended = timeout_at(silent_at(Instant::now()), stream.shutdown()).await;
    if !matches!(ended, Ok(Ok(()))) {
        return;
    }
    let mut scrap = vec![0; SCRAP_BYTES];
    loop {
        match timeout_at(silent_at(Instant::now()), stream.read(&mut scrap)).await {
            Ok(Ok(bytes)) if bytes > 0 && Instant::now() < ends_at => sleep(PAUSE).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_read_until_the_client_ends_or_has_had_its_time() {
        let (ours, mut theirs) = duplex(1024);
        let closing = tokio::spawn(close(ours));
        theirs.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0, "our end");
        drop(theirs);
        closing.await.unwrap();

        // A client that sends without end is left after a while, and so is one that sends nothing.
        let began_at = Instant::now();
        let (ours, mut theirs) = duplex(1024);
        let closing = tokio::spawn(close(ours));
        while theirs.write_all(b"x").await.is_ok() {}
        closing.await.unwrap();
        assert!(began_at.elapsed() >= LONGEST);
        let began_at = Instant::now();
        let (ours, _theirs) = duplex(1024);
        close(ours).await;
        assert!(began_at.elapsed() < LONGEST);
    }
}

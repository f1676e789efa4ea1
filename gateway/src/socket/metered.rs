//! A stream that a client may not send much over.
//!
//! Clients of a websocket have nothing to say but pongs. What they send is counted in bytes where it
//! arrives, before it is taken apart: so pings, fragments that never end and messages all count.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Over how long what is sent is counted.
const PERIOD: Duration = Duration::from_mins(1);

/// Fails to read once the other end has sent too much.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    bytes_max: usize,
    bytes_left: usize,
    began_at: Instant,
}

/// The other end sent more than it may.
#[derive(Debug, thiserror::Error)]
#[error("the client sent too much")]
struct TooMuch;

/// Whether `error` comes from a client that sent too much.
pub(super) fn is_too_much(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooMuch>)
}

impl<S> Metered<S> {
    /// Reads up to `bytes_max` bytes a minute, of which `bytes_read` were read before.
    pub(super) fn new(stream: S, bytes_max: usize, bytes_read: usize) -> Self {
        Self {
            stream,
            bytes_max,
            bytes_left: bytes_max.saturating_sub(bytes_read),
            began_at: Instant::now(),
        }
    }

    /// The stream itself.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes == 0 {
            return read;
        }
        if self.began_at.elapsed() >= PERIOD {
            self.began_at = Instant::now();
            self.bytes_left = self.bytes_max;
        }
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                read
            }
            None => Poll::Ready(Err(io::Error::other(TooMuch))),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_much_may_come_in_a_minute() {
        let (ours, mut theirs) = duplex(64);
        let mut metered = Metered::new(ours, 8, 3);
        let mut buffer = [0; 8];
        theirs.write_all(b"12345").await.unwrap();
        assert_eq!(metered.read(&mut buffer).await.unwrap(), 5);
        tokio::time::advance(PERIOD).await;
        theirs.write_all(b"12345678").await.unwrap();
        assert_eq!(metered.read(&mut buffer).await.unwrap(), 8);
        theirs.write_all(b"1").await.unwrap();
        assert!(is_too_much(&metered.read(&mut buffer).await.unwrap_err()));
    }
}

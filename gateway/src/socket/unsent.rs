//! A stream with what the other end has not taken yet.
//!
//! Frames go straight to the stream, which nearly always takes them whole; what it doesn't take is kept
//! here, and goes before anything else that is written.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Unsent<S> {
    stream: S,
    bytes: Vec<u8>,
}

impl<S> Unsent<S> {
    /// Nothing waits for `stream` yet.
    pub(super) const fn new(stream: S) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
        }
    }

    /// The stream itself, without what it did not take.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Has `bytes` written after what waits; [`Self::poll_sent`] tells when they are.
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            self.bytes = bytes;
        } else {
            self.bytes.extend(bytes);
        }
    }
}

impl<S: AsyncWrite + Unpin> Unsent<S> {
    /// Ready once nothing waits any more.
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &self.bytes);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                all if all == self.bytes.len() => self.bytes = Vec::new(),
                some => drop(self.bytes.drain(..some)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unsent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unsent<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_not_taken_at_once_comes_first() {
        let (ours, mut theirs) = duplex(4);
        let mut unsent = Unsent::new(ours);
        unsent.send(b"123456".to_vec());
        unsent.send(b"78".to_vec());
        let once = poll_fn(|context| Poll::Ready(unsent.poll_sent(context).is_ready()));
        assert!(!once.await, "only four bytes fit");
        let writing = tokio::spawn(async move { unsent.write_all(b"9").await });
        let mut taken = [0; 9];
        theirs.read_exact(&mut taken).await.unwrap();
        assert_eq!(&taken, b"123456789");
        writing.await.unwrap().unwrap();
    }
}

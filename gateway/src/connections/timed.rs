//! A stream whose other end must keep taking what is sent.
//!
//! hyper bounds the time that a request's head may take to arrive, and nothing bounds how long a
//! client may leave its reply untaken. The timer exists only while a write waits. Written here,
//! since what there is can't give the stream back for a websocket.

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Fails a write that the other end does not take for too long.
#[derive(Debug)]
pub struct TimedSends<S> {
    stream: S,
    patience: Duration,
    /// Set while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

/// The other end took nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client did not take what was sent")]
struct NotTaken;

/// Whether `error` comes from a client that took nothing for too long.
pub(super) fn is_timeout(error: &hyper::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        let of_io = cause.downcast_ref::<io::Error>();
        if of_io.is_some_and(|error| {
            error
                .get_ref()
                .is_some_and(<dyn Error + Send + Sync>::is::<NotTaken>)
        }) {
            return true;
        }
        next = cause.source();
    }
    false
}

impl<S> TimedSends<S> {
    /// Waits for `patience` at most until something can be written.
    pub const fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Lets the timer run while `written` waits.
    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let timer = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, NotTaken)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedSends<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedSends<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.timed(context, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.timed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_in_time_fails_and_what_is_taken_does_not() {
        let (ours, mut theirs) = duplex(4);
        let mut timed = TimedSends::new(ours, Duration::from_secs(1));
        timed.write_all(b"1234").await.unwrap();
        let reader = tokio::spawn(async move {
            let mut taken = [0; 4];
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(900)).await;
                theirs.read_exact(&mut taken).await.unwrap();
            }
            theirs
        });
        timed.write_all(b"12341234").await.unwrap();
        let _theirs = reader.await.unwrap();
        timed.write_all(b"1234").await.unwrap();
        let error = timed.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

//! A connection's stream while hyper has it: it counts what the client sends, and goes back to its
//! owner when hyper drops it, with its end not yet sent.
//!
//! hyper drops the stream of a request that it can't read, or whose body was not wanted, as soon as the
//! answer is written. What the client still sends would then make the system throw the answer away, so
//! the owner closes the stream instead (`farewell`).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// What a client has sent over its connection so far.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    has_ended: AtomicBool,
    leaves_unread: AtomicBool,
}

impl Progress {
    /// How many bytes the client has sent.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the client has closed its side.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Whether the last request had a body that may not have been read to its end.
    pub fn leaves_unread(&self) -> bool {
        self.leaves_unread.load(Ordering::Relaxed)
    }

    /// Says whether the request that was just answered may have a rest that was not read.
    pub fn set_leaves_unread(&self, leaves_unread: bool) {
        self.leaves_unread.store(leaves_unread, Ordering::Relaxed);
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Held<S> {
    /// None once the stream was taken out.
    stream: Option<S>,
    progress: Arc<Progress>,
    owner: Option<oneshot::Sender<S>>,
}

impl<S> Held<S> {
    /// Holds `stream`. The receiver gets it back when the result is dropped.
    pub fn new(stream: S, progress: Arc<Progress>) -> (Self, oneshot::Receiver<S>) {
        let (owner, dropped) = oneshot::channel();
        let held = Self {
            stream: Some(stream),
            progress,
            owner: Some(owner),
        };
        (held, dropped)
    }

    /// The stream itself, which then goes back to nobody. None if it was taken out before.
    pub fn into_inner(mut self) -> Option<S> {
        self.stream.take()
    }

    fn stream(&mut self) -> io::Result<&mut S> {
        self.stream
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S> Drop for Held<S> {
    fn drop(&mut self) {
        if let (Some(stream), Some(owner)) = (self.stream.take(), self.owner.take()) {
            // An owner that is gone has no use for it.
            let _ = owner.send(stream);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(self.stream()?).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            let bytes = buffer.filled().len() - before;
            let progress = &self.progress;
            progress.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            if bytes == 0 && buffer.remaining() > 0 {
                progress.has_ended.store(true, Ordering::Relaxed);
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream()?).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()?).poll_flush(context)
    }

    /// Sends what there is. The stream's end is the owner's to send, at a time of its choice.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream()?).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }
}

//! Where a caller is answered, and the span of the caller's request: an actor has no span of its own,
//! so what is done for a request belongs to its trace by what comes along with it.

use tokio::sync::oneshot;
use tracing::Span;

/// Answers one caller once.
#[derive(Debug)]
pub struct Reply<T> {
    sender: oneshot::Sender<T>,
    span: Span,
}

impl<T> Reply<T> {
    /// A reply to a caller in the current span, and where the caller waits for it.
    pub fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let span = Span::current();
        (Self { sender, span }, receiver)
    }

    /// Answers; gives the answer back if nobody waits any more.
    pub fn send(self, answer: T) -> Result<(), T> {
        self.sender.send(answer)
    }

    /// Whether nobody waits any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The span of the caller's request.
    pub const fn span(&self) -> &Span {
        &self.span
    }
}

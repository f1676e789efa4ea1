//! How long a connection may take until the head of its next request is there.
//!
//! hyper knows one time-out for that, which begins when a connection becomes idle: with one long enough
//! for a load balancer's idle connections, a client could send its head a byte a minute. So hyper gets a
//! timer that waits long for a head's first byte, and from then on for the rest of the head only. The
//! first head of a connection must be there soon.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tokio::time::{Instant, sleep_until};

use super::held::Progress;

/// The timer of one connection. hyper asks it for a sleep each time that it begins to wait for a head.
#[derive(Debug)]
pub struct HeadTimer {
    progress: Arc<Progress>,
    header_timeout: Duration,
    is_new: AtomicBool,
}

impl HeadTimer {
    /// The timer of a connection that has just been accepted.
    pub fn new(progress: Arc<Progress>, header_timeout: Duration) -> Self {
        Self {
            progress,
            header_timeout,
            is_new: AtomicBool::new(true),
        }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until((Instant::now() + duration).into_std())
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        let is_new = self.is_new.swap(false, Ordering::Relaxed);
        let mut deadline = Instant::from_std(deadline);
        if is_new {
            deadline = deadline.min(Instant::now() + self.header_timeout);
        }
        Box::pin(WaitForHead {
            sleep: Box::pin(sleep_until(deadline)),
            has_begun: is_new,
            bytes_before: self.progress.bytes(),
            progress: Arc::clone(&self.progress),
            header_timeout: self.header_timeout,
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// Ends when the client has had its time.
struct WaitForHead {
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// Whether something of the head has come.
    has_begun: bool,
    bytes_before: u64,
    progress: Arc<Progress>,
    header_timeout: Duration,
}

impl Sleep for WaitForHead {}

impl Future for WaitForHead {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.has_begun && self.progress.bytes() > self.bytes_before {
            self.has_begun = true;
            let deadline = self.sleep.deadline();
            let sooner = deadline.min(Instant::now() + self.header_timeout);
            self.sleep.as_mut().reset(sooner);
        }
        self.sleep.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{super::held::Held, *};

    const HEADER: Duration = Duration::from_secs(30);
    const IDLE: Duration = Duration::from_secs(620);

    #[tokio::test(start_paused = true)]
    async fn idle_connections_live_long_and_slow_heads_do_not() {
        let (ours, mut theirs) = duplex(64);
        let progress = Arc::new(Progress::default());
        let (mut held, _dropped) = Held::new(ours, Arc::clone(&progress));
        let timer = HeadTimer::new(progress, HEADER);
        let wait = || timer.sleep_until(timer.now() + IDLE);
        let begun_at = Instant::now();

        let first = wait();
        theirs.write_all(b"GET").await.unwrap();
        held.read_exact(&mut [0; 3]).await.unwrap();
        first.await;
        assert_eq!(begun_at.elapsed(), HEADER, "a new connection");

        let idle = wait();
        let begun_at = Instant::now();
        idle.await;
        assert_eq!(begun_at.elapsed(), IDLE);

        let mut slow = wait();
        let begun_at = Instant::now();
        let soon = tokio::time::timeout(Duration::from_secs(100), &mut slow);
        assert!(soon.await.is_err(), "nothing has come yet");
        for _ in 0..2 {
            theirs.write_all(b"G").await.unwrap();
            held.read_exact(&mut [0; 1]).await.unwrap();
            let next = tokio::time::timeout(Duration::from_secs(10), &mut slow);
            assert!(next.await.is_err(), "its time runs from the first byte");
        }
        slow.await;
        assert_eq!(begun_at.elapsed(), Duration::from_secs(100) + HEADER);
    }
}

//! One timer for all the instants that a client's task waits for.
//!
//! A timer that is made and dropped at each turn of a task costs two locks of the runtime's wheel a
//! time, and a task that waits for three things would hold three. Here there is one for each client; it
//! moves at once to an earlier instant, and to a later one only when it has run out, so that nothing is
//! done about it at most of the messages that are sent.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// See the module's documentation. It is boxed: a timer may not move while it is set.
#[derive(Debug)]
pub struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// An alarm that is first meant for `instant`.
    pub fn new(instant: Instant) -> Self {
        Self(Box::pin(sleep_until(instant)))
    }

    /// Ready once `instant` is reached, which may be another one each time.
    pub fn poll_reached(&mut self, context: &mut Context<'_>, instant: Instant) -> Poll<()> {
        let Self(sleep) = self;
        if instant < sleep.deadline() {
            sleep.as_mut().reset(instant);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= instant || Instant::now() >= instant {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(instant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_instant_that_is_meant_at_last() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut alarm = Alarm::new(at(9));
        for (meant, rings) in [(5, 5), (7, 7), (6, 7), (20, 20)] {
            poll_fn(|context| alarm.poll_reached(context, at(meant))).await;
            assert_eq!(Instant::now().duration_since(begin).as_secs(), rings);
        }
        // Put off before it rang.
        let soon = poll_fn(|context| alarm.poll_reached(context, at(25)));
        assert!(futures_util::FutureExt::now_or_never(soon).is_none());
        poll_fn(|context| alarm.poll_reached(context, at(30))).await;
        assert_eq!(Instant::now().duration_since(begin).as_secs(), 30);
    }
}

//! What the journal was asked for and has not done yet, and who waits until it has.

use tokio::sync::oneshot;

/// Counts what is asked for, and what of that is done, in whatever order.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// How many things were asked for; each has its number in that row.
    asked: u64,
    /// How many of them are not done.
    open: u64,
    barriers: Vec<Barrier>,
}

/// Somebody who waits for all that was asked for before.
#[derive(Debug)]
struct Barrier {
    /// The number of the last thing that is waited for.
    last: u64,
    /// How many of those are not done.
    open: u64,
    reply: oneshot::Sender<()>,
}

impl Progress {
    /// Something is asked for; returns its number.
    pub(super) const fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.open += 1;
        self.asked
    }

    /// Answers `reply` once all that was asked for so far is done.
    pub(super) fn wait(&mut self, reply: oneshot::Sender<()>) {
        self.barriers.push(Barrier {
            last: self.asked,
            open: self.open,
            reply,
        });
        self.answer();
    }

    /// What has these numbers is done.
    pub(super) fn done(&mut self, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            self.open -= 1;
            for barrier in &mut self.barriers {
                barrier.open -= u64::from(number <= barrier.last);
            }
        }
        self.answer();
    }

    fn answer(&mut self) {
        for barrier in self.barriers.extract_if(.., |barrier| barrier.open == 0) {
            let _gone = barrier.reply.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_waits_for_what_came_before_it_and_for_nothing_else() {
        let mut progress = Progress::default();
        let (reply, mut at_once) = oneshot::channel();
        progress.wait(reply);
        assert!(at_once.try_recv().is_ok(), "nothing was asked for");

        let before = [progress.ask(), progress.ask()];
        let (reply, mut barrier) = oneshot::channel();
        progress.wait(reply);
        let after = progress.ask();
        progress.done([after, before[1]].into_iter());
        assert!(barrier.try_recv().is_err(), "the first is not done");
        progress.done([before[0]].into_iter());
        assert!(barrier.try_recv().is_ok());
        let (reply, mut at_once) = oneshot::channel();
        progress.wait(reply);
        assert!(at_once.try_recv().is_ok(), "all is done");
    }
}

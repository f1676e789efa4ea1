//! The machine's own hiccups: how late a sleeper of 1 ms wakes that has nothing else to do. No
//! server on the machine can be expected to be more punctual than that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Sleeps 1 ms again and again, in a thread of its own, so that the load generator's own work does not
/// count.
pub struct Meter {
    is_over: Arc<AtomicBool>,
    sleeper: JoinHandle<Histogram<u64>>,
}

impl Meter {
    /// Starts to measure.
    pub fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let sleeper = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let mut late = new_histogram();
                while !is_over.load(Ordering::Relaxed) {
                    let due = Instant::now() + Duration::from_millis(1);
                    std::thread::sleep(Duration::from_millis(1));
                    let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    late.saturating_record(micros);
                }
                late
            }
        });
        Self { is_over, sleeper }
    }

    /// Ends, and returns by how many microseconds each sleep was too long.
    pub fn end(self) -> anyhow::Result<Histogram<u64>> {
        self.is_over.store(true, Ordering::Relaxed);
        let joined = self.sleeper.join();
        joined.map_err(|_| anyhow::anyhow!("the hiccup meter failed"))
    }
}

/// A histogram of microseconds up to 10 minutes, exact to three digits.
pub fn new_histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants and fit")]
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds fit")
}

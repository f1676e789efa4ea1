//! The machine's own hiccups: how late a sleeper of 1 ms wakes that has nothing else to do. No
//! server on the machine can be expected to be more punctual than that.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Sleeps 1 ms again and again for `duration`, and returns by how many microseconds each was late.
/// It has a thread of its own, so that the load generator's own work does not count.
pub fn measure(duration: Duration) -> std::thread::JoinHandle<Histogram<u64>> {
    std::thread::spawn(move || {
        let mut late = new_histogram();
        let begin = Instant::now();
        while begin.elapsed() < duration {
            let due = Instant::now() + Duration::from_millis(1);
            std::thread::sleep(Duration::from_millis(1));
            late.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        late
    })
}

/// A histogram of microseconds up to 10 minutes, exact to three digits.
pub fn new_histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants and fit")]
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds fit")
}

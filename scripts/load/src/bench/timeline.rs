//! How lateness and memory went over time, for the plots.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{clock::wall_micros, process::ProcessId};

/// How often the server's memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// What a plot shows, with times in seconds since it began.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Timeline {
    /// For every second, how late what was due in it came, in milliseconds.
    pub lateness: Vec<Lateness>,
    /// The server's resident memory.
    pub memory: Vec<MemorySample>,
}

/// The pushes that were due within one second.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Lateness {
    /// Since the beginning, in seconds.
    pub at_s: f64,
    /// The middle one, in milliseconds.
    pub p50_ms: f64,
    /// What 99 % stay within; infinite where more are missing.
    pub p99_ms: f64,
    /// The latest; infinite where one is missing.
    pub max_ms: f64,
}

/// The server's memory at an instant.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct MemorySample {
    /// Since the beginning, in seconds; samples from before it have negative ones.
    pub at_s: f64,
    /// In bytes.
    pub resident: u64,
}

/// Looks at a server's memory again and again.
pub struct Sampler {
    is_over: Arc<AtomicBool>,
    samples: JoinHandle<Vec<(i64, u64)>>,
}

impl Sampler {
    /// Starts.
    pub fn start(server: ProcessId) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let samples = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let mut samples = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    if let Ok(memory) = server.memory() {
                        samples.push((wall_micros(), memory.resident));
                    }
                    std::thread::sleep(SAMPLE_EVERY);
                }
                samples
            }
        });
        Self { is_over, samples }
    }

    /// Ends, and returns when there was how much, in microseconds since 1970 and bytes.
    pub fn end(self) -> anyhow::Result<Vec<(i64, u64)>> {
        self.is_over.store(true, Ordering::Relaxed);
        let joined = self.samples.join();
        joined.map_err(|_| anyhow::anyhow!("the memory could not be sampled"))
    }
}

impl Timeline {
    /// From the lateness by the second and samples of memory, counted from `begin_micros` since 1970.
    pub fn new(
        begin_micros: i64,
        by_second: &BTreeMap<i64, Vec<Option<i64>>>,
        memory: &[(i64, u64)],
    ) -> Self {
        let lateness = by_second.iter().map(|(second, late)| {
            // Missing ones sort last.
            let mut sorted: Vec<i64> = late.iter().map(|late| late.unwrap_or(i64::MAX)).collect();
            sorted.sort_unstable();
            let at = |share: usize| sorted.get((sorted.len() * share).div_ceil(100).max(1) - 1);
            let millis = |late: Option<&i64>| match late {
                None | Some(&i64::MAX) => f64::INFINITY,
                Some(late) => seconds(*late) * 1_000.0,
            };
            Lateness {
                at_s: seconds(second * 1_000_000 - begin_micros),
                p50_ms: millis(at(50)),
                p99_ms: millis(at(99)),
                max_ms: millis(sorted.last()),
            }
        });
        let memory = memory.iter().map(|(at_micros, resident)| MemorySample {
            at_s: seconds(at_micros - begin_micros),
            resident: *resident,
        });
        Self {
            lateness: lateness.collect(),
            memory: memory.collect(),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a plot needs far fewer than 52 bits"
)]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_their_quantiles() {
        let mut late: Vec<Option<i64>> = (1..=199).map(|ms| Some(ms * 1_000)).collect();
        late.push(None);
        let timeline = Timeline::new(10_000_000, &BTreeMap::from([(12, late)]), &[(9_500_000, 7)]);
        let [second] = timeline.lateness[..] else {
            panic!("one second is expected");
        };
        let figures = [second.at_s, second.p50_ms, second.p99_ms];
        for (figure, expected) in figures.into_iter().zip([2.0, 100.0, 198.0]) {
            assert!((figure - expected).abs() < 1e-9, "{figure}, not {expected}");
        }
        assert!(second.max_ms.is_infinite());
        assert!((timeline.memory[0].at_s + 0.5).abs() < 1e-9);
    }
}

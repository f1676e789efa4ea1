//! Calls over HTTP, first in a closed loop for what the server can do, then in an open loop at a part
//! of that for how long a call takes: a closed loop slows down with the server and so forgives it.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{
    bench::{
        figures::{Outcome, Unit, number},
        place::{Bench, Length, Server},
        window::{Window, WindowSeen},
    },
    calls::{Callers, Pace, Work},
};

/// How long calls are made before any counts.
pub const WARM_UP: Duration = Duration::from_secs(3);
/// How long each loop is measured.
pub const MEASURED_FOR: Length = Length::seconds(10, 6);
/// Which part of the closed loop's rate the open one has, in percent.
const OPEN_PERCENT: u32 = 70;

/// Work whose answers are counted by kind.
pub trait Counted: Work {
    /// Forgets what was counted so far.
    fn reset(&mut self);

    /// How long the calls took since, in microseconds, by kind: the keys of the closed and of the open
    /// loop's figure, the kind's name, and the times.
    fn counted(&self) -> Vec<([&'static str; 2], &'static str, &Histogram<u64>)>;
}

/// Runs both loops and adds their figures.
pub fn measure(
    outcome: &mut Outcome,
    server: &Server,
    connections: usize,
    work: &mut impl Counted,
    bench: &Bench,
) -> anyhow::Result<()> {
    let length = bench.time(MEASURED_FOR);
    let mut callers = Callers::connect(server.address, connections)?;
    callers.run(work, Pace::Closed(Some(WARM_UP)))?;

    let window = closed_loop(server, &mut callers, work, length)?;
    let operations = total(work);
    let rate = window.per_second(operations);
    outcome.add("rate", "operations", Unit::PerSecond, rate);
    add_times(outcome, work, 0, "");
    add_processor(outcome, &window, operations);
    outcome.add_micros("hiccup", "the machine's hiccups", &window.hiccups, 0);
    outcome.add_shares(&window);
    open_loop(outcome, server, &mut callers, work, rate, length)
}

/// Has every connection make its next call as soon as the one before is answered, for so long.
pub fn closed_loop(
    server: &Server,
    callers: &mut Callers,
    work: &mut impl Counted,
    length: Duration,
) -> anyhow::Result<WindowSeen> {
    work.reset();
    let window = Window::open(server.process())?;
    callers.run(work, Pace::Closed(Some(length)))?;
    window.close()
}

/// Makes calls at a part of the rate that a closed loop had, and adds how long they take.
pub fn open_loop(
    outcome: &mut Outcome,
    server: &Server,
    callers: &mut Callers,
    work: &mut impl Counted,
    closed_rate: f64,
    length: Duration,
) -> anyhow::Result<()> {
    work.reset();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^32"
    )]
    let per_second = (closed_rate as u32 / 100 * OPEN_PERCENT).max(1);
    let window = Window::open(server.process())?;
    callers.run(
        work,
        Pace::Open {
            per_second,
            during: length,
        },
    )?;
    let window = window.close()?;
    let what = format!("open loop at {OPEN_PERCENT} %: operations");
    outcome.add(
        "open_rate",
        what,
        Unit::PerSecond,
        window.per_second(total(work)),
    );
    add_times(outcome, work, 1, "open loop: ");
    outcome.add_micros(
        "open_hiccup",
        "open loop: the machine's hiccups",
        &window.hiccups,
        0,
    );
    Ok(())
}

/// How many calls were counted.
pub fn total(work: &impl Counted) -> u64 {
    work.counted().iter().map(|(_, _, took)| took.len()).sum()
}

fn add_times(outcome: &mut Outcome, work: &impl Counted, key: usize, prefix: &str) {
    for (keys, kind, took) in work.counted() {
        outcome.add_micros(keys[key], format!("{prefix}time of a {kind}"), took, 0);
    }
}

/// Adds what the server needed for so many operations.
pub fn add_processor(outcome: &mut Outcome, window: &WindowSeen, operations: u64) {
    outcome.add(
        "cpu_per_1000",
        "server's processor time per 1,000 operations",
        Unit::Millis,
        window.server.as_secs_f64() * 1e6 / number(operations).max(1.0),
    );
}

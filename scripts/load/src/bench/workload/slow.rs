//! `slow`: one watcher in twenty reads nothing after its first balance, and has little room for what it
//! doesn't read. The others must not notice, and the server's memory must stay bounded.
//!
//! The tariff is fast, since at the usual one it takes an hour to fill even a small socket.

use std::time::{Duration, Instant};

use super::shared::{self, CREDITS, PATIENCE, SETTLE};
use crate::{
    bench::{
        figures::{Goal, Outcome, Unit, number, number_of},
        place::{Bench, Length, Place, StoreKind},
        timeline::{Sampler, Timeline},
        window::Window,
    },
    fleet::Fleet,
    schedule::{Rule, Score},
};

/// The tariff's interval.
const INTERVAL: Duration = Duration::from_millis(500);
/// One in so many reads nothing.
const SLOW_ONE_IN: usize = 20;
/// The window: longer than the server's time-out for a send, 10 s, and its patience with unanswered
/// pings, 50 s.
///
/// With `--quick` only the time-out.
const WATCHED_FOR: Length = Length::seconds(70, 30);

/// Whether any are slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// All read.
    None,
    /// One in twenty reads nothing.
    Some,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct SlowPlan {
    /// Where.
    pub store: StoreKind,
    /// How many sessions, all of them watched.
    pub watched: usize,
    /// Whether any are slow.
    pub slow: Slow,
}

impl SlowPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        let slow = match self.slow {
            Slow::None => "all of whom read",
            Slow::Some => "5 % of whom never read",
        };
        format!("{} watchers, {slow}, an interval of 0.5 s", self.watched)
    }

    /// What is wanted of it.
    pub fn goals() -> Vec<Goal> {
        vec![Goal::at_most("missing", 0.0), Goal::at_most("doubled", 0.0)]
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut settings = shared::many_clients();
        settings.push((
            "MINUTE_CREDIT__TARIFF__INTERVAL_MS",
            INTERVAL.as_millis().to_string(),
        ));
        let mut place = Place::new(bench, self.store, &settings)?;
        let users = place.users(self.watched, CREDITS, Some(INTERVAL))?;
        let server = place.serve()?;
        let process = server.process();
        shared::warm(&server, &users)?;
        let length = bench.time(WATCHED_FOR);
        let expected = (length + CONNECT_AND_SETTLE).as_millis() / INTERVAL.as_millis();
        let sampler = Sampler::start(process);
        let mut fleet = Fleet::new(
            server.address,
            users.evenly(self.watched),
            usize::try_from(expected)?,
        )?;
        if self.slow == Slow::Some {
            fleet.make_small(SLOW_ONE_IN);
        }
        fleet.open(shared::CONNECT_AT_ONCE, shared::CONNECT_PATIENCE)?;
        fleet.stop_reading_small()?;
        fleet.read_until(Instant::now() + SETTLE)?;
        let before = process.memory()?;
        let files_before = process.open_files()?;
        let window = Window::open(process)?;
        fleet.read_until(Instant::now() + length)?;
        let window = window.close()?;
        let after = process.memory()?;
        fleet.read_until(Instant::now() + PATIENCE)?;

        let readers = || {
            fleet
                .seen()
                .filter(|(_, is_slow)| !is_slow)
                .map(|(seen, _)| seen)
        };
        let score = Score::of(
            readers(),
            window.from_micros,
            window.to_micros,
            Rule::Pushed,
        );
        outcome.add_lateness(&score, &window);
        outcome.add(
            "grown_per_watcher",
            "memory that came to each watcher in that time, anonymous",
            Unit::Bytes,
            (number(after.anonymous) - number(before.anonymous)) / number_of(self.watched),
        );
        outcome.add_shares(&window);
        let closed: usize = readers().map(|seen| seen.closes.len()).sum();
        outcome.expect_none("readers closed by the server", u64::try_from(closed)?);
        if self.slow == Slow::Some {
            let slow = self.watched.div_ceil(SLOW_ONE_IN);
            let gone = files_before.saturating_sub(process.open_files()?);
            outcome.add(
                "slow",
                "watchers who never read",
                Unit::Count,
                number_of(slow),
            );
            outcome.add(
                "slow_closed",
                "of them closed by the server",
                Unit::Count,
                number_of(gone),
            );
        }
        let memory = sampler.end()?;
        outcome.timeline = Some(Timeline::new(window.from_micros, &score.by_second, &memory));
        drop(fleet);
        shared::finish(outcome, server, &place)
    }
}

/// Room for what comes before and after the window.
const CONNECT_AND_SETTLE: Duration = Duration::from_secs(30);

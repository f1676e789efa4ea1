//! `storm`: every watcher is cut off and comes back at once, as when a proxy restarts. How long until
//! all have a balance again, how late what fell meanwhile is shown, and what memory the crowd costs.

use std::time::{Duration, Instant};

use super::shared::{self, CREDITS, INTERVAL, PATIENCE, SETTLE};
use crate::{
    bench::{
        figures::{Outcome, Unit, number},
        place::{Bench, Place, StoreKind},
        timeline::{Sampler, Timeline},
        window::Window,
    },
    fleet::Fleet,
    schedule::{Rule, Score},
};

/// Quiet before the storm, which is in the window.
const BEFORE: Duration = Duration::from_secs(6);
/// And after it.
const AFTER: Duration = Duration::from_secs(12);
/// How long until memory is read again.
const RECOVER: Duration = Duration::from_secs(10);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct StormPlan {
    /// Where.
    pub store: StoreKind,
    /// How many sessions, all of them watched.
    pub watched: usize,
}

impl StormPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        format!("{} watchers cut off, all come back at once", self.watched)
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut place = Place::new(bench, self.store, &shared::many_clients())?;
        let users = place.users(self.watched, CREDITS, Some(INTERVAL))?;
        let server = place.serve()?;
        let process = server.process();
        shared::warm(&server, &users)?;
        let sampler = Sampler::start(process);
        let mut fleet = Fleet::new(server.address, users.evenly(self.watched), 16)?;
        fleet.open(shared::CONNECT_AT_ONCE, shared::CONNECT_PATIENCE)?;
        fleet.read_until(Instant::now() + SETTLE)?;
        let before = process.memory()?;
        process.forget_peak()?;

        let window = Window::open(process)?;
        fleet.read_until(Instant::now() + BEFORE)?;
        fleet.cut();
        let opened = fleet.open(self.watched, shared::CONNECT_PATIENCE)?;
        fleet.read_until(Instant::now() + AFTER)?;
        let window = window.close()?;
        let peak = process.memory()?.peak;
        fleet.read_until(Instant::now() + PATIENCE + RECOVER)?;
        let after = process.memory()?;

        outcome.add(
            "back",
            "until all have a balance again",
            Unit::Seconds,
            opened.took.as_secs_f64(),
        );
        outcome.add_micros("back_each", "until each has one", &opened.each, 0);
        let failures: u64 = opened.failures.values().sum();
        outcome.add(
            "failures",
            "attempts that failed",
            Unit::Count,
            number(failures),
        );
        shared::add_opened(&mut outcome, &opened, self.watched);
        let seen = || fleet.seen().map(|(seen, _)| seen);
        let score = Score::of(seen(), window.from_micros, window.to_micros, Rule::Shown);
        outcome.add_lateness(&score, &window);
        let resident = [
            ("before", number(before.resident)),
            ("peak", number(peak)),
            ("after", number(after.resident)),
        ];
        outcome.figures.push(crate::bench::figures::Figure {
            key: "resident",
            what: "resident: before / at most / 15 s after".to_owned(),
            unit: Unit::Bytes,
            parts: resident.to_vec(),
        });
        outcome.add_shares(&window);
        let closed: usize = seen().map(|seen| seen.closes.len()).sum();
        outcome.expect_none("sockets closed by the server", u64::try_from(closed)?);
        let memory = sampler.end()?;
        outcome.timeline = Some(Timeline::new(window.from_micros, &score.by_second, &memory));
        drop(fleet);
        shared::finish(outcome, server, &place)
    }
}

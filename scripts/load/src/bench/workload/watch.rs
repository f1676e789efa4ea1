//! `watch`: many sessions, some or all of them watched over websockets.
//!
//! The sessions are recorded with exact starts, by the program's own `fixture`, and taken over by a
//! server: all at one instant, or evenly over one interval. By calls over HTTP no two would start at the
//! same instant.

use std::time::{Duration, Instant};

use super::shared::{self, CREDITS, INTERVAL, PATIENCE, SETTLE};
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

/// The window without sockets, in which the server's own work is measured.
const QUIET: Length = Length::seconds(10, 6);
/// The window with sockets: whole intervals, so that every session has as many falls in it.
const WATCHED_FOR: Length = Length::seconds(30, 24);

/// When the sessions' balances fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// Evenly over one interval.
    Spread,
    /// All at one instant.
    Together,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct WatchPlan {
    /// Where.
    pub store: StoreKind,
    /// How many live sessions.
    pub sessions: usize,
    /// How many of them are watched.
    pub watched: usize,
    /// When their balances fall.
    pub phases: Phases,
}

impl WatchPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        let phases = match self.phases {
            Phases::Spread => "staggered",
            Phases::Together => "all in one instant",
        };
        format!(
            "{} sessions, {} watched, {phases}",
            self.sessions, self.watched
        )
    }

    /// What is wanted of it.
    pub fn goals(&self) -> Vec<Goal> {
        let mut goals = vec![
            Goal::at_most("memory_per_socket", 5_000.0),
            Goal::at_most("cpu_per_1000", 9.0),
            Goal::at_most("missing", 0.0),
            Goal::at_most("doubled", 0.0),
        ];
        let over_hiccup = match (self.phases, self.sessions, self.watched) {
            (Phases::Together, _, 18_000..) => Some(150.0),
            (Phases::Spread, _, 10_000..) => Some(3.0),
            (Phases::Spread, 10_000.., 1_000..) => Some(5.0),
            _ => None,
        };
        goals.extend(over_hiccup.map(|limit| Goal::at_most("lateness_over_hiccup", limit)));
        goals
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut place = Place::new(bench, self.store, &shared::many_clients())?;
        let spread = match self.phases {
            Phases::Spread => INTERVAL,
            Phases::Together => Duration::ZERO,
        };
        let users = place.users(self.sessions, CREDITS, Some(spread))?;
        let server = place.serve()?;
        let process = server.process();
        shared::warm(&server, &users)?;

        let quiet = Window::open(process)?;
        std::thread::sleep(bench.time(QUIET));
        let quiet = quiet.close()?;
        let without = process.memory()?;
        let sampler = Sampler::start(process);

        let length = bench.time(WATCHED_FOR);
        let expected = (length.as_secs() + 60) / INTERVAL.as_secs() + 4;
        let mut fleet = Fleet::new(
            server.address,
            users.evenly(self.watched),
            usize::try_from(expected)?,
        )?;
        let opened = fleet.open(shared::CONNECT_AT_ONCE, shared::CONNECT_PATIENCE)?;
        fleet.read_until(Instant::now() + SETTLE)?;
        let with = process.memory()?;

        let window = Window::open(process)?;
        fleet.read_until(Instant::now() + length)?;
        let window = window.close()?;
        let after = process.memory()?;
        // Whatever is late by now may still come.
        fleet.read_until(Instant::now() + PATIENCE)?;

        let seen = || fleet.seen().map(|(seen, _)| seen);
        let score = Score::of(seen(), window.from_micros, window.to_micros, Rule::Pushed);
        outcome.add_lateness(&score, &window);
        let per_socket =
            |with: u64, without: u64| (number(with) - number(without)) / number_of(self.watched);
        outcome.add(
            "memory_per_socket",
            "memory per socket, anonymous",
            Unit::Bytes,
            per_socket(with.anonymous, without.anonymous),
        );
        outcome.add(
            "resident_per_socket",
            "memory per socket, resident",
            Unit::Bytes,
            per_socket(with.resident, without.resident),
        );
        outcome.add(
            "memory_per_socket_after",
            "the same after the pushes, anonymous",
            Unit::Bytes,
            per_socket(after.anonymous, without.anonymous),
        );
        let pushed = window.server.as_secs_f64()
            - quiet.server.as_secs_f64() / quiet.length.as_secs_f64() * window.length.as_secs_f64();
        outcome.add(
            "cpu_per_1000",
            "server's processor time per 1,000 pushes",
            Unit::Millis,
            pushed * 1e6 / number(score.due()).max(1.0),
        );
        outcome.add(
            "idle",
            "processor while nobody watches",
            Unit::PercentOfCore,
            quiet.percent(quiet.server),
        );
        outcome.add_shares(&window);
        shared::add_opened(&mut outcome, &opened, self.watched);
        shared::check_schedules(&mut outcome, &fleet, users.live, INTERVAL);
        let closed: usize = seen().map(|seen| seen.closes.len()).sum();
        outcome.expect_none("sockets closed by the server", u64::try_from(closed)?);

        fleet.cut();
        std::thread::sleep(SETTLE);
        let left = process.memory()?;
        outcome.add(
            "memory_left_per_socket",
            "memory left per socket after all closed, anonymous",
            Unit::Bytes,
            per_socket(left.anonymous, without.anonymous),
        );
        let memory = sampler.end()?;
        outcome.timeline = Some(Timeline::new(window.from_micros, &score.by_second, &memory));
        shared::finish(outcome, server, &place)
    }
}

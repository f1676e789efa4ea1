//! `watch`: many sessions, some or all of them watched over websockets.
//!
//! The sessions are recorded with exact starts, by the program's own `fixture`, and taken over by a
//! server: all at one instant, or evenly over one interval. By calls over HTTP no two would start at the
//! same instant. Or they are started by calls all the same, over one interval: then there was no
//! downtime, and a deduction is due whole intervals after the start that the server told, to the
//! millisecond.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::{
    sessions::Start,
    shared::{self, CREDITS, INTERVAL, PATIENCE, SETTLE},
};
use crate::{
    bench::{
        figures::{Goal, Outcome, Unit, number, number_of},
        place::{Bench, Length, Place, Server, StoreKind},
        timeline::{Sampler, Timeline},
        window::Window,
    },
    calls::{Callers, Pace},
    fleet::Fleet,
    for_all::ForAll,
    schedule::{Rule, Schedule, Score},
    users::Users,
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
    /// How they come about. By calls they are spread.
    pub start: Start,
}

impl WatchPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        let phases = match (self.start, self.phases) {
            (Start::Calls, _) => "staggered, started by calls",
            (Start::Recorded, Phases::Spread) => "staggered",
            (Start::Recorded, Phases::Together) => "all in one instant",
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
        let spread = (self.start == Start::Recorded).then_some(spread);
        let users = place.users(self.sessions, CREDITS, spread)?;
        let server = place.serve()?;
        let process = server.process();
        if self.start == Start::Calls {
            start_over_an_interval(&server, &users)?;
        }
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
        if self.start == Start::Calls {
            let snapshots = seen().filter_map(|seen| seen.snapshot.as_ref());
            let moved = snapshots.filter(|it| Schedule::of(it).downtime_ms(it) != 0);
            outcome.expect_none(
                "sessions whose deductions are not due whole intervals after their start",
                u64::try_from(moved.count())?,
            );
        }
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

/// Starts a session for each of the users, evenly over one interval.
fn start_over_an_interval(server: &Server, users: &Users) -> anyhow::Result<()> {
    let mut starts = ForAll::new(
        users,
        shared::CONNECT_AT_ONCE,
        "POST",
        "/api/sessions/start",
        |_, _| Some(()),
    );
    let per_second = users.len().div_ceil(usize::try_from(INTERVAL.as_secs())?);
    let pace = Pace::Open {
        per_second: u32::try_from(per_second)?,
        during: INTERVAL,
    };
    Callers::connect(server.address, shared::CONNECT_AT_ONCE)?.run(&mut starts, pace)?;
    starts
        .complaint()
        .map_or(Ok(()), |complaint| bail!(complaint))
}

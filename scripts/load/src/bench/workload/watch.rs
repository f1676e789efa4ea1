//! `watch`: many sessions, some or all of them watched over websockets.
//!
//! Staggered sessions are started by calls over HTTP, evenly over whole intervals. There is no downtime
//! then, and the k-th deduction is due k intervals after `startedAt`, whenever the reply to the start
//! came; a server that tells any other instant is wrong.
//!
//! By calls no two sessions start at the same instant. So the program's own `fixture` records them where
//! that is wanted, all at one instant or evenly over one interval, and a server takes them over: the
//! downtime until then, the same for all, moves what is due.

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
        window::{Window, WindowSeen},
    },
    calls::{Callers, Pace},
    fleet::{Fleet, Snapshot},
    for_all::ForAll,
    process::Memory,
    schedule::{Rule, Schedule, Score},
    users::Users,
    wire,
};

/// The window without sockets, in which the server's own work is measured.
const QUIET: Length = Length::seconds(10, 6);
/// The window with sockets: whole intervals, so that every session has as many falls in it.
const WATCHED_FOR: Length = Length::seconds(30, 24);

/// How many sessions are started in one interval by calls at most: some 1,700 a second, with which every
/// server keeps up.
const STARTS_PER_INTERVAL: usize = 10_000;

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
            (Start::Calls, _) => "staggered",
            (Start::Recorded, Phases::Spread) => "staggered, taken over after a crash",
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
        if self.start == Start::Recorded {
            goals.push(Goal::at_most("memory_per_socket", 5_000.0));
        }
        goals.extend(over_hiccup.map(|limit| Goal::at_most("lateness_over_hiccup", limit)));
        if (self.phases, self.sessions, self.watched) == (Phases::Spread, 10_000, 10_000) {
            goals.extend([
                Goal::at_most("lateness", 1.2).of_part("p50"),
                Goal::at_most("lateness", 2.6).of_part("p99"),
                Goal::at_most("lateness", 10.0).of_part("max"),
                Goal::at_most("pushing", 5.0),
            ]);
        }
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
        let started_at = match self.start {
            Start::Calls => Some(start_evenly(&server, &users)?),
            Start::Recorded => None,
        };
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
        add_processor(&mut outcome, &window, &quiet, score.due());
        outcome.add_shares(&window);
        shared::add_opened(&mut outcome, &opened, self.watched);
        shared::check_schedules(&mut outcome, &fleet, users.live, INTERVAL);
        if let Some(started_at) = &started_at {
            let watched = users.numbers_evenly(self.watched);
            check_starts(&mut outcome, &fleet, watched.map(|user| started_at[user]));
        }
        let closed: usize = seen().map(|seen| seen.closes.len()).sum();
        outcome.expect_none("sockets closed by the server", u64::try_from(closed)?);

        fleet.cut();
        std::thread::sleep(SETTLE);
        let left = process.memory()?;
        if self.start == Start::Recorded {
            self.add_memory(&mut outcome, &without, [&with, &after, &left]);
        }
        let memory = sampler.end()?;
        outcome.timeline = Some(Timeline::new(window.from_micros, &score.by_second, &memory));
        shared::finish(outcome, server, &place)
    }

    /// Adds how much more memory there is with sockets, after pushes, and when the sockets are closed.
    ///
    /// Calls leave freed memory behind, into which the sockets would move: after starts by calls these
    /// figures would be far too good.
    fn add_memory(
        &self,
        outcome: &mut Outcome,
        without: &Memory,
        [with, after, left]: [&Memory; 3],
    ) {
        let mut add = |key, what: &str, with: u64, without: u64| {
            let per_socket = (number(with) - number(without)) / number_of(self.watched);
            outcome.add(key, what, Unit::Bytes, per_socket);
        };
        add(
            "memory_per_socket",
            "memory per socket, anonymous",
            with.anonymous,
            without.anonymous,
        );
        add(
            "resident_per_socket",
            "memory per socket, resident",
            with.resident,
            without.resident,
        );
        add(
            "memory_per_socket_after",
            "the same after the pushes, anonymous",
            after.anonymous,
            without.anonymous,
        );
        add(
            "memory_left_per_socket",
            "memory left per socket after all closed, anonymous",
            left.anonymous,
            without.anonymous,
        );
    }
}

/// Adds what so many pushes took of the processors, beside a window without watchers.
fn add_processor(outcome: &mut Outcome, window: &WindowSeen, quiet: &WindowSeen, pushes: u64) {
    let quiet_share = quiet.server.as_secs_f64() / quiet.length.as_secs_f64();
    let pushed_s = window.server.as_secs_f64() - quiet_share * window.length.as_secs_f64();
    outcome.add(
        "cpu_per_1000",
        "server's processor time per 1,000 pushes",
        Unit::Millis,
        pushed_s * 1e6 / number(pushes).max(1.0),
    );
    outcome.add(
        "pushing",
        "processor for the pushes",
        Unit::PercentOfCore,
        100.0 * pushed_s / window.length.as_secs_f64(),
    );
    outcome.add(
        "idle",
        "processor while nobody watches",
        Unit::PercentOfCore,
        quiet.percent(quiet.server),
    );
}

/// How long so many starts take: whole intervals, so that the deductions are as even as the starts.
fn starts_for(sessions: usize) -> Duration {
    let intervals = sessions.div_ceil(STARTS_PER_INTERVAL);
    INTERVAL * u32::try_from(intervals).unwrap_or(u32::MAX)
}

/// Starts a session for each of the users, evenly, and returns the `startedAt` of each.
fn start_evenly(server: &Server, users: &Users) -> anyhow::Result<Vec<i64>> {
    let mut started_at = vec![0; users.len()];
    let mut starts = ForAll::new(
        users,
        shared::CONNECT_AT_ONCE,
        "POST",
        "/api/sessions/start",
        |user, body| {
            started_at[user] = wire::field(body, "\"startedAt\":")?;
            Some(())
        },
    );
    let during = starts_for(users.len());
    let per_second = users.len().div_ceil(usize::try_from(during.as_secs())?);
    let pace = Pace::Open {
        per_second: u32::try_from(per_second)?,
        during,
    };
    Callers::connect(server.address, shared::CONNECT_AT_ONCE)?.run(&mut starts, pace)?;
    if let Some(complaint) = starts.complaint() {
        bail!(complaint);
    }
    Ok(started_at)
}

/// Holds what is due to each watcher against the `startedAt` that the start of the session was answered
/// with.
fn check_starts(outcome: &mut Outcome, fleet: &Fleet<'_>, started_at: impl Iterator<Item = i64>) {
    let watchers = fleet.seen().zip(started_at);
    let moved = watchers.filter(|((seen, _), started_at)| {
        let snapshot = seen.snapshot.as_ref();
        snapshot.is_some_and(|snapshot| !is_due_from(snapshot, *started_at))
    });
    outcome.expect_none(
        "sessions whose deductions are not due whole intervals after their start",
        u64::try_from(moved.count()).unwrap_or(u64::MAX),
    );
}

/// Whether every deduction is due whole intervals after this instant.
fn is_due_from(snapshot: &Snapshot, started_at: i64) -> bool {
    snapshot.started_at == started_at && Schedule::of(snapshot).downtime_ms(snapshot) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_take_whole_intervals_and_come_no_faster() {
        let check = |sessions, intervals| assert_eq!(starts_for(sessions), INTERVAL * intervals);
        check(1, 1);
        check(10_000, 1);
        check(10_001, 2);
        check(1_000_000, 100);
    }

    #[test]
    fn deductions_are_due_from_the_start_that_was_answered() {
        let check = |started_at, next_charge_at, expected| {
            let snapshot = Snapshot {
                started_at,
                next_charge_at,
                ..Snapshot::EXAMPLE
            };
            let is_due = is_due_from(&snapshot, 10_000);
            assert_eq!(is_due, expected, "{started_at} {next_charge_at}");
        };
        // Two intervals of a second have passed.
        check(10_000, 13_000, true);
        check(10_000, 13_001, false);
        check(10_000, 12_999, false);
        check(10_001, 13_001, false);
    }
}

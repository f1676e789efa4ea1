//! `sessions`: many live sessions that nobody watches. What starting, holding, recovering and stopping
//! them costs, and whether every charge is right to the credit.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;

use super::shared::{self, CREDITS, INTERVAL, SETTLE};
use crate::{
    bench::{
        figures::{Goal, Outcome, Unit, number, number_of},
        machine,
        place::{Bench, Length, Place, Server, StoreKind},
        window::Window,
    },
    clock::wall_micros,
    control,
    for_all::ForAll,
    oracle::{Oracle, Stop},
    users::Users,
    wire,
};

/// How many callers start and stop sessions at once.
const CALLERS: usize = 128;
/// The window without any call.
const QUIET: Length = Length::seconds(30, 15);
/// How long the server is left alone before it is killed: all of it is recorded by then, and the run
/// alive after every start.
const BEFORE_KILL: Duration = Duration::from_secs(3);
/// How many users start and stop a session beforehand, so that the first figure is of a warm server.
const WARM_UP_USERS: usize = 2_000;
/// How many sessions are looked up in the history to learn the downtime.
const LOOKED_UP: usize = 200;
/// How much longer than it was away a server may count as down: what it had not recorded of being
/// alive.
const LAG_MS_MAX: i64 = 1_500;

/// How the sessions come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Start {
    /// By as many calls over HTTP.
    Calls,
    /// Recorded by the program's fixture command, and taken over by the server.
    Recorded,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct SessionsPlan {
    /// Where.
    pub store: StoreKind,
    /// How many live sessions.
    pub sessions: usize,
    /// How they come about.
    pub start: Start,
}

impl SessionsPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        let start = match self.start {
            Start::Calls => "started by calls",
            Start::Recorded => "taken over from the database",
        };
        format!("{} sessions, nobody watches, {start}", self.sessions)
    }

    /// What is wanted of it.
    pub fn goals(&self) -> Vec<Goal> {
        let mut goals = vec![
            Goal::at_most("memory_per_session", 8_192.0),
            Goal::at_most("idle", 5.0),
            Goal::at_most("drift", 0.0),
        ];
        match self.sessions {
            1_000_000.. => {
                goals.push(Goal::at_most("recovery", 20.0));
                goals.push(Goal::at_most("resident", 9e9));
            }
            100_000 => goals.push(Goal::at_most("recovery", 3.0)),
            _ => {}
        }
        goals
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut place = Place::new(bench, self.store, &shared::many_clients())?;
        let warm_up = place.users(WARM_UP_USERS.min(self.sessions), CREDITS, None)?;
        let (spread, was_recorded) = match self.start {
            Start::Calls => (None, false),
            Start::Recorded => (Some(INTERVAL), true),
        };
        let users = place.users(self.sessions, CREDITS, spread)?;
        let recorded = was_recorded.then(|| recorded_starts(&users)).transpose()?;

        let mut run = Run {
            plan: self,
            users: &users,
            quiet: bench.time(QUIET),
            started_at: recorded.unwrap_or_default(),
            outcome: &mut outcome,
        };
        let server = place.serve()?;
        let before = if was_recorded {
            run.take_recovery(
                &server,
                ["takeover", "takeover_own"],
                "from start to ready with them",
            )?;
            None
        } else {
            let empty = run.warm_up(&server, &warm_up)?;
            run.start_all(&server)?;
            Some(empty)
        };
        run.hold(&server, before)?;

        // kill -9
        std::thread::sleep(BEFORE_KILL);
        let killed_at = wall_micros() / 1_000;
        server.kill()?;
        let server = place.serve()?;
        let away_ms = wall_micros() / 1_000 - killed_at;
        let keys = ["recovery", "recovery_own"];
        run.take_recovery(&server, keys, "from start to ready after kill -9")?;
        std::thread::sleep(SETTLE);
        let recovered = server.process().memory()?;
        run.stop_all(&server, away_ms)?;
        run.come_down(&server, recovered.resident)?;
        let mut outcome = shared::finish(outcome, server, &place)?;
        outcome.add(
            "touch",
            "for comparison: only to be given as much memory",
            Unit::Seconds,
            machine::time_to_touch(recovered.resident)?.as_secs_f64(),
        );
        Ok(outcome)
    }
}

/// A run in progress.
struct Run<'r> {
    plan: &'r SessionsPlan,
    users: &'r Users,
    quiet: Duration,
    /// When each session started, in milliseconds since 1970.
    started_at: Vec<i64>,
    outcome: &'r mut Outcome,
}

impl Run<'_> {
    /// Starts and stops some sessions, and returns the server's memory without any.
    fn warm_up(&mut self, server: &Server, users: &Users) -> anyhow::Result<(u64, u64)> {
        for path in ["/api/sessions/start", "/api/sessions/stop"] {
            let mut work = ForAll::new(users, CALLERS, "POST", path, |_, _| Some(()));
            work.run(server.address)?;
            self.outcome
                .expect_none("wrong answers while warming up", work.wrong);
        }
        std::thread::sleep(SETTLE);
        let window = Window::open(server.process())?;
        std::thread::sleep(self.quiet / 3);
        let window = window.close()?;
        self.outcome.add(
            "idle_empty",
            "processor without any session",
            Unit::PercentOfCore,
            window.percent(window.server),
        );
        let memory = server.process().memory()?;
        Ok((memory.resident, memory.anonymous))
    }

    fn start_all(&mut self, server: &Server) -> anyhow::Result<()> {
        let mut started_at = vec![0; self.users.len()];
        let take = |user: usize, body: &[u8]| {
            started_at[user] = wire::field(body, "\"startedAt\":")?;
            Some(())
        };
        let mut work = ForAll::new(self.users, CALLERS, "POST", "/api/sessions/start", take);
        let length = work.run(server.address)?;
        shared::add_calls(
            self.outcome,
            &work,
            ["starts", "start_time"],
            "starts by 128 callers",
            length,
        );
        self.started_at = started_at;
        Ok(())
    }

    /// What the live sessions cost while nothing happens.
    fn hold(&mut self, server: &Server, empty: Option<(u64, u64)>) -> anyhow::Result<()> {
        std::thread::sleep(SETTLE);
        let window = Window::open(server.process())?;
        std::thread::sleep(self.quiet);
        let window = window.close()?;
        let memory = server.process().memory()?;
        let per_session = |with: u64, without: u64| {
            (number(with) - number(without)) / number_of(self.plan.sessions)
        };
        // A server that took them over was never empty: then all that it has counts as theirs.
        let (resident, anonymous) = empty.unwrap_or_default();
        let of = if empty.is_some() {
            ""
        } else {
            ", all of the server's"
        };
        self.outcome.add(
            "memory_per_session",
            format!("memory per session, anonymous{of}"),
            Unit::Bytes,
            per_session(memory.anonymous, anonymous),
        );
        self.outcome.add(
            "resident_per_session",
            format!("memory per session, resident{of}"),
            Unit::Bytes,
            per_session(memory.resident, resident),
        );
        self.outcome.add(
            "resident",
            "resident in all",
            Unit::Bytes,
            number(memory.resident),
        );
        self.outcome.add(
            "idle",
            "processor between deadlines",
            Unit::PercentOfCore,
            window.percent(window.server),
        );
        self.outcome
            .add_micros("hiccup", "the machine's hiccups", &window.hiccups, 0);
        Ok(())
    }

    /// How long a server took to come up with the sessions.
    fn take_recovery(
        &mut self,
        server: &Server,
        keys: [&'static str; 2],
        what: &str,
    ) -> anyhow::Result<()> {
        let seconds = server.ready_after.as_secs_f64();
        self.outcome.add(keys[0], what, Unit::Seconds, seconds);
        let own = server.metric("recovery_seconds")?;
        let what = "of it, to take the sessions over, by its own account";
        self.outcome.add(keys[1], what, Unit::Seconds, own);
        let live = server.metric("live_sessions")?;
        if (live - number_of(self.plan.sessions)).abs() > 0.5 {
            self.outcome
                .problems
                .push(format!("{live} sessions are live after the recovery"));
        }
        Ok(())
    }

    /// Stops all and holds every charge against the oracle.
    fn stop_all(&mut self, server: &Server, away_ms: i64) -> anyhow::Result<()> {
        let mut stops: Vec<Option<Stop>> = vec![None; self.users.len()];
        let started_at = &self.started_at;
        let take = |user: usize, body: &[u8]| {
            stops[user] = Some(Stop {
                started_at: started_at[user],
                ended_at: wire::field(body, "\"endedAt\":")?,
                consumed: wire::field(body, "\"creditsConsumed\":")?,
                left: wire::field(body, "\"finalCredits\":")?,
            });
            Some(())
        };
        let mut work = ForAll::new(self.users, CALLERS, "POST", "/api/sessions/stop", take);
        let length = work.run(server.address)?;
        shared::add_calls(
            self.outcome,
            &work,
            ["stops", "stop_time"],
            "stops by 128 callers",
            length,
        );
        let downtime_ms = self.downtime_ms(server.address, away_ms)?;
        let oracle = Oracle {
            price: 1,
            interval_ms: i64::try_from(INTERVAL.as_millis())?,
            credits: CREDITS,
        };
        let unanswered = stops.iter().filter(|stop| stop.is_none()).count();
        let drift: u64 = stops
            .iter()
            .flatten()
            .map(|stop| oracle.drift(stop, downtime_ms))
            .sum();
        self.outcome.add(
            "drift",
            "drift of all charges, in credits",
            Unit::Count,
            number(drift),
        );
        self.outcome.expect_none("credits of drift", drift);
        self.outcome
            .expect_none("stops without figures", u64::try_from(unanswered)?);
        Ok(())
    }

    /// For how long no session was served. The history tells it of some sessions, which must agree; and
    /// it must be the time that we saw the server away, but for the lag that a crash gives away.
    fn downtime_ms(&mut self, server: SocketAddr, away_ms: i64) -> anyhow::Result<i64> {
        let mut downtimes = Vec::with_capacity(LOOKED_UP);
        for token in self.users.evenly(LOOKED_UP) {
            let page = control::call_as(server, "GET", "/api/sessions?limit=1", token)?;
            let read =
                |key: &str| wire::field(page.as_bytes(), key).context("an incomplete history");
            let length = read("\"endedAt\":")? - read("\"startedAt\":")?;
            downtimes.push(length - read("\"servedMs\":")?);
        }
        let downtime = *downtimes.first().context("nobody to ask")?;
        let others = downtimes.iter().filter(|other| **other != downtime).count();
        self.outcome
            .expect_none("sessions with another downtime", u64::try_from(others)?);
        if self.plan.start == Start::Calls {
            let given_away = downtime - away_ms;
            // The server served a while before we saw that it was ready.
            if given_away > LAG_MS_MAX || downtime <= 0 {
                self.outcome.problems.push(format!(
                    "the server was away for {away_ms} ms, and {downtime} ms were not served"
                ));
            }
            self.outcome.notes.push(format!(
                "away for {away_ms} ms by the benchmark's clock, not served for {downtime} ms"
            ));
        }
        Ok(downtime)
    }

    /// Whether memory comes down when all is over.
    fn come_down(&mut self, server: &Server, peak: u64) -> anyhow::Result<()> {
        let process = server.process();
        let mut resident = vec![("with all live", number(peak))];
        for (wait, name) in [(10, "10 s after the last stop"), (20, "30 s after it")] {
            std::thread::sleep(Duration::from_secs(wait));
            resident.push((name, number(process.memory()?.resident)));
        }
        self.outcome.figures.push(crate::bench::figures::Figure {
            key: "resident_after",
            what: "resident: with all live / 10 s after the last stop / 30 s after it".to_owned(),
            unit: Unit::Bytes,
            parts: resident,
        });
        Ok(())
    }
}

/// When the fixture started each session: evenly from the first to the last.
fn recorded_starts(users: &Users) -> anyhow::Result<Vec<i64>> {
    let (first, _) = users.live.context("no live sessions were recorded")?;
    let (count, spread_ms) = (
        i64::try_from(users.len())?,
        i64::try_from(INTERVAL.as_millis())?,
    );
    Ok((0..count)
        .map(|number| first + spread_ms * number / count)
        .collect())
}

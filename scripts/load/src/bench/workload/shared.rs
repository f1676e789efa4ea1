//! What several work loads need.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::{
    bench::{
        figures::{Outcome, Unit, number, number_of},
        place::{Place, Server, Users},
    },
    calls::{Answer, Callers, More, Pace, Work},
    fleet::{Fleet, Snapshot},
    hiccup,
    schedule::Schedule,
    wire,
};

/// The tariff of all work loads but `slow`: the default one.
pub const INTERVAL: Duration = Duration::from_secs(6);
/// What each user has: for 69 days, so that no session ends by itself.
pub const CREDITS: i64 = 1_000_000;
/// How many watchers connect at once, where it is not the point.
pub const CONNECT_AT_ONCE: usize = 64;
/// How long all watchers together may take to connect.
pub const CONNECT_PATIENCE: Duration = Duration::from_mins(2);
/// How late an update may come before it counts as missing.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How many calls warm a server, and how often at most.
const WARMING_CALLS: usize = 20_000;
const WARMING_ROUNDS_MAX: usize = 8;
/// How long is waited between two rounds of them.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);
/// Memory that changes by less from round to round is steady.
const STEADY_BYTES: u64 = 256 << 10;
/// How long a server is left alone before its memory is read.
pub const SETTLE: Duration = Duration::from_secs(3);

/// The settings without which one machine could not play many: it has one address only.
pub fn many_clients() -> Vec<(&'static str, String)> {
    vec![
        ("MINUTE_CREDIT__HTTP__CONNECTIONS_MAX", "19000".to_owned()),
        (
            "MINUTE_CREDIT__HTTP__CONNECTIONS_PER_ADDRESS_MAX",
            "0".to_owned(),
        ),
        ("MINUTE_CREDIT__SOCKETS__PER_ADDRESS_MAX", "0".to_owned()),
    ]
}

/// Has the server answer calls until its memory stays as it is: what an allocator has left over from a
/// recovery it gives back only while it works, and that would be taken for savings.
pub fn warm(server: &Server, users: &Users) -> anyhow::Result<()> {
    let mut before = server.process().memory()?.anonymous;
    for _ in 0..WARMING_ROUNDS_MAX {
        let mut work = Warming {
            token: users.token(0),
            left: WARMING_CALLS,
        };
        Callers::connect(server.address, CONNECT_AT_ONCE)?.run(&mut work, Pace::Closed(None))?;
        std::thread::sleep(BETWEEN_ROUNDS);
        let now = server.process().memory()?.anonymous;
        if now.abs_diff(before) < STEADY_BYTES {
            break;
        }
        before = now;
    }
    std::thread::sleep(SETTLE);
    Ok(())
}

struct Warming<'u> {
    token: &'u str,
    left: usize,
}

impl Work for Warming<'_> {
    fn next(&mut self, _: usize, request: &mut Vec<u8>) -> More {
        if self.left == 0 {
            return More::Nothing;
        }
        self.left -= 1;
        wire::write_request(request, "GET", "/api/sessions/credits", self.token);
        More::Request
    }

    fn done(&mut self, _: usize, answer: Answer<'_>) -> anyhow::Result<()> {
        ensure!(answer.status == 200, "a call gave {}", answer.status);
        Ok(())
    }
}

/// Of `all` users, `watched` that are spread evenly among them.
pub fn evenly(users: &Users, watched: usize) -> impl Iterator<Item = &str> {
    let all = users.len();
    (0..watched.min(all)).map(move |number| users.token(number * all / watched.min(all)))
}

/// Holds what watchers were told of their sessions against how those were started: each at its own
/// instant of the spread, and moved by one and the same downtime.
pub fn check_schedules(
    outcome: &mut Outcome,
    fleet: &Fleet<'_>,
    live: Option<(i64, i64)>,
    interval: Duration,
) {
    let snapshots: Vec<&Snapshot> = fleet
        .seen()
        .filter_map(|(seen, _)| seen.snapshot.as_ref())
        .collect();
    let Some(first) = snapshots.first() else {
        outcome.problems.push("nobody got a balance".to_owned());
        return;
    };
    let downtime = Schedule::of(first).downtime_ms(first);
    let is_wrong = |snapshot: &&&Snapshot| {
        let is_in_spread = live.is_none_or(|(from, to)| (from..=to).contains(&snapshot.started_at));
        !is_in_spread
            || Schedule::of(snapshot).downtime_ms(snapshot) != downtime
            || u128::try_from(snapshot.interval_ms) != Ok(interval.as_millis())
            || snapshot.consumed + snapshot.credits != CREDITS
    };
    let wrong = snapshots.iter().filter(is_wrong).count();
    outcome.expect_none(
        "sessions with a schedule that does not follow from their starts",
        u64::try_from(wrong).unwrap_or(u64::MAX),
    );
}

/// Adds how the watchers came in.
pub fn add_opened(outcome: &mut Outcome, opened: &crate::fleet::Opened, watched: usize) {
    let rate = number_of(watched) / opened.took.as_secs_f64().max(f64::MIN_POSITIVE);
    outcome.add(
        "connects",
        "sockets opened, each with its balance",
        Unit::PerSecond,
        rate,
    );
    for (failure, times) in &opened.failures {
        outcome
            .notes
            .push(format!("while connecting, {times} times: {failure}"));
    }
}

/// Ends the server and has the books audited: the last of every work load.
pub fn finish(mut outcome: Outcome, server: Server, place: &Place) -> anyhow::Result<Outcome> {
    server.end()?;
    outcome.take_audit(place.verify());
    outcome.settings = place.settings().to_vec();
    Ok(outcome)
}

/// The same request for each user, one after the other, with what was answered.
pub struct ForAll<'u, F> {
    users: &'u Users,
    method: &'static str,
    path: &'static str,
    next: usize,
    /// Which user each connection asks for.
    asking: Vec<usize>,
    /// Takes a user's number and the body of a success; tells whether it is as it should be.
    take: F,
    /// How long the calls took, in microseconds.
    pub took: hdrhistogram::Histogram<u64>,
    /// How many answers were no success, or not as they should be.
    pub wrong: u64,
    /// The first of them.
    pub first_wrong: Option<String>,
}

impl<'u, F: FnMut(usize, &[u8]) -> Option<()>> ForAll<'u, F> {
    /// For all users, by so many connections.
    pub fn new(
        users: &'u Users,
        connections: usize,
        method: &'static str,
        path: &'static str,
        take: F,
    ) -> Self {
        Self {
            users,
            method,
            path,
            next: 0,
            asking: vec![0; connections],
            take,
            took: hiccup::new_histogram(),
            wrong: 0,
            first_wrong: None,
        }
    }

    /// Asks for all of them, as fast as it goes, and tells how long that took.
    pub fn run(&mut self, server: &Server) -> anyhow::Result<Duration> {
        let mut callers = Callers::connect(server.address, self.asking.len())?;
        let begin = Instant::now();
        callers.run(self, Pace::Closed(None))?;
        Ok(begin.elapsed())
    }

    /// Adds the rate and the times of the calls, and what was wrong with them.
    pub fn add_to(
        &self,
        outcome: &mut Outcome,
        keys: [&'static str; 2],
        what: &str,
        length: Duration,
    ) {
        let rate = number(self.took.len()) / length.as_secs_f64().max(f64::MIN_POSITIVE);
        outcome.add(keys[0], what, Unit::PerSecond, rate);
        outcome.add_micros(keys[1], format!("{what}: time of a call"), &self.took, 0);
        if let Some(first) = &self.first_wrong {
            let (wrong, path) = (self.wrong, self.path);
            outcome.problems.push(format!(
                "{wrong} wrong answers to {path}, the first: {first}"
            ));
        }
    }
}

impl<F: FnMut(usize, &[u8]) -> Option<()>> Work for ForAll<'_, F> {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> More {
        if self.next == self.users.len() {
            return More::Nothing;
        }
        let token = self.users.token(self.next);
        wire::write_request(request, self.method, self.path, token);
        self.asking[connection] = self.next;
        self.next += 1;
        More::Request
    }

    fn done(&mut self, connection: usize, answer: Answer<'_>) -> anyhow::Result<()> {
        let micros = u64::try_from(answer.took.as_micros())?;
        self.took.saturating_record(micros);
        let user = self.asking[connection];
        if answer.status != 200 || (self.take)(user, answer.body).is_none() {
            self.wrong += 1;
            self.first_wrong.get_or_insert_with(|| {
                format!("{} {}", answer.status, String::from_utf8_lossy(answer.body))
            });
        }
        Ok(())
    }
}

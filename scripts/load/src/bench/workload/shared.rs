//! What several work loads need.

use std::time::Duration;

use anyhow::ensure;

use crate::{
    bench::{
        figures::{Outcome, Unit, number, number_of},
        place::{Place, Server},
    },
    calls::{Answer, Callers, More, Pace, Work},
    fleet::{Fleet, Snapshot},
    for_all::ForAll,
    schedule::Schedule,
    users::Users,
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

/// Adds the rate and the times of the calls, and what was wrong with them.
pub fn add_calls<F: FnMut(usize, &[u8]) -> Option<()>>(
    outcome: &mut Outcome,
    work: &ForAll<'_, F>,
    keys: [&'static str; 2],
    what: &str,
    length: Duration,
) {
    let rate = number(work.took.len()) / length.as_secs_f64().max(f64::MIN_POSITIVE);
    outcome.add(keys[0], what, Unit::PerSecond, rate);
    outcome.add_micros(keys[1], format!("{what}: time of a call"), &work.took, 0);
    outcome.problems.extend(work.complaint());
}

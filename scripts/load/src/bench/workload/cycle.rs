//! `cycle`: every connection starts a session, stops it, starts the next one. Each answer means that it
//! is durable. The users take turns, so that with more of them than connections each pair is of a user
//! who has not been heard of for a while.

use std::collections::VecDeque;

use anyhow::ensure;
use hdrhistogram::Histogram;

use super::{
    shared::{self, CREDITS, INTERVAL},
    traffic::{self, Counted},
};
use crate::{
    bench::{
        figures::{Goal, Outcome, Unit, number},
        place::{Bench, Place, StoreKind},
    },
    calls::{Answer, Callers, More, Pace, Work},
    hiccup,
    oracle::{Oracle, Stop},
    users::Users,
    wire,
};

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct CyclePlan {
    /// Where.
    pub store: StoreKind,
    /// By how many connections.
    pub connections: usize,
    /// How many users take turns; at least as many as connections.
    pub users: usize,
}

impl CyclePlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        format!(
            "start and stop, {} connections, {} users",
            self.connections, self.users
        )
    }

    /// What is wanted of it.
    pub fn goals(&self) -> Vec<Goal> {
        let mut goals = vec![Goal::at_most("drift", 0.0)];
        if self.store == StoreKind::Postgres {
            goals.push(Goal::at_least("rate", 10_000.0));
            goals.push(Goal::at_most("start_time", 50.0).of_part("p99"));
            goals.push(Goal::at_most("stop_time", 50.0).of_part("p99"));
        }
        goals
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut settings = shared::many_clients();
        // Nobody else stops thousands of sessions an hour before they cost anything.
        let unlimited = (
            "MINUTE_CREDIT__LIMITS__UNPAID_SESSIONS_PER_HOUR",
            "0".to_owned(),
        );
        settings.push(unlimited);
        let mut place = Place::new(bench, self.store, &settings)?;
        let users = place.users(self.users, CREDITS, None)?;
        let server = place.serve()?;
        let mut work = Cycle::new(&users, self.connections)?;
        traffic::measure(&mut outcome, &server, self.connections, &mut work, bench)?;
        work.is_ending = true;
        Callers::connect(server.address, self.connections)?.run(&mut work, Pace::Closed(None))?;
        outcome.add(
            "drift",
            "drift of all charges, in credits",
            Unit::Count,
            number(work.drift),
        );
        outcome.expect_none("credits of drift", work.drift);
        if let Some(first) = &work.first_wrong {
            let wrong = work.wrong;
            outcome
                .problems
                .push(format!("{wrong} wrong answers, the first: {first}"));
        }
        shared::finish(outcome, server, &place)
    }
}

/// The calls.
struct Cycle<'u> {
    users: &'u Users,
    /// Users without a session, the longest idle first.
    free: VecDeque<usize>,
    /// Whom each connection acts for, and when the session started that it is to stop.
    acting: Vec<Option<(usize, Option<i64>)>>,
    oracle: Oracle,
    balances: Vec<i64>,
    starts: Histogram<u64>,
    stops: Histogram<u64>,
    drift: u64,
    wrong: u64,
    first_wrong: Option<String>,
    /// Only stops are left to be made.
    is_ending: bool,
}

impl<'u> Cycle<'u> {
    fn new(users: &'u Users, connections: usize) -> anyhow::Result<Self> {
        ensure!(
            users.len() >= connections,
            "there must be a user for each connection"
        );
        Ok(Self {
            users,
            free: (0..users.len()).collect(),
            acting: vec![None; connections],
            oracle: Oracle {
                price: 1,
                interval_ms: i64::try_from(INTERVAL.as_millis())?,
                credits: CREDITS,
            },
            balances: vec![CREDITS; users.len()],
            starts: hiccup::new_histogram(),
            stops: hiccup::new_histogram(),
            drift: 0,
            wrong: 0,
            first_wrong: None,
            is_ending: false,
        })
    }

    /// Takes a success. Nothing where it lacks something.
    fn take(
        &mut self,
        connection: usize,
        user: usize,
        started_at: Option<i64>,
        body: &[u8],
    ) -> Option<()> {
        let Some(started_at) = started_at else {
            let started_at = wire::field(body, "\"startedAt\":")?;
            self.acting[connection] = Some((user, Some(started_at)));
            return Some(());
        };
        let stop = Stop {
            started_at,
            ended_at: wire::field(body, "\"endedAt\":")?,
            consumed: wire::field(body, "\"creditsConsumed\":")?,
            left: wire::field(body, "\"finalCredits\":")?,
        };
        let oracle = Oracle {
            credits: self.balances[user],
            ..self.oracle
        };
        self.drift += oracle.drift(&stop, 0);
        self.balances[user] = stop.left;
        self.acting[connection] = None;
        self.free.push_back(user);
        Some(())
    }
}

impl Work for Cycle<'_> {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> More {
        let (user, path) = match self.acting[connection] {
            Some((user, Some(_))) => (user, "/api/sessions/stop"),
            Some((user, None)) => (user, "/api/sessions/start"),
            None => {
                if self.is_ending {
                    return More::Nothing;
                }
                let Some(user) = self.free.pop_front() else {
                    return More::Nothing;
                };
                self.acting[connection] = Some((user, None));
                (user, "/api/sessions/start")
            }
        };
        wire::write_request(request, "POST", path, self.users.token(user));
        More::Request
    }

    fn done(&mut self, connection: usize, answer: Answer<'_>) -> anyhow::Result<()> {
        let Some((user, started_at)) = self.acting[connection] else {
            return Ok(());
        };
        let micros = u64::try_from(answer.took.as_micros())?;
        let took = if started_at.is_none() {
            &mut self.starts
        } else {
            &mut self.stops
        };
        took.saturating_record(micros);
        if answer.status != 200
            || self
                .take(connection, user, started_at, answer.body)
                .is_none()
        {
            self.wrong += 1;
            self.first_wrong.get_or_insert_with(|| {
                format!("{} {}", answer.status, String::from_utf8_lossy(answer.body))
            });
            ensure!(
                self.wrong < 1_000,
                "too many wrong answers: {:?}",
                self.first_wrong
            );
        }
        Ok(())
    }
}

impl Counted for Cycle<'_> {
    fn reset(&mut self) {
        self.starts.reset();
        self.stops.reset();
    }

    fn counted(&self) -> Vec<([&'static str; 2], &'static str, &Histogram<u64>)> {
        vec![
            (["start_time", "open_start_time"], "start", &self.starts),
            (["stop_time", "open_stop_time"], "stop", &self.stops),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer<'_> {
        Answer {
            status,
            body: body.as_bytes(),
            took: Duration::from_micros(7),
        }
    }

    #[test]
    fn users_take_turns_and_every_stop_is_held_against_the_oracle() {
        let users = Users::new("a\nb\n".to_owned()).unwrap();
        let mut cycle = Cycle::new(&users, 1).unwrap();
        let ask = |cycle: &mut Cycle<'_>, expected: &str| {
            let mut request = Vec::new();
            assert_eq!(cycle.next(0, &mut request), More::Request);
            let request = String::from_utf8(request).unwrap();
            let (path, rest) = request.split_once(" HTTP").unwrap();
            let (_, token) = rest.split_once("Bearer ").unwrap();
            let token = token.lines().next().unwrap();
            assert_eq!(format!("{path} {token}"), expected);
        };
        ask(&mut cycle, "POST /api/sessions/start a");
        cycle.done(0, answer(503, "busy")).unwrap();
        assert_eq!(cycle.wrong, 1);
        // What failed is asked again.
        ask(&mut cycle, "POST /api/sessions/start a");
        cycle.done(0, answer(200, r#"{"startedAt":1000}"#)).unwrap();
        ask(&mut cycle, "POST /api/sessions/stop a");
        let stop = r#"{"creditsConsumed":1,"finalCredits":999999,"endedAt":7000}"#;
        cycle.done(0, answer(200, stop)).unwrap();
        assert_eq!(cycle.drift, 0);
        ask(&mut cycle, "POST /api/sessions/start b");
        cycle.done(0, answer(200, r#"{"startedAt":1000}"#)).unwrap();
        ask(&mut cycle, "POST /api/sessions/stop b");
        let stop = r#"{"creditsConsumed":1,"finalCredits":999999,"endedAt":6999}"#;
        cycle.done(0, answer(200, stop)).unwrap();
        assert_eq!(cycle.drift, 1);
        assert_eq!((cycle.starts.len(), cycle.stops.len()), (3, 2));
        // The balance goes on from where it was.
        ask(&mut cycle, "POST /api/sessions/start a");
        cycle.done(0, answer(200, r#"{"startedAt":8000}"#)).unwrap();
        ask(&mut cycle, "POST /api/sessions/stop a");
        let stop = r#"{"creditsConsumed":0,"finalCredits":999999,"endedAt":8001}"#;
        cycle.done(0, answer(200, stop)).unwrap();
        assert_eq!(cycle.drift, 1);
        cycle.is_ending = true;
        assert_eq!(cycle.next(0, &mut Vec::new()), More::Nothing);
    }
}

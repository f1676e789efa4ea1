//! `read`: live balances over HTTP.

use anyhow::ensure;
use hdrhistogram::Histogram;

use super::{
    shared::{self, CREDITS, INTERVAL},
    traffic::{self, Counted},
};
use crate::{
    bench::{
        figures::{Goal, Outcome},
        place::{Bench, Place, StoreKind},
    },
    calls::{Answer, More, Work},
    hiccup,
    users::Users,
    wire,
};

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct ReadPlan {
    /// Where.
    pub store: StoreKind,
    /// By how many connections.
    pub connections: usize,
    /// How many users with a live session there are, whose balances are read in turn.
    pub live: usize,
    /// How many users without one, whose balances are read as well.
    pub idle: usize,
}

impl ReadPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        let whose = match (self.live, self.idle) {
            (live, 0) => format!("live balances of {live} users"),
            (0, idle) => format!("balances of {idle} users without a session"),
            (live, idle) => format!("balances of {live} users with a session and {idle} without"),
        };
        format!("{whose} over HTTP, {} connections", self.connections)
    }

    /// What is wanted of it.
    pub fn goals() -> Vec<Goal> {
        vec![Goal::at_least("rate", 30_000.0)]
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut place = Place::new(bench, self.store, &shared::many_clients())?;
        let users = |place: &Place, count, spread| match count {
            0 => Users::new(String::new()),
            _ => place.users(count, CREDITS, spread),
        };
        let idle = users(&place, self.idle, None)?;
        let live = users(&place, self.live, Some(INTERVAL))?;
        let server = place.serve()?;
        let (live_due, idle_due) = (vec![CREDITS; self.live], vec![CREDITS; self.idle]);
        let mut work = Reading::new(vec![
            Readers::live(&live, &live_due),
            Readers::idle(&idle, 0, &idle_due),
        ]);
        traffic::measure(&mut outcome, &server, self.connections, &mut work, bench)?;
        shared::finish(outcome, server, &place)
    }
}

/// Users whose balances are read, all of them with a live session or all without.
pub struct Readers<'u> {
    users: &'u Users,
    /// The first of them among the users.
    first: usize,
    /// What each of them holds, or has held since the session started.
    balances: &'u [i64],
    is_live: bool,
    took: Histogram<u64>,
}

impl<'u> Readers<'u> {
    /// All users, each with a live session.
    pub fn live(users: &'u Users, balances: &'u [i64]) -> Self {
        Self {
            users,
            first: 0,
            balances,
            is_live: true,
            took: hiccup::new_histogram(),
        }
    }

    /// As many users as there are balances, from this one on, all of them without a session.
    pub fn idle(users: &'u Users, first: usize, balances: &'u [i64]) -> Self {
        Self {
            users,
            first,
            balances,
            is_live: false,
            took: hiccup::new_histogram(),
        }
    }

    /// Whether the reply is right for this one of them.
    fn is_right(&self, number: usize, body: &[u8]) -> bool {
        let credits = wire::field(body, "\"credits\":");
        let consumed = wire::field(body, "\"consumed\":");
        let sum = match (self.is_live, consumed) {
            (true, consumed) => credits.zip(consumed).map(|(left, used)| left + used),
            (false, None) => credits,
            (false, Some(_)) => None,
        };
        sum == Some(self.balances[number])
    }
}

/// The calls: one of each of these users in turn.
pub struct Reading<'u> {
    readers: Vec<Readers<'u>>,
    next: usize,
    /// Whom each connection asks for: a place among the readers, and a number there.
    asking: Vec<(usize, usize)>,
}

impl<'u> Reading<'u> {
    /// Reads the balances of all of these, of whom there is at least one.
    pub fn new(readers: Vec<Readers<'u>>) -> Self {
        Self {
            readers,
            next: 0,
            asking: Vec::new(),
        }
    }

    fn pick(&mut self) -> (usize, usize) {
        let count: usize = self.readers.iter().map(|it| it.balances.len()).sum();
        let mut number = self.next % count;
        self.next += 1;
        for (place, readers) in self.readers.iter().enumerate() {
            match number.checked_sub(readers.balances.len()) {
                None => return (place, number),
                Some(rest) => number = rest,
            }
        }
        (0, 0)
    }
}

impl Work for Reading<'_> {
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> More {
        let (place, number) = self.pick();
        if self.asking.len() <= connection {
            self.asking.resize(connection + 1, (0, 0));
        }
        self.asking[connection] = (place, number);
        let readers = &self.readers[place];
        let token = readers.users.token(readers.first + number);
        wire::write_request(request, "GET", "/api/sessions/credits", token);
        More::Request
    }

    fn done(&mut self, connection: usize, answer: Answer<'_>) -> anyhow::Result<()> {
        let (place, number) = self.asking[connection];
        let readers = &mut self.readers[place];
        ensure!(
            answer.status == 200 && readers.is_right(number, answer.body),
            "a balance is wrong: {} {}",
            answer.status,
            String::from_utf8_lossy(answer.body)
        );
        let micros = u64::try_from(answer.took.as_micros())?;
        readers.took.saturating_record(micros);
        Ok(())
    }
}

impl Counted for Reading<'_> {
    fn reset(&mut self) {
        for readers in &mut self.readers {
            readers.took.reset();
        }
    }

    fn counted(&self) -> Vec<([&'static str; 2], &'static str, &Histogram<u64>)> {
        let readers = self.readers.iter().filter(|it| !it.balances.is_empty());
        let counted = readers.map(|readers| {
            if readers.is_live {
                (["read_time", "open_read_time"], "read", &readers.took)
            } else {
                let keys = ["idle_read_time", "open_idle_read_time"];
                (keys, "read of a user without a session", &readers.took)
            }
        });
        counted.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_balance_is_held_against_what_is_due() {
        let (live, idle) = ("a\nb\n", "c\nd\ne\n");
        let [live, idle] = [live, idle].map(|text| Users::new(text.to_owned()).unwrap());
        let due = [9, 9, 5, 6];
        let mut reading = Reading::new(vec![
            Readers::live(&live, &due[..2]),
            // The first one is somebody else's.
            Readers::idle(&idle, 1, &due[2..]),
        ]);
        let ask = |reading: &mut Reading<'_>, token: &str, body: &str| {
            let mut request = Vec::new();
            assert_eq!(reading.next(3, &mut request), More::Request);
            let request = String::from_utf8(request).unwrap();
            assert!(
                request.contains(&format!("Bearer {token}\r\n")),
                "{request}"
            );
            let answer = Answer {
                status: 200,
                body: body.as_bytes(),
                took: Duration::from_micros(7),
            };
            reading.done(3, answer).is_ok()
        };
        assert!(ask(&mut reading, "a", r#"{"credits":4,"consumed":5}"#));
        assert!(!ask(&mut reading, "b", r#"{"credits":9}"#));
        assert!(ask(&mut reading, "d", r#"{"credits":5}"#));
        assert!(!ask(&mut reading, "e", r#"{"credits":5}"#));
        assert!(!ask(&mut reading, "a", r#"{"credits":4,"consumed":4}"#));
        assert!(ask(&mut reading, "b", r#"{"credits":9,"consumed":0}"#));
        assert!(!ask(&mut reading, "d", r#"{"credits":5,"consumed":0}"#));
        let counted = reading.counted();
        let counts: Vec<u64> = counted.iter().map(|(_, _, took)| took.len()).collect();
        assert_eq!(counts, [2, 1]);
    }
}

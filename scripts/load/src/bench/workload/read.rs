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
    pub users: usize,
}

impl ReadPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        format!(
            "live balances of {} users over HTTP, {} connections",
            self.users, self.connections
        )
    }

    /// What is wanted of it.
    pub fn goals() -> Vec<Goal> {
        vec![Goal::at_least("rate", 30_000.0)]
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut place = Place::new(bench, self.store, &shared::many_clients())?;
        let users = place.users(self.users, CREDITS, Some(INTERVAL))?;
        let server = place.serve()?;
        let mut work = Reading {
            users: &users,
            next: 0,
            took: hiccup::new_histogram(),
        };
        traffic::measure(&mut outcome, &server, self.connections, &mut work, bench)?;
        shared::finish(outcome, server, &place)
    }
}

struct Reading<'u> {
    users: &'u Users,
    next: usize,
    took: Histogram<u64>,
}

impl Work for Reading<'_> {
    fn next(&mut self, _: usize, request: &mut Vec<u8>) -> More {
        let token = self.users.token(self.next);
        self.next = (self.next + 1) % self.users.len();
        wire::write_request(request, "GET", "/api/sessions/credits", token);
        More::Request
    }

    fn done(&mut self, _: usize, answer: Answer<'_>) -> anyhow::Result<()> {
        let number = |key| wire::field(answer.body, key);
        let balance = number("\"credits\":").zip(number("\"consumed\":"));
        let is_right = balance.is_some_and(|(left, consumed)| left + consumed == CREDITS);
        ensure!(
            answer.status == 200 && is_right,
            "a balance is wrong: {} {}",
            answer.status,
            String::from_utf8_lossy(answer.body)
        );
        self.took
            .saturating_record(u64::try_from(answer.took.as_micros())?);
        Ok(())
    }
}

impl Counted for Reading<'_> {
    fn reset(&mut self) {
        self.took.reset();
    }

    fn counted(&self) -> Vec<([&'static str; 2], &'static str, &Histogram<u64>)> {
        vec![(["read_time", "open_read_time"], "read", &self.took)]
    }
}

//! `drain`: SIGTERM with every socket open and every session live. All are told to come back, nothing is
//! lost, and the next server goes on with every session.

use std::time::{Duration, Instant};

use super::shared::{self, CREDITS, INTERVAL, SETTLE};
use crate::{
    bench::{
        figures::{Goal, Outcome, Unit, number, number_of},
        place::{Bench, Place, StoreKind},
    },
    clock::wall_micros,
    fleet::Fleet,
    for_all::ForAll,
    hiccup, wire,
};

/// How long the server may take to close them all.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a server that goes away closes with.
const GOING_AWAY: u16 = 1001;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct DrainPlan {
    /// Where.
    pub store: StoreKind,
    /// How many sessions, all of them watched.
    pub watched: usize,
}

impl DrainPlan {
    /// What tells it from others of its kind.
    pub fn name(&self) -> String {
        format!(
            "SIGTERM with {} sessions, all of them watched",
            self.watched
        )
    }

    /// What is wanted of it.
    pub fn goals() -> Vec<Goal> {
        vec![Goal::at_most("lost", 0.0)]
    }

    /// Does it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut place = Place::new(bench, self.store, &shared::many_clients())?;
        let users = place.users(self.watched, CREDITS, Some(INTERVAL))?;
        let mut server = place.serve()?;
        let mut fleet = Fleet::new(server.address, users.evenly(self.watched), 16)?;
        fleet.open(shared::CONNECT_AT_ONCE, shared::CONNECT_PATIENCE)?;
        fleet.read_until(Instant::now() + SETTLE)?;

        let (asked, asked_micros) = (Instant::now(), wall_micros());
        server.ask_to_end()?;
        fleet.read_until_closed(PATIENCE)?;
        let status = server.wait_for_end()?;
        let exited = asked.elapsed();
        if !status.success() {
            outcome.problems.push(format!("it ended with {status}"));
        }
        let mut closes = hiccup::new_histogram();
        let mut wrong = 0;
        for (seen, _) in fleet.seen() {
            match seen.closes[..] {
                [(GOING_AWAY, at_micros)] => {
                    let after = u64::try_from(at_micros - asked_micros).unwrap_or(0);
                    closes.saturating_record(after);
                }
                _ => wrong += 1,
            }
        }
        outcome.expect_none("sockets not closed with 1001", wrong);
        outcome.add_micros("closed", "from SIGTERM to a socket's close", &closes, 0);
        outcome.add(
            "exit",
            "from SIGTERM to the exit",
            Unit::Seconds,
            exited.as_secs_f64(),
        );

        let server = place.serve()?;
        let ready = server.ready_after.as_secs_f64();
        outcome.add(
            "next_ready",
            "the next server's start to ready",
            Unit::Seconds,
            ready,
        );
        let mut live = 0_u64;
        let take = |_: usize, body: &[u8]| {
            let number = |key| wire::field(body, key);
            let is_whole = number("\"credits\":")? + number("\"consumed\":")? == CREDITS;
            live += u64::from(is_whole);
            is_whole.then_some(())
        };
        let connections = shared::CONNECT_AT_ONCE;
        let mut work = ForAll::new(&users, connections, "GET", "/api/sessions/credits", take);
        work.run(server.address)?;
        let lost = number_of(self.watched) - number(live);
        outcome.add(
            "lost",
            "sessions not live or not whole afterwards",
            Unit::Count,
            lost,
        );
        outcome.expect_none("sessions lost", u64::try_from(self.watched)? - live);
        shared::finish(outcome, server, &place)
    }
}

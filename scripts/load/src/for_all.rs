//! The same call for each user, one after the other, by some connections at once.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    calls::{Answer, Callers, More, Pace, Work},
    hiccup,
    users::Users,
    wire,
};

/// The calls, and what was answered.
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
    pub took: Histogram<u64>,
    /// How many answers were no success, or not as they should be.
    pub wrong: u64,
    /// The first of them.
    first_wrong: Option<String>,
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
    pub fn run(&mut self, server: SocketAddr) -> anyhow::Result<Duration> {
        let mut callers = Callers::connect(server, self.asking.len())?;
        let begin = Instant::now();
        callers.run(self, Pace::Closed(None))?;
        Ok(begin.elapsed())
    }

    /// What was wrong, in words, if anything was.
    pub fn complaint(&self) -> Option<String> {
        let first = self.first_wrong.as_ref()?;
        let (wrong, path) = (self.wrong, self.path);
        Some(format!(
            "{wrong} wrong answers to {path}, the first: {first}"
        ))
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

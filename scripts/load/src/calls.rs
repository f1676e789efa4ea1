//! Many callers over kept-alive HTTP connections, on one thread and one epoll: a few microseconds for
//! each call, since the server that is measured shares the processors.
//!
//! A closed loop makes the next call of a connection as soon as the one before it is answered: that
//! finds what a server can do. An open loop makes calls at the times of a schedule, whatever the server
//! does, and counts a call's time from when it was due: that finds how long calls take, also for those
//! who had to wait because the server was slow (no "coordinated omission").

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::wire;

/// For how long there may be no reply at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many events one look at the sockets fetches.
const EVENTS_AT_ONCE: usize = 256;
/// A reply is far smaller.
const BUFFER_BYTES: usize = 64 * 1_024;

/// When calls are made.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// At once after the reply, until this time has passed; without one, until there is no more to do.
    Closed(Option<Duration>),
    /// So many a second, evenly, for so long.
    Open {
        /// Calls a second.
        per_second: u32,
        /// For how long.
        during: Duration,
    },
}

/// The answer to a call.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'b> {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: &'b [u8],
    /// The time from when it was due, which in a closed loop is when it was sent.
    pub took: Duration,
}

/// What the connections ask.
pub trait Work {
    /// Writes the connection's next request; or returns whether there is none, and never will be.
    fn next(&mut self, connection: usize, request: &mut Vec<u8>) -> More;

    /// Takes the answer to what `next` wrote.
    fn done(&mut self, connection: usize, answer: Answer<'_>) -> anyhow::Result<()>;
}

/// Whether there is more to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// There is a request.
    Request,
    /// There is nothing more to ask on this connection.
    Nothing,
}

/// Open connections. They can do one piece of work after the other.
pub struct Callers {
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Box<[u8]>,
}

struct Connection {
    stream: TcpStream,
    /// What has come of the next reply.
    partial: Vec<u8>,
    /// Since when a reply is due, if one is.
    asked_at: Option<Instant>,
}

/// One piece of work in progress.
struct Progress<'w, W> {
    work: &'w mut W,
    request: Vec<u8>,
    in_flight: usize,
    /// In a closed loop, no new calls after this.
    until: Option<Instant>,
    schedule: Option<Schedule>,
}

/// The calls of an open loop.
struct Schedule {
    begin: Instant,
    per_second: u32,
    made: u64,
    total: u64,
    /// Connections with nothing to do.
    idle: Vec<usize>,
    /// When the calls were due that wait for a connection.
    waiting: VecDeque<Instant>,
}

impl Callers {
    /// Opens so many connections.
    pub fn connect(server: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            let stream = std::net::TcpStream::connect_timeout(&server, PATIENCE)
                .with_context(|| format!("can't connect to {server}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry()
                .register(&mut stream, Token(number), Interest::READABLE)?;
            connections.push(Connection {
                stream,
                partial: Vec::new(),
                asked_at: None,
            });
        }
        Ok(Self {
            poll,
            connections,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    /// Does the work at that pace, until every call is answered.
    pub fn run(&mut self, work: &mut impl Work, pace: Pace) -> anyhow::Result<()> {
        let begin = Instant::now();
        let all = 0..self.connections.len();
        let (until, schedule) = match pace {
            Pace::Closed(during) => (during.map(|during| begin + during), None),
            Pace::Open { per_second, during } => {
                let total = during.as_millis() * u128::from(per_second) / 1_000;
                let schedule = Schedule {
                    begin,
                    per_second,
                    made: 0,
                    total: u64::try_from(total)?,
                    idle: all.clone().collect(),
                    waiting: VecDeque::new(),
                };
                (None, Some(schedule))
            }
        };
        let mut progress = Progress {
            work,
            request: Vec::with_capacity(1_024),
            in_flight: 0,
            until,
            schedule,
        };
        if progress.schedule.is_none() {
            for number in all {
                self.ask(&mut progress, number, Instant::now())?;
            }
        }
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        loop {
            let next_due = self.make_due_calls(&mut progress)?;
            if progress.in_flight == 0 && next_due.is_none() {
                return Ok(());
            }
            let patience = next_due.map_or(PATIENCE, |due| due.min(PATIENCE));
            if let Err(error) = self.poll.poll(&mut events, Some(patience))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            ensure!(
                !events.is_empty() || next_due.is_some(),
                "no reply within {PATIENCE:?}"
            );
            for event in &events {
                self.read(&mut progress, event.token().0)?;
            }
        }
    }

    /// Makes the calls of an open loop that are due, and tells for how long there is none. Nothing
    /// where no call is left, or none can be made before a reply comes.
    fn make_due_calls(
        &mut self,
        progress: &mut Progress<'_, impl Work>,
    ) -> anyhow::Result<Option<Duration>> {
        loop {
            let Some(schedule) = &mut progress.schedule else {
                return Ok(None);
            };
            let now = Instant::now();
            while let Some(due) = schedule.due().filter(|due| *due <= now) {
                schedule.waiting.push_back(due);
                schedule.made += 1;
            }
            if schedule.waiting.is_empty() {
                return Ok(schedule.due().map(|due| due.saturating_duration_since(now)));
            }
            let Some(number) = schedule.idle.pop() else {
                return Ok(None);
            };
            let due = schedule.waiting.pop_front().unwrap_or(now);
            self.ask(progress, number, due)?;
        }
    }

    /// Sends the connection's next request, if there is one.
    fn ask(
        &mut self,
        progress: &mut Progress<'_, impl Work>,
        number: usize,
        due: Instant,
    ) -> anyhow::Result<()> {
        progress.request.clear();
        if progress.work.next(number, &mut progress.request) == More::Nothing {
            return Ok(());
        }
        let connection = &mut self.connections[number];
        // A request is far smaller than a socket's buffer, which is empty.
        let written = connection.stream.write(&progress.request)?;
        ensure!(
            written == progress.request.len(),
            "a request was sent in part only"
        );
        connection.asked_at = Some(due);
        progress.in_flight += 1;
        Ok(())
    }

    /// Reads what has come on a connection; after a whole reply the connection goes on.
    fn read(
        &mut self,
        progress: &mut Progress<'_, impl Work>,
        number: usize,
    ) -> anyhow::Result<()> {
        loop {
            let connection = &mut self.connections[number];
            let length = match connection.stream.read(&mut self.buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            let read = &self.buffer[..length];
            let is_all = connection.partial.is_empty();
            if !is_all {
                connection.partial.extend_from_slice(read);
            }
            let bytes = if is_all { read } else { &connection.partial };
            let Some(reply) = wire::reply(bytes)? else {
                if is_all {
                    connection.partial.extend_from_slice(read);
                }
                continue;
            };
            ensure!(
                reply.length == bytes.len(),
                "the server sent more than a reply"
            );
            let asked_at = connection.asked_at.take();
            let answer = Answer {
                status: reply.status,
                body: reply.body,
                took: now.duration_since(asked_at.context("a reply to no request")?),
            };
            progress.work.done(number, answer)?;
            connection.partial.clear();
            progress.in_flight -= 1;
            if let Some(schedule) = &mut progress.schedule {
                schedule.idle.push(number);
            } else if progress.until.is_none_or(|until| now < until) {
                self.ask(progress, number, now)?;
            }
            // One reply is all that can have come, so the socket is empty: a short read says so to
            // epoll, and another one is spared.
            return Ok(());
        }
    }
}

impl Schedule {
    /// When the next call is due, if one is left.
    fn due(&self) -> Option<Instant> {
        (self.made < self.total).then(|| {
            let nanos = self.made * 1_000_000_000 / u64::from(self.per_second);
            self.begin + Duration::from_nanos(nanos)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead, net::TcpListener};

    use super::*;

    /// Answers every request after some time, in the order in which they come.
    fn serve(each_takes: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
                    while let Some(Ok(line)) = lines.next() {
                        if line.is_empty() {
                            std::thread::sleep(each_takes);
                            // In two parts, as a network may deliver it.
                            stream.write_all(b"HTTP/1.1 200 OK\r\nconte").unwrap();
                            stream.write_all(b"nt-length: 2\r\n\r\nok").unwrap();
                        }
                    }
                });
            }
        });
        address
    }

    #[derive(Default)]
    struct Counted {
        left: usize,
        took: Vec<Duration>,
    }

    impl Work for Counted {
        fn next(&mut self, _: usize, request: &mut Vec<u8>) -> More {
            if self.left == 0 {
                return More::Nothing;
            }
            self.left -= 1;
            wire::write_request(request, "GET", "/", "token");
            More::Request
        }

        fn done(&mut self, _: usize, answer: Answer<'_>) -> anyhow::Result<()> {
            assert_eq!((answer.status, answer.body), (200, &b"ok"[..]));
            self.took.push(answer.took);
            Ok(())
        }
    }

    #[test]
    fn a_closed_loop_makes_every_call_once() {
        let mut callers = Callers::connect(serve(Duration::ZERO), 3).unwrap();
        for calls in [100, 1] {
            let mut work = Counted {
                left: calls,
                ..Counted::default()
            };
            callers.run(&mut work, Pace::Closed(None)).unwrap();
            assert_eq!((work.left, work.took.len()), (0, calls));
        }
    }

    #[test]
    fn an_open_loop_counts_the_wait_for_a_slow_server() {
        let mut callers = Callers::connect(serve(Duration::from_millis(10)), 1).unwrap();
        let mut work = Counted {
            left: usize::MAX,
            ..Counted::default()
        };
        let pace = Pace::Open {
            per_second: 1_000,
            during: Duration::from_millis(50),
        };
        callers.run(&mut work, pace).unwrap();
        // The last of 50 was due after 49 ms, and its turn came after 49 others of 10 ms each.
        assert_eq!(work.took.len(), 50);
        assert!(*work.took.last().unwrap() >= Duration::from_millis(450));
    }
}

//! Many watchers on one thread and one epoll. Whatever arrives is stamped right after the read that
//! fetched it, before anything is parsed, and only two numbers of it are kept: the load generator shares
//! the processors with the server, and would otherwise measure itself.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use mio::{Events, Interest, Poll, Token, event::Event, net::TcpStream};
use socket2::{Domain, Socket, Type};

use crate::{
    clock::wall_micros,
    hiccup,
    wire::{self, Frame},
};

/// How many watchers share an address of this machine's: fewer than a server lets one have by default.
const WATCHERS_PER_ADDRESS: usize = 100;
/// The first of these addresses.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// How many events one look at the sockets fetches.
const EVENTS_AT_ONCE: usize = 1_024;
/// Far more than one message.
const BUFFER_BYTES: usize = 16 * 1_024;
/// How often one watcher may be refused or cut off while it connects.
const FAILURES_MAX: u32 = 20;
/// The receive buffer of a watcher that will read nothing; the system doubles it and has a minimum.
const SMALL_BUFFER_BYTES: usize = 2_048;

/// What arrived: a balance after so much was consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, in microseconds since 1970.
    pub at_micros: i64,
    /// What the session had cost by then.
    pub consumed: i64,
    /// Whether it was the first on its connection, which nobody had to wait for.
    pub is_first: bool,
}

/// The session as the first balance showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When the session started, in milliseconds since 1970.
    pub started_at: i64,
    /// What it had cost.
    pub consumed: i64,
    /// What the wallet held.
    pub credits: i64,
    /// When the interval in progress ends, in milliseconds since 1970.
    pub next_charge_at: i64,
    /// The interval, in milliseconds.
    pub interval_ms: i64,
    /// The price of an interval.
    pub price: i64,
}

#[cfg(test)]
impl Snapshot {
    /// Started at 10 s, down for 0.5 s, 1 s and 2 credits an interval, watched after the second fall.
    pub const EXAMPLE: Self = Self {
        started_at: 10_000,
        consumed: 4,
        credits: 96,
        next_charge_at: 13_500,
        interval_ms: 1_000,
        price: 2,
    };
}

/// What one watcher saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// The session, once a balance has come.
    pub snapshot: Option<Snapshot>,
    /// The balances that came.
    pub arrivals: Vec<Arrival>,
    /// How many events came, which is every message but a balance.
    pub events: u64,
    /// The codes that its connections were closed with by the server, and when; 1006 for none.
    pub closes: Vec<(u16, i64)>,
}

/// How opening went.
#[derive(Debug)]
pub struct Opened {
    /// How long it took until all had a balance.
    pub took: Duration,
    /// How long each took, in microseconds.
    pub each: hdrhistogram::Histogram<u64>,
    /// What went wrong and was tried again, and how often.
    pub failures: BTreeMap<String, u64>,
}

/// The watchers.
pub struct Fleet<'t> {
    server: SocketAddr,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    watchers: Vec<Watcher<'t>>,
    opening: Option<OpeningRound>,
}

struct Watcher<'t> {
    token: &'t str,
    /// Whether it asks for a receive buffer that is soon full.
    is_small: bool,
    stream: Option<TcpStream>,
    state: State,
    /// What has come of the next message.
    partial: Vec<u8>,
    failures: u32,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Connecting(Instant),
    Upgrading(Instant),
    /// Open, but no balance has come yet.
    Greeting(Instant),
    Open,
}

/// A round of opening in progress.
struct OpeningRound {
    waiting: VecDeque<usize>,
    in_progress: usize,
    at_once: usize,
    each: hdrhistogram::Histogram<u64>,
    failures: BTreeMap<String, u64>,
}

/// What one read told.
enum Outcome {
    Nothing,
    Greeted(Instant),
    Ended(u16),
}

impl<'t> Fleet<'t> {
    /// Watchers for these tokens' users, none of them connected. Each expects about so many balances.
    pub fn new(
        server: SocketAddr,
        tokens: impl Iterator<Item = &'t str>,
        balances: usize,
    ) -> anyhow::Result<Self> {
        let watcher = |token| Watcher {
            token,
            is_small: false,
            stream: None,
            state: State::Closed,
            partial: Vec::new(),
            failures: 0,
            seen: Seen {
                arrivals: Vec::with_capacity(balances),
                ..Seen::default()
            },
        };
        Ok(Self {
            server,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_AT_ONCE),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            watchers: tokens.map(watcher).collect(),
            opening: None,
        })
    }

    /// Gives every `nth` watcher a small receive buffer, as one that will read nothing.
    pub fn make_small(&mut self, nth: usize) {
        for watcher in self.watchers.iter_mut().step_by(nth.max(1)) {
            watcher.is_small = true;
        }
    }

    /// Connects all that are not connected, so many at once, and returns when each has its balance.
    pub fn open(&mut self, at_once: usize, patience: Duration) -> anyhow::Result<Opened> {
        let begin = Instant::now();
        let closed = |(number, watcher): (usize, &Watcher<'_>)| {
            (watcher.state == State::Closed).then_some(number)
        };
        self.opening = Some(OpeningRound {
            waiting: self
                .watchers
                .iter()
                .enumerate()
                .filter_map(closed)
                .collect(),
            in_progress: 0,
            at_once,
            each: hiccup::new_histogram(),
            failures: BTreeMap::new(),
        });
        loop {
            self.start_connecting()?;
            match &self.opening {
                Some(round) if round.in_progress > 0 || !round.waiting.is_empty() => {}
                _ => break,
            }
            if begin.elapsed() > patience {
                let failures = self.opening.take().map(|round| round.failures);
                bail!("the watchers did not get their balances within {patience:?}: {failures:?}");
            }
            self.turn(Duration::from_millis(100))?;
        }
        let round = self.opening.take().context("no round of opening")?;
        Ok(Opened {
            took: begin.elapsed(),
            each: round.each,
            failures: round.failures,
        })
    }

    /// Reads until then.
    pub fn read_until(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left)?;
        }
    }

    /// Reads until the server has closed every connection, or for so long.
    pub fn read_until_closed(&mut self, patience: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        while self.connected() > 0 && Instant::now() < end {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// How many watchers are connected.
    pub fn connected(&self) -> usize {
        let is_connected = |watcher: &&Watcher<'_>| watcher.stream.is_some();
        self.watchers.iter().filter(is_connected).count()
    }

    /// Closes every connection at once, without a word.
    pub fn cut(&mut self) {
        for watcher in &mut self.watchers {
            watcher.disconnect();
        }
    }

    /// Stops to read what comes to the watchers with small buffers. They stay connected.
    pub fn stop_reading_small(&mut self) -> anyhow::Result<()> {
        for watcher in self.watchers.iter_mut().filter(|it| it.is_small) {
            if let Some(stream) = &mut watcher.stream {
                self.poll.registry().deregister(stream)?;
            }
        }
        Ok(())
    }

    /// What each of them saw, and whether it has a small buffer.
    pub fn seen(&self) -> impl Iterator<Item = (&Seen, bool)> {
        self.watchers.iter().map(|it| (&it.seen, it.is_small))
    }

    /// Starts to connect as many of the waiting as there may be in progress.
    fn start_connecting(&mut self) -> anyhow::Result<()> {
        while let Some(round) = &mut self.opening {
            if round.in_progress >= round.at_once {
                break;
            }
            let Some(number) = round.waiting.pop_front() else {
                break;
            };
            round.in_progress += 1;
            let watcher = &mut self.watchers[number];
            let mut stream = watcher
                .dial(self.server, number)
                .context("can't open a socket")?;
            let interests = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut stream, Token(number), interests)?;
            watcher.stream = Some(stream);
            watcher.state = State::Connecting(Instant::now());
        }
        Ok(())
    }

    /// Looks at the sockets once and reads what has come.
    fn turn(&mut self, timeout: Duration) -> anyhow::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let mut needs_more = false;
        for event in &self.events {
            let number = event.token().0;
            let watcher = &mut self.watchers[number];
            match watcher.take(event, &mut self.buffer, &self.poll) {
                Ok(Outcome::Nothing) => {}
                Ok(Outcome::Greeted(since)) => {
                    if let Some(round) = &mut self.opening {
                        let micros = u64::try_from(since.elapsed().as_micros())?;
                        round.each.saturating_record(micros);
                        round.in_progress -= 1;
                        needs_more = true;
                    }
                }
                Ok(Outcome::Ended(code)) if watcher.state == State::Open => {
                    watcher.seen.closes.push((code, wall_micros()));
                    watcher.disconnect();
                }
                ended => {
                    let why = match ended {
                        Err(error) => format!("{error:#}"),
                        Ok(_) => "closed before the first balance".to_owned(),
                    };
                    watcher.disconnect();
                    watcher.failures += 1;
                    if watcher.failures > FAILURES_MAX {
                        bail!("a watcher failed {FAILURES_MAX} times: {why}");
                    }
                    let Some(round) = &mut self.opening else {
                        bail!("a watcher failed: {why}");
                    };
                    *round.failures.entry(why).or_insert(0) += 1;
                    round.in_progress -= 1;
                    round.waiting.push_back(number);
                    needs_more = true;
                }
            }
        }
        if needs_more {
            self.start_connecting()?;
        }
        Ok(())
    }
}

impl Watcher<'_> {
    /// Begins to connect from one of this machine's addresses.
    fn dial(&self, server: SocketAddr, number: usize) -> anyhow::Result<TcpStream> {
        let block = u32::try_from(number / WATCHERS_PER_ADDRESS)?;
        let from = SocketAddr::from((Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + block), 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if self.is_small {
            socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&from.into())?;
        let in_progress = rustix::io::Errno::INPROGRESS.raw_os_error();
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() != Some(in_progress) => Err(error.into()),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    fn disconnect(&mut self) {
        self.stream = None;
        self.state = State::Closed;
        self.partial.clear();
    }

    /// Does what the event calls for.
    fn take(&mut self, event: &Event, buffer: &mut [u8], poll: &Poll) -> anyhow::Result<Outcome> {
        // An event of before it was disconnected.
        let Some(stream) = &mut self.stream else {
            return Ok(Outcome::Nothing);
        };
        if let State::Connecting(since) = self.state {
            if let Some(error) = stream.take_error()? {
                return Err(error.into());
            }
            if !event.is_writable() {
                return Ok(Outcome::Nothing);
            }
            let request = wire::handshake("/ws", self.token);
            stream.write_all(request.as_bytes())?;
            poll.registry()
                .reregister(stream, event.token(), Interest::READABLE)?;
            self.state = State::Upgrading(since);
            return Ok(Outcome::Nothing);
        }
        self.read(buffer)
    }

    /// Reads until the socket is empty, which a short read tells.
    fn read(&mut self, buffer: &mut [u8]) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::Nothing;
        loop {
            let Some(stream) = &mut self.stream else {
                return Ok(outcome);
            };
            let length = match stream.read(buffer) {
                Ok(0) => return Ok(Outcome::Ended(1006)),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(outcome),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Ok(Outcome::Ended(1006));
                }
                Err(error) => return Err(error.into()),
            };
            let at_micros = wall_micros();
            let told = if self.partial.is_empty() {
                self.parse(&buffer[..length], at_micros)?
            } else {
                let mut bytes = std::mem::take(&mut self.partial);
                bytes.extend_from_slice(&buffer[..length]);
                self.parse(&bytes, at_micros)?
            };
            match told {
                Outcome::Nothing => {}
                Outcome::Greeted(_) => outcome = told,
                Outcome::Ended(_) => return Ok(told),
            }
            if length < buffer.len() {
                return Ok(outcome);
            }
        }
    }

    /// Takes all whole messages, and keeps the rest.
    fn parse(&mut self, mut bytes: &[u8], at_micros: i64) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::Nothing;
        if let State::Upgrading(since) = self.state {
            let Some(reply) = wire::reply(bytes)? else {
                self.partial.extend_from_slice(bytes);
                return Ok(outcome);
            };
            if reply.status != 101 || !wire::is_accepted(&bytes[..reply.length]) {
                let body = String::from_utf8_lossy(reply.body);
                bail!("the handshake gave {}: {body}", reply.status);
            }
            bytes = &bytes[reply.length..];
            self.state = State::Greeting(since);
        }
        while let Some((frame, length)) = wire::frame(bytes)? {
            match frame {
                Frame::Text(text) => {
                    if let Some(since) = self.take_message(text, at_micros)? {
                        outcome = Outcome::Greeted(since);
                    }
                }
                Frame::Ping(payload) => {
                    let mut pong = Vec::with_capacity(16);
                    wire::write_pong(&mut pong, payload);
                    if let Some(stream) = &mut self.stream {
                        stream.write_all(&pong)?;
                    }
                }
                Frame::Pong => {}
                Frame::Close(code) => return Ok(Outcome::Ended(code)),
            }
            bytes = &bytes[length..];
        }
        self.partial.extend_from_slice(bytes);
        Ok(outcome)
    }

    /// Notes a message; with the first balance of a connection, returns since when it was awaited.
    fn take_message(&mut self, text: &[u8], at_micros: i64) -> anyhow::Result<Option<Instant>> {
        if !text.starts_with(b"{\"type\":\"credit_update\"") {
            self.seen.events += 1;
            return Ok(None);
        }
        let Some(consumed) = wire::field(text, "\"consumed\":") else {
            // A balance without a session has no schedule.
            self.seen.events += 1;
            return Ok(self.greeted());
        };
        if self.seen.snapshot.is_none() {
            let snapshot = snapshot_of(text, consumed);
            self.seen.snapshot = Some(snapshot.context("a balance lacks a field")?);
        }
        let greeted = self.greeted();
        self.seen.arrivals.push(Arrival {
            at_micros,
            consumed,
            is_first: greeted.is_some(),
        });
        Ok(greeted)
    }

    /// Since when the connection has waited for its first balance, if this is it.
    fn greeted(&mut self) -> Option<Instant> {
        let State::Greeting(since) = self.state else {
            return None;
        };
        self.state = State::Open;
        Some(since)
    }
}

fn snapshot_of(text: &[u8], consumed: i64) -> Option<Snapshot> {
    Some(Snapshot {
        started_at: wire::field(text, "\"startedAt\":")?,
        consumed,
        credits: wire::field(text, "\"credits\":")?,
        next_charge_at: wire::field(text, "\"nextChargeAt\":")?,
        interval_ms: wire::field(text, "\"intervalMs\":")?,
        price: wire::field(text, "\"creditsPerInterval\":")?,
    })
}

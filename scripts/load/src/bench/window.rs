//! A stretch of time in which something is measured, with what the machine did meanwhile: whose the
//! processors' time was, and how late an idle sleeper woke.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::{
    clock::wall_micros,
    hiccup,
    process::{ProcessId, busy_time},
};

/// A window that is open.
pub struct Window {
    server: ProcessId,
    begin: Times,
    hiccups: hiccup::Meter,
    /// When it was opened, in microseconds since 1970.
    pub from_micros: i64,
}

/// What a window saw.
#[derive(Debug)]
pub struct WindowSeen {
    /// When it was opened and closed, in microseconds since 1970.
    pub from_micros: i64,
    /// When it was closed.
    pub to_micros: i64,
    /// Its length.
    pub length: Duration,
    /// The processors' time that the server took.
    pub server: Duration,
    /// That the load generator took, with its hiccup meter.
    pub own: Duration,
    /// That everything else on the machine took: databases, and what is none of our business.
    pub others: Duration,
    /// How late an idle sleeper woke, in microseconds.
    pub hiccups: Histogram<u64>,
}

/// Readings of one instant.
struct Times {
    at: Instant,
    server: Duration,
    own: Duration,
    busy: Duration,
}

impl Window {
    /// Opens one.
    pub fn open(server: ProcessId) -> anyhow::Result<Self> {
        let hiccups = hiccup::Meter::start();
        Ok(Self {
            server,
            begin: Times::read(server)?,
            hiccups,
            from_micros: wall_micros(),
        })
    }

    /// Closes it.
    pub fn close(self) -> anyhow::Result<WindowSeen> {
        let to_micros = wall_micros();
        let end = Times::read(self.server)?;
        let server = end.server.saturating_sub(self.begin.server);
        let own = end.own.saturating_sub(self.begin.own);
        let busy = end.busy.saturating_sub(self.begin.busy);
        Ok(WindowSeen {
            from_micros: self.from_micros,
            to_micros,
            length: end.at.duration_since(self.begin.at),
            server,
            own,
            others: busy.saturating_sub(server + own),
            hiccups: self.hiccups.end()?,
        })
    }
}

impl WindowSeen {
    /// A time as a percentage of one processor in this window.
    pub fn percent(&self, time: Duration) -> f64 {
        100.0 * time.as_secs_f64() / self.length.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// So many things in this window as a rate a second.
    pub fn per_second(&self, count: u64) -> f64 {
        super::figures::number(count) / self.length.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Times {
    fn read(server: ProcessId) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: server.processor_time()?,
            own: ProcessId::own().processor_time()?,
            busy: busy_time()?,
        })
    }
}

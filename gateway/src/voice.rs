//! How the program speaks of itself as a whole: where it serves, and why it doesn't.
//!
//! With `log.format = "json"` every line of a server is an object, these too, and whatever the level of
//! the log: programs read them. The other commands are used by people as well: on a terminal they say in
//! words what went wrong.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, stderr},
    panic::PanicHookInfo,
};

use crate::{
    log,
    settings::{LogFormat, LogSettings},
};

/// The target of what the program says of itself. It is in the log whatever its level.
pub const TARGET: &str = "minute_credit";

/// How the program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice(LogFormat);

/// Who listens to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Whoever reads the log of a server.
    Log,
    /// Whoever started it: a person on a terminal, or else as with a log.
    Caller,
}

impl Voice {
    /// The voice of a command with this listener, where the log has this form.
    pub fn new(format: LogFormat, listener: Listener) -> Self {
        match listener {
            Listener::Caller if stderr().is_terminal() => Self(LogFormat::Human),
            Listener::Caller | Listener::Log => Self(format),
        }
    }

    /// Whether it is programs that listen.
    pub fn is_for_programs(self) -> bool {
        self.0 == LogFormat::Json
    }

    /// Says something good.
    pub fn say(self, text: &str) {
        match self.0 {
            LogFormat::Human => eprintln!("{text}"),
            LogFormat::Json => tracing::info!(target: TARGET, "{text}"),
        }
    }

    /// Says what went wrong. The log may not have been started yet.
    pub fn complain(self, text: &str) {
        match self.0 {
            LogFormat::Human => eprintln!("error: {text}"),
            LogFormat::Json => {
                let settings = LogSettings {
                    format: LogFormat::Json,
                    level: "info".to_owned(),
                };
                log::start(&settings, None);
                tracing::error!(target: TARGET, "{text}");
            }
        }
    }
}

/// Has panics told as lines of the log from now on, in place of the runtime's own words.
pub fn log_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // RUST_BACKTRACE says whether there is to be one.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(target: TARGET, location, thread, backtrace, "panicked: {message}");
}

//! Wall clocks that are wrong: of the servers, and of the operators' commands. They are set wrong for real,
//! by libfaketime.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context;
use rand::{RngExt, rngs::StdRng};

/// How far a server's clock is off at most, in seconds. What one server has recorded may so be 22 h ahead
/// of the next one's clock: by more than 24 h none starts.
const SERVER_OFF_MAX_S: i64 = 11 * 3_600;
/// How far the clock of a command is off at most, in seconds: a year.
const COMMAND_OFF_MAX_S: i64 = 365 * 24 * 3_600;

/// Where Debian keeps libraries.
const LIBRARIES: &str = "/usr/lib";

/// Sets clocks wrong, by chance.
#[derive(Debug)]
pub struct Clocks {
    library: PathBuf,
    random: StdRng,
}

impl Clocks {
    /// Clocks that are as wrong as `random` says. An error if faketime is not installed.
    pub fn new(random: StdRng) -> anyhow::Result<Self> {
        let machines = fs::read_dir(LIBRARIES).context("there are no libraries")?;
        let mut places = machines.filter_map(|machine| {
            let path = machine.ok()?.path().join("faketime/libfaketime.so.1");
            path.exists().then_some(path)
        });
        let library = places
            .next()
            .context("--clocks skewed needs the package faketime: scripts/packages faketime")?;
        Ok(Self { library, random })
    }

    /// Sets the clock of a server that is to be started. Returns by how many seconds.
    pub fn skew_server(&mut self, command: &mut Command) -> i64 {
        self.skew(command, SERVER_OFF_MAX_S)
    }

    /// Sets the clock of an operator's command. Returns by how many seconds.
    pub fn skew_command(&mut self, command: &mut Command) -> i64 {
        self.skew(command, COMMAND_OFF_MAX_S)
    }

    /// Now and then the clock is right; else it is off by seconds as often as by hours, or days.
    fn skew(&mut self, command: &mut Command, off_max_s: i64) -> i64 {
        let digits = self.random.random_range(0..=7);
        let magnitude = 10_i64.pow(digits).min(off_max_s);
        let off_s = self.random.random_range(-magnitude..=magnitude);
        let off_s = if self.random.random_ratio(1, 6) {
            0
        } else {
            off_s
        };
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME", format!("{off_s:+}"))
            // Time goes on as it does, and only the wall clock is wrong.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DISABLE_SHM", "1");
        off_s
    }
}

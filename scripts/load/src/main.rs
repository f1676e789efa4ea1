//! Load generator: acts as many users at once against a running server, and scores what it sees
//! against the schedule that the contract promises.
//!
//! Make the users first, with `minute-credit fixture --users N --credits C --tokens FILE`.

mod bench;

mod attack;
mod attackers;
mod calls;
mod clock;
mod control;
mod fleet;
mod for_all;
mod hiccup;
mod metrics;
mod oracle;
mod process;
mod schedule;
mod sessions;
mod users;
mod watch;
mod wire;

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};

use users::Users;

/// Drives a running Minute-Credit server and measures it.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure servers of our own that are started for it: the benchmarks of scripts/bench.
    ///
    /// Prints a table. Exits with 1 if an update is missing or doubled, a charge drifts, or an audit is
    /// not clean.
    Bench(bench::BenchArguments),
    /// Start a session for every user, watch all of them over websockets, then stop them all.
    ///
    /// Every fall of every balance is due at the session's start plus a whole number of intervals;
    /// how late each arrives is reported beside the machine's own hiccups, and every stop is checked.
    /// Exits with 1 if an update is missing or doubled, or a stop does not add up.
    Watch(watch::WatchArguments),
    /// Watch every user's session while one attack after the other runs beside it.
    ///
    /// Prints how late balances come beside each attack and in quiet, and what the server refused.
    /// Exits with 1 if an update is missing or a stop does not add up. The server must let us see its
    /// /metrics.
    Attack(attack::AttackArguments),
    /// Attack a running server of yours for some time.
    Attacker(attackers::AttackerArguments),
    /// Start a session for every user, and leave them live.
    Start(Target),
    /// Stop every user's session.
    Stop(Target),
}

/// What all commands take.
#[derive(clap::Args)]
struct Target {
    /// Where the server is.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "HOST:PORT")]
    server: String,
    /// A file of bearer tokens, one a line.
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
}

impl Target {
    /// The users of the tokens in the file.
    fn users(&self) -> anyhow::Result<Users> {
        let users = Users::read(&self.tokens)?;
        ensure!(users.len() > 0, "no tokens in {}", self.tokens.display());
        Ok(users)
    }

    /// The server's address.
    fn address(&self) -> anyhow::Result<SocketAddr> {
        let mut addresses = (self.server.as_str())
            .to_socket_addrs()
            .with_context(|| format!("{} is no HOST:PORT", self.server))?;
        let address = addresses.find(SocketAddr::is_ipv4);
        address.with_context(|| format!("{} has no IPv4 address", self.server))
    }
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Arguments::parse().command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Attack(arguments) => attack::run(&arguments),
        Command::Attacker(arguments) => attackers::run(&arguments),
        Command::Start(target) => sessions::start(&target),
        Command::Stop(target) => sessions::stop(&target),
    }
}

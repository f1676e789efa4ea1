//! What can be asked of a run.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Where the server keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// An SQLite file in a folder of the run.
    Sqlite,
    /// The Postgres and, if it is set, the Redis that `DATABASE_URL` and `REDIS_URL` name. All that is
    /// in the database is audited.
    Postgres,
}

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Faults {
    /// It is killed, told to end, taken over from, suspended.
    Kill,
    /// Its connections to Postgres and Redis are cut, delayed and swallowed.
    Cut,
    /// Its disk is full, with SQLite.
    DiskFull,
    /// All that the store can suffer.
    All,
}

/// Which wall clocks the servers and the operators' commands run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WallClocks {
    /// This machine's.
    Right,
    /// Each has one of its own, which is seconds, hours or days ahead or behind.
    Skewed,
}

/// Crashes a Minute-Credit server again and again under load, and accounts for every operation.
///
/// Users start, stop and watch sessions over HTTP and websockets, and an operator changes wallets by
/// the command line, while the server is killed at random instants. Whatever has no answer is sent
/// again under the same key, or given up. After the last round every operation is held against what
/// the server's API shows, `minute-credit verify` audits the database, and each charge is held
/// against this program's own clock. Exit 1, and every violation with its evidence, if anything is
/// wrong.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Options {
    /// The server's program
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/debug/minute-credit"
    )]
    pub program: PathBuf,
    /// How many rounds; each ends with a fault
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub rounds: u32,
    /// Where the data is
    #[arg(long, value_enum, default_value_t = Store::Sqlite)]
    pub store: Store,
    /// What is done to the server
    #[arg(long, value_enum, default_value_t = Faults::Kill)]
    pub faults: Faults,
    /// By which wall clocks the servers and the operators' commands run
    #[arg(long, value_enum, default_value_t = WallClocks::Right)]
    pub clocks: WallClocks,
    /// Replays the decisions of an earlier run, as far as timing allows; without it they are new
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How many users
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub users: usize,
    /// How long a round lasts on average before its fault, in milliseconds
    #[arg(long, default_value_t = 700, value_name = "MS")]
    pub round_ms: u64,
    /// In one of how many rounds the server is suspended for more than ten seconds; 0: never
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub suspend_every: u32,
    /// After how many rounds the whole database is audited while the server runs; 0: only in the end
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub verify_every: u32,
    /// The interval of the tariff, in milliseconds
    #[arg(long, default_value_t = 250, value_name = "MS")]
    pub interval_ms: u32,
    /// Where the log and the history go; without it to a temporary folder, which is kept if anything
    /// is wrong
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

//! The command line: reads settings, then runs one command.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or settings. A failure is one line on standard error.

mod backup;
mod credits;
mod fixture;
mod healthcheck;
mod key;
mod migrate;
mod restored;
mod serve;
mod service_manager;
mod user;
mod verify;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Parser, Subcommand};
use engine::{
    Clock,
    store::{self, Store, StoreLocation},
};

use crate::{cause::chain, log, server::ServerError, settings::Settings, telemetry::Telemetry};

/// A real-time billing engine: wallets of whole credits, and sessions that cost credits by time.
#[derive(Parser)]
#[command(
    name = "minute-credit",
    version,
    propagate_version = true,
    after_help = "\
Settings come from config/default.toml (compiled in), then --config FILE, then the environment:
MINUTE_CREDIT__SECTION__KEY, and PORT, DATA_DIR, DATABASE_URL, REDIS_URL.

Examples:
  minute-credit serve
  PORT=9000 DATABASE_URL=postgres://me@localhost/credit minute-credit serve
  minute-credit credits grant ada@example.com 500 --reason 'support case 17'
  minute-credit verify"
)]
struct Cli {
    /// A TOML file with settings that differ from the defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API, the websockets and the page until SIGTERM or ctrl-c
    Serve,
    /// Bring the database's schema up to date; serve does that too
    Migrate,
    /// Audit the whole database: print every broken law, and exit 1 if there is one
    Verify(verify::Arguments),
    /// Copy the embedded database to a new file, also while a server runs
    Backup(backup::Arguments),
    /// After a backup was restored: skip ids that clients may know, and void all tokens
    Restored(restored::Arguments),
    /// Ask the server on this machine whether it is well; exit 0 if so, else 1
    Healthcheck(healthcheck::Arguments),
    /// Create users without passwords, with credits and tokens, for load tests
    Fixture(fixture::Arguments),
    /// Change the keys that tokens are made with, while the server runs
    #[command(subcommand)]
    Key(key::Command),
    /// List users, set a user's password, or erase a user
    #[command(subcommand)]
    User(user::Command),
    /// Show a wallet; give credits, take them back, or refund a session
    #[command(subcommand)]
    Credits(credits::Command),
}

/// Runs the command that the program was started with.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let settings = match Settings::load(cli.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("error: wrong settings: {}", chain(&error));
            return ExitCode::from(2);
        }
    };
    let telemetry = match Telemetry::start(&settings.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    log::start(&settings.log, telemetry.as_ref());
    let done = tokio::runtime::Runtime::new()
        .context("the runtime did not start")
        .and_then(|runtime| runtime.block_on(run_command(cli.command, settings)));
    if let Some(telemetry) = telemetry {
        telemetry.shut_down();
    }
    done.unwrap_or_else(|error| {
        eprintln!("error: {}", chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

async fn run_command(command: Command, settings: Settings) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve => serve::run(settings).await,
        Command::Migrate => migrate::run(&settings).await,
        Command::Verify(arguments) => verify::run(&settings, &arguments).await,
        Command::Backup(arguments) => backup::run(&settings, &arguments).await,
        Command::Restored(arguments) => restored::run(&settings, &arguments).await,
        Command::Healthcheck(arguments) => healthcheck::run(&settings, &arguments).await,
        Command::Fixture(arguments) => fixture::run(&settings, &arguments).await,
        Command::Key(command) => key::run(&settings, &command),
        Command::User(command) => user::run(&settings, command).await,
        Command::Credits(command) => credits::run(&settings, command).await,
    }
}

/// Opens the database and its clock.
async fn open(settings: &Settings) -> anyhow::Result<(Arc<dyn Store>, Clock)> {
    let failed = |source| ServerError::store(&settings.store.location, source);
    let store = store::open(&settings.store).await.map_err(failed)?;
    let recorded = store.node_time(&settings.engine.node).await;
    Ok((store, Clock::of_command(recorded.map_err(failed)?)?))
}

/// Opens the database, unless that would make an empty one.
async fn open_existing(settings: &Settings) -> anyhow::Result<(Arc<dyn Store>, Clock)> {
    require_existing(settings)?;
    open(settings).await
}

/// Fails if there is no database yet.
fn require_existing(settings: &Settings) -> anyhow::Result<()> {
    if let StoreLocation::Sqlite(path) = &settings.store.location
        && !path.exists()
    {
        anyhow::bail!(
            "there is no database at {}: set DATA_DIR or DATABASE_URL, or make one with minute-credit migrate",
            path.display()
        );
    }
    Ok(())
}

//! The command line: reads settings, then runs one command.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or settings. A failure is one line on standard error, in
//! the form of the log (see `voice`).

mod backup;
mod credits;
mod fixture;
mod healthcheck;
mod key;
mod migrate;
mod restored;
mod serve;
mod service_manager;
mod session;
mod user;
mod verify;
mod words;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Parser, Subcommand};
use engine::{
    Clock,
    store::{self, Store, StoreLocation, UserRecord},
};
use schema::UserId;

use crate::{
    cause::chain,
    emails, log,
    server::ServerError,
    settings::{self, Options, Settings},
    telemetry::Telemetry,
    voice::{Listener, Voice},
};

/// A real-time billing engine: wallets of whole credits, and sessions that cost credits by time.
#[derive(Parser)]
#[command(
    name = "minute-credit",
    version,
    propagate_version = true,
    after_help = "\
Settings come from config/default.toml (compiled in), then --config FILE, then the environment:
MINUTE_CREDIT__SECTION__KEY, and PORT, DATA_DIR, DATABASE_URL, REDIS_URL.

Exit codes: 0 done; 1 failed, or something is wrong that was looked for; 2 wrong usage or settings.

Examples:
  minute-credit serve
  minute-credit serve --host 0.0.0.0 --port 9000
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
    Serve(serve::Arguments),
    /// Bring the database's schema up to date; serve does that too
    #[command(after_help = "\
It makes the database if there is none.

Examples:
  minute-credit migrate
  DATABASE_URL=postgres://me@localhost/credit minute-credit migrate")]
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
    /// List or create users, set a user's password, or erase a user
    #[command(subcommand)]
    User(user::Command),
    /// List live sessions, or end a user's
    #[command(subcommand)]
    Session(session::Command),
    /// Show a wallet; give credits, take them back, or refund a session
    #[command(subcommand)]
    Credits(credits::Command),
}

/// Runs the command that the program was started with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let (listener, options) = match &cli.command {
        Command::Serve(arguments) => (Listener::Log, arguments.options()),
        _ => (Listener::Caller, Options::default()),
    };
    let settings = match Settings::load(cli.config.as_deref(), &options) {
        Ok(settings) => settings,
        Err(error) => {
            let format = settings::log_format_before(cli.config.as_deref());
            Voice::new(format, listener).complain(&format!("wrong settings: {}", chain(&error)));
            return ExitCode::from(2);
        }
    };
    let voice = Voice::new(settings.log.format, listener);
    let failed = |error: &(dyn std::error::Error + 'static)| {
        voice.complain(&chain(error));
        ExitCode::FAILURE
    };
    let telemetry = match Telemetry::start(&settings.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => return failed(&error),
    };
    log::start(&settings.log, telemetry.as_ref());
    let done = tokio::runtime::Runtime::new()
        .context("the runtime did not start")
        .and_then(|runtime| runtime.block_on(run_command(cli.command, settings)));
    let code = done.unwrap_or_else(|error| failed(error.as_ref()));
    if let Some(telemetry) = telemetry {
        telemetry.shut_down();
    }
    code
}

/// Says what is wrong with the arguments, or what help there is.
fn refused(error: &clap::Error) -> ExitCode {
    let serves = std::env::args_os().any(|argument| argument == "serve");
    let listener = if serves {
        Listener::Log
    } else {
        Listener::Caller
    };
    let voice = Voice::new(settings::log_format_before(None), listener);
    if error.use_stderr() && voice.is_for_programs() {
        let text = error.to_string();
        let text = text.trim_start_matches("error: ");
        voice.complain(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    } else if error.print().is_err() {
        // Nobody reads what we say.
        return ExitCode::FAILURE;
    }
    if error.use_stderr() {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}

async fn run_command(command: Command, settings: Settings) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(_) => serve::run(settings).await,
        Command::Migrate => migrate::run(&settings).await,
        Command::Verify(arguments) => verify::run(&settings, &arguments).await,
        Command::Backup(arguments) => backup::run(&settings, &arguments).await,
        Command::Restored(arguments) => restored::run(&settings, &arguments).await,
        Command::Healthcheck(arguments) => healthcheck::run(&settings, &arguments).await,
        Command::Fixture(arguments) => fixture::run(&settings, &arguments).await,
        Command::Key(command) => key::run(&settings, &command),
        Command::User(command) => user::run(&settings, command).await,
        Command::Session(command) => session::run(&settings, command).await,
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
    let exists = store::exists(&settings.store).await;
    let exists = exists.map_err(|source| ServerError::store(&settings.store.location, source))?;
    anyhow::ensure!(
        exists,
        "there is nothing of Minute-Credit in the database: is DATABASE_URL right? minute-credit migrate makes one"
    );
    open(settings).await
}

/// The user that an operator names by email or id.
async fn find_user(store: &dyn Store, name: &str) -> anyhow::Result<UserRecord> {
    let read = || "the user could not be read";
    if let Ok(id) = name.parse::<i64>() {
        let id = UserId::new(id).with_context(|| format!("{name} is no user's id"))?;
        let user = store.user(id).await.with_context(read)?;
        return user.with_context(|| format!("there is no user {id}"));
    }
    let user = emails::find(store, name).await.with_context(read)?;
    user.with_context(|| format!("nobody has the email {name}"))
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Each command that does something, with the words that lead to it.
    fn leaves(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
        if command.get_subcommands().next().is_none() {
            return vec![(path.to_owned(), command.clone())];
        }
        command
            .get_subcommands()
            .flat_map(|sub| leaves(sub, &format!("{path} {}", sub.get_name())))
            .collect()
    }

    #[test]
    fn every_command_has_an_example_of_itself() {
        let cli = Cli::command();
        let leaves = leaves(&cli, "minute-credit");
        assert!(leaves.len() > 15, "{}", leaves.len());
        for (path, command) in leaves {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(
                help.contains("Example") && help.contains(&path),
                "{path}: {help}"
            );
        }
        Cli::command().debug_assert();
    }
}

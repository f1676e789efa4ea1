//! `minute-credit fixture`: users for load tests, with live sessions where that is asked for.

mod live;

use std::{
    fs::{self, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use engine::store::TokenGeneration;
use schema::{Credits, Millis};

use crate::{key_file, settings::Settings, tokens::Tokens};

/// How many users are created at a time.
const USERS_AT_ONCE: u32 = 1_000;

/// `--users N --credits C --tokens FILE`
#[derive(Args)]
#[command(after_help = "\
Examples:
  minute-credit fixture --users 1000 --credits 100 --tokens tokens.txt
  minute-credit fixture --users 1000 --credits 100 --tokens tokens.txt --live-spread-ms 6000")]
pub(super) struct Arguments {
    /// How many users to create
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,
    /// How many credits each of them gets
    #[arg(long, value_name = "C", value_parser = parse_credits)]
    credits: Credits,
    /// The file for their bearer tokens, one a line; an older one is replaced
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Give each of them a live session too; they start evenly over so many milliseconds, or with 0 all
    /// at one instant
    ///
    /// It is recorded as by a server under our node.name that is killed right after, so none may run
    /// under that name meanwhile. The next server goes on with the sessions.
    #[arg(long, value_name = "MS", value_parser = parse_millis)]
    live_spread_ms: Option<Millis>,
}

pub(super) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let tariff = settings.engine.tariff;
    anyhow::ensure!(
        arguments.live_spread_ms.is_none() || arguments.credits >= tariff.price(),
        "{} credits pay for no interval, which costs {}: no session could start",
        arguments.credits,
        tariff.price()
    );
    let tokens = Tokens::new(
        key_file::load(&settings.tokens.key)?,
        settings.tokens.lifetime,
    );
    let in_file = || format!("can't write {}", arguments.tokens.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&arguments.tokens);
    let file = file.with_context(in_file)?;
    // An older file keeps its mode unless it is set.
    fs::set_permissions(&arguments.tokens, fs::Permissions::from_mode(0o600))
        .with_context(in_file)?;
    let mut file = BufWriter::new(file);

    let (store, clock) = super::open(settings).await?;
    let run = match arguments.live_spread_ms {
        Some(_) => Some(live::begin(&*store, &settings.engine, &clock).await?),
        None => None,
    };
    let mut created = Vec::new();
    let mut left = arguments.users;
    while left > 0 {
        let count = left.min(USERS_AT_ONCE);
        let users = store
            .create_fixture_users(count, arguments.credits, clock.now())
            .await;
        for user in users.context("users could not be created")? {
            created.push(user);
            writeln!(
                file,
                "{}",
                tokens.issue(user, None, TokenGeneration::default(), clock.now())?
            )
            .with_context(in_file)?;
        }
        left -= count;
    }
    file.flush().with_context(in_file)?;
    let started = match run.zip(arguments.live_spread_ms) {
        Some((run, spread)) => {
            Some(live::start_all(&*store, &clock, &run, tariff, &created, spread).await?)
        }
        None => None,
    };
    store.close().await;
    println!(
        "created {} users with {} credits each; their tokens are in {}",
        arguments.users,
        arguments.credits,
        arguments.tokens.display()
    );
    if let Some(started) = started {
        println!(
            "each has a live session; the first started at {}, the last at {}",
            started.first, started.last
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_credits(text: &str) -> Result<Credits, String> {
    let credits = text.parse::<i64>().map_err(|error| error.to_string())?;
    Credits::new(credits).map_err(|error| error.to_string())
}

fn parse_millis(text: &str) -> Result<Millis, String> {
    let millis = text.parse::<i64>().map_err(|error| error.to_string())?;
    Millis::new(millis).map_err(|error| error.to_string())
}

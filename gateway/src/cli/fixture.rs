//! `minute-credit fixture`: users for load tests, with a past and live sessions where that is asked for.

mod history;
mod live;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use billing::WalletVersion;
use clap::Args;
use engine::{
    Clock,
    store::{
        Database, Store, TokenGeneration,
        fixture::{Filled, PastSize},
    },
};
use indicatif::{ProgressBar, ProgressStyle};
use schema::{Credits, Millis, UserId};
use tokio::sync::mpsc;

use self::history::Past;
use super::words;
use crate::{key_file, server::ServerError, settings::Settings, tokens::Tokens};

/// How many users are created at a time.
const USERS_AT_ONCE: u32 = 1_000;
/// How many batches of rows of a past wait for the database.
const BATCHES_AHEAD: usize = 2;

/// `--users N --credits C --tokens FILE`
#[derive(Args)]
#[command(after_help = "\
Examples:
  minute-credit fixture --users 1000 --credits 100 --tokens tokens.txt
  minute-credit fixture --users 1000 --credits 100 --tokens tokens.txt --live-spread-ms 6000
  minute-credit fixture --users 1000000 --history 5000000 --credits 100 --tokens tokens.txt")]
pub(super) struct Arguments {
    /// How many users to create
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,
    /// How many credits each of them gets
    #[arg(long, value_name = "C", value_parser = words::parse_credits)]
    credits: Credits,
    /// The file for their bearer tokens, one a line; an older one is replaced
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Give each of them a live session too; they start evenly over so many milliseconds, or with 0 all
    /// at one instant
    ///
    /// It is recorded as by a server under our node.name that is killed right after, so none may run
    /// under that name meanwhile. The next server goes on with the sessions.
    #[arg(long, value_name = "MS", value_parser = words::parse_millis)]
    live_spread_ms: Option<Millis>,
    /// Give them a past too: so many sessions over three years, ended in every way, with their ledger
    ///
    /// Only for a database that no server has run on, and with no other users than fixtures. All of it
    /// is written or nothing; indexes are built at the end, so nobody can use the database meanwhile.
    /// The sessions are of our node.name and our tariff.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    history: Option<u32>,
}

/// The new users, each with the version of the wallet.
type Created = Vec<(UserId, WalletVersion)>;

pub(super) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let tariff = settings.engine.tariff;
    anyhow::ensure!(
        arguments.live_spread_ms.is_none() || arguments.credits >= tariff.price(),
        "{} credits pay for no interval, which costs {}: no session could start",
        arguments.credits,
        tariff.price()
    );
    settings.make_data_dir()?;
    let tokens = Tokens::new(
        key_file::load(&settings.tokens.key)?,
        settings.tokens.lifetime,
    );
    let mut file = TokensFile::create(&arguments.tokens)?;
    let location = &settings.store.location;
    let failed = |source| ServerError::store(location, source);
    let database = Arc::new(Database::open(&settings.store).await.map_err(failed)?);
    let recorded = database.node_time(&settings.engine.node).await;
    let clock = Clock::of_command(recorded.map_err(failed)?)?;

    // A past comes before every run of the node, and the users of nobody's past may come after one.
    let past = match arguments.history {
        Some(sessions) => {
            Some(create_with_past(&database, settings, arguments, sessions, &clock).await?)
        }
        None => None,
    };
    let run = match arguments.live_spread_ms {
        Some(_) => Some(live::begin(&*database, &settings.engine, &clock).await?),
        None => None,
    };
    let created = match past {
        Some(created) => created,
        None => create(&*database, arguments, &clock).await?,
    };
    for (user, _) in &created {
        file.add(&tokens.issue(*user, None, TokenGeneration::default(), clock.now())?)?;
    }
    file.finish()?;
    let started = match run.zip(arguments.live_spread_ms) {
        Some((run, spread)) => {
            Some(live::start_all(&*database, &clock, &run, tariff, &created, spread).await?)
        }
        None => None,
    };
    database.close().await;
    println!(
        "created {} users with {} credits each; their tokens are in {}",
        arguments.users,
        arguments.credits,
        arguments.tokens.display()
    );
    if let Some(sessions) = arguments.history {
        println!("their past has {sessions} sessions");
    }
    if let Some(started) = started {
        println!(
            "each has a live session; the first started at {}, the last at {}",
            started.first, started.last
        );
    }
    Ok(ExitCode::SUCCESS)
}

// --- users ---

async fn create(
    store: &dyn Store,
    arguments: &Arguments,
    clock: &Clock,
) -> anyhow::Result<Created> {
    // A new wallet's one write is its grant.
    let version = WalletVersion::new(i64::from(!arguments.credits.is_zero()));
    let mut created = Created::new();
    let mut left = arguments.users;
    while left > 0 {
        let count = left.min(USERS_AT_ONCE);
        let users = store.create_fixture_users(count, arguments.credits, clock.now());
        let users = users.await.context("users could not be created")?;
        created.extend(users.into_iter().map(|user| (user, version)));
        left -= count;
    }
    Ok(created)
}

async fn create_with_past(
    database: &Database,
    settings: &Settings,
    arguments: &Arguments,
    sessions: u32,
    clock: &Clock,
) -> anyhow::Result<Created> {
    let (tariff, users) = (settings.engine.tariff, arguments.users);
    let credits = [settings.signup_credits, arguments.credits];
    let past = Past::new(users, sessions, tariff, credits, clock.now())?;
    let size = PastSize {
        node: settings.engine.node.clone(),
        tariff,
        runs: past.runs()?,
        users,
        sessions,
    };
    let progress = progress(sessions)?;
    let (sender, rows) = mpsc::channel(BATCHES_AHEAD);
    let sending = tokio::task::spawn_blocking({
        let progress = progress.clone();
        move || {
            let versions = past.send(&sender, |sent| progress.set_position(sent));
            progress.set_message("building indexes");
            versions
        }
    });
    let (filled, versions) = tokio::join!(database.fill(size, rows), sending);
    progress.finish_and_clear();
    // If the database failed, that is why nobody took the rest of the past.
    let ids = match filled.context("the past could not be written, and nothing of it was")? {
        Filled::Written(ids) => ids,
        Filled::Refused(why) => {
            return Err(anyhow::Error::new(why).context("--history wants an unused database"));
        }
    };
    let versions = versions.context("the past was broken off")??;
    ids.zip(versions)
        .map(|(id, version)| Ok((UserId::new(id)?, version)))
        .collect()
}

/// A progress bar for so many sessions. It draws itself on standard error, and only where that is a
/// terminal.
fn progress(sessions: u32) -> anyhow::Result<ProgressBar> {
    let template = "{bar:30} {pos}/{len} sessions, {per_sec} {msg} [{elapsed}, {eta} left]";
    let progress =
        ProgressBar::new(sessions.into()).with_style(ProgressStyle::with_template(template)?);
    progress.enable_steady_tick(Duration::from_millis(100));
    Ok(progress)
}

// --- tokens ---

/// The file that the tokens go into, readable for its owner only.
struct TokensFile<'p> {
    path: &'p PathBuf,
    file: BufWriter<File>,
}

impl<'p> TokensFile<'p> {
    fn create(path: &'p PathBuf) -> anyhow::Result<Self> {
        let in_file = || format!("can't write {}", path.display());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(in_file)?;
        // An older file keeps its mode unless it is set.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(in_file)?;
        Ok(Self {
            path,
            file: BufWriter::new(file),
        })
    }

    fn add(&mut self, token: &str) -> anyhow::Result<()> {
        let written = writeln!(self.file, "{token}");
        written.with_context(|| format!("can't write {}", self.path.display()))
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let flushed = self.file.flush();
        flushed.with_context(|| format!("can't write {}", self.path.display()))
    }
}

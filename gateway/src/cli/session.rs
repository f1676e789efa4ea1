//! `minute-credit session`: live sessions, from the command line.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use engine::store::Store;
use schema::{SessionId, UserId};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use super::credits::time;
use crate::settings::Settings;

/// How many sessions are read at a time.
const SESSIONS_AT_ONCE: u32 = 500;
/// How long a stop waits for a server to end the session.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether the session has ended.
const LOOKED_EVERY: Duration = Duration::from_millis(50);

/// `list` or `stop USER`
#[derive(Subcommand)]
pub(super) enum Command {
    /// List live sessions: id, user, start, node, separated by tabs, by user
    #[command(after_help = "\
Examples:
  minute-credit session list
  minute-credit session list --json")]
    List(List),
    /// End a user's live session, with the reason \"admin\"; the user may start another
    #[command(after_help = "\
The server that serves the session ends it, within a second; the user pays until then. Meanwhile the user
can start none. If the command is killed, that stays so: run it again.

Examples:
  minute-credit session stop ada@example.com
  minute-credit session stop 42")]
    Stop {
        /// The user's email, or id
        user: String,
    },
}

/// How to list.
#[derive(Args)]
pub(super) struct List {
    /// Print a JSON object for each, one a line, for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(arguments) => list(settings, &arguments).await,
        Command::Stop { user } => stop(settings, &user).await,
    }
}

async fn list(settings: &Settings, arguments: &List) -> anyhow::Result<ExitCode> {
    let (store, _) = super::open_existing(settings).await?;
    let mut after = None;
    loop {
        let sessions = store.live_sessions(after, SESSIONS_AT_ONCE).await;
        let sessions = sessions.context("sessions could not be read")?;
        let mut out = io::stdout().lock();
        for live in &sessions {
            let (id, user, node) = (live.session, live.user, live.node.as_str());
            if arguments.json {
                let line = serde_json::json!({
                    "sessionId": id, "userId": user, "startedAt": live.started_at, "node": node,
                });
                writeln!(out, "{line}")?;
            } else {
                writeln!(out, "{id}\t{user}\t{}\t{node}", time(live.started_at))?;
            }
        }
        match sessions.last() {
            Some(last) if sessions.len() == SESSIONS_AT_ONCE as usize => {
                after = Some((last.user, last.slot));
            }
            _ => break,
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn stop(settings: &Settings, user: &str) -> anyhow::Result<ExitCode> {
    let (store, clock) = super::open_existing(settings).await?;
    let store = store.as_ref();
    let user = super::find_user(store, user).await?.id;
    let live = live_of(store, user, clock.now()).await?;
    if live.is_empty() {
        // An earlier stop may have been killed before it let sessions start again.
        store.cancel_erasure(user, clock.now()).await?;
        anyhow::bail!("user {user} has no live session");
    }
    let begun = store.begin_erasure(user, clock.now()).await;
    let ended = match begun {
        Ok(_) => ended(store, user, &clock).await,
        Err(error) => Err(error.into()),
    };
    // Whatever became of it, the user may start sessions again.
    let allowed = store.cancel_erasure(user, clock.now()).await;
    allowed.with_context(|| {
        format!("user {user} can start no session: run minute-credit session stop {user} again")
    })?;
    ended?;
    for session in live {
        let record = store.session(user, session).await?;
        let record = record.with_context(|| format!("session {session} is gone"))?;
        println!(
            "session {session} of user {user} is stopped; it cost {} credits",
            record.credits_consumed
        );
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Waits until the user has no live session.
async fn ended(store: &dyn Store, user: UserId, clock: &engine::Clock) -> anyhow::Result<()> {
    let gives_up_at = Instant::now() + PATIENCE;
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    while !live_of(store, user, clock.now()).await?.is_empty() {
        anyhow::ensure!(
            Instant::now() < gives_up_at,
            "no server ended the session: start the server that serves it, and repeat"
        );
        tokio::select! {
            () = sleep(LOOKED_EVERY) => {}
            _ = interrupts.recv() => anyhow::bail!("interrupted; the session goes on if no server ended it"),
            _ = terminations.recv() => anyhow::bail!("interrupted; the session goes on if no server ended it"),
        }
    }
    Ok(())
}

/// The user's live sessions.
async fn live_of(
    store: &dyn Store,
    user: UserId,
    now: schema::UnixMillis,
) -> anyhow::Result<Vec<SessionId>> {
    let standing = store.standing(user, now).await;
    let standing = standing.context("the wallet could not be read")?;
    let standing = standing.with_context(|| format!("there is no user {user} any more"))?;
    let live = standing.record.live.iter().map(|live| live.session.id);
    Ok(live.collect())
}

//! `minute-credit user`: accounts, from the command line.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use engine::store::{EraseError, Erasure, NewPassword, Store};
use jiff::Timestamp;
use schema::UserId;
use schema::account::{PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN};

use super::credits;
use crate::{erasure, passwords, settings::Settings};

/// How many users are read at a time.
const USERS_AT_ONCE: u32 = 500;

/// How long an erasure waits for a server to end the live session.
const ERASURE_PATIENCE: Duration = Duration::from_secs(10);

/// `list`, `set-password EMAIL` or `erase USER`
#[derive(Subcommand)]
pub(super) enum Command {
    /// List all users: id, email, credits in the ledger, time of signing up, separated by tabs
    List,
    /// Set a user's password, asked for on a terminal or read from standard input; all tokens die
    #[command(after_help = "\
Examples:
  minute-credit user set-password ada@example.com
  pass show ada | minute-credit user set-password ada@example.com")]
    SetPassword {
        /// The user's email
        email: String,
    },
    /// Erase a user: email, password and tokens go, and what is left of the credits; the ledger stays
    #[command(after_help = "\
A live session is ended first, by the server that serves it. What is left of the credits is taken back by
one more entry of the ledger. The user's rows stay, as of nobody; there is no way back. The email is
free for a new user.

Examples:
  minute-credit user erase ada@example.com
  minute-credit user erase 42 --yes")]
    Erase(Erase),
}

/// Whom to erase.
#[derive(Args)]
pub(super) struct Erase {
    /// The user's email, or id
    user: String,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// Who does it, for the ledger
    #[arg(long, env = "USER", hide_env_values = true, value_parser = credits::parse_name)]
    operator: String,
}

pub(super) async fn run(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List => list(settings).await,
        Command::SetPassword { email } => set_password(settings, &email).await,
        Command::Erase(arguments) => erase(settings, arguments).await,
    }
}

async fn list(settings: &Settings) -> anyhow::Result<ExitCode> {
    let (store, _) = super::open_existing(settings).await?;
    let mut after = None;
    loop {
        let users = store
            .users(after, USERS_AT_ONCE)
            .await
            .context("users could not be read")?;
        let Some(last) = users.last() else { break };
        after = Some(last.id);
        let mut out = io::stdout().lock();
        for user in &users {
            let signed_up = Timestamp::from_millisecond(user.created_at.get())?;
            writeln!(
                out,
                "{}\t{}\t{}\t{signed_up}",
                user.id, user.email, user.credits
            )?;
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn set_password(settings: &Settings, email: &str) -> anyhow::Result<ExitCode> {
    let (store, clock) = super::open_existing(settings).await?;
    let user = store
        .user_by_email(email)
        .await
        .context("the user could not be read")?;
    let user = user.with_context(|| format!("nobody has the email {email}"))?;
    let hash = passwords::hash(&read_password()?)?;
    let is_set = store
        .set_password(NewPassword {
            user: user.id,
            hash,
            decided_in: None,
            kept_token: None,
            at: clock.now(),
        })
        .await
        .context("the password may not be set: repeat")?;
    anyhow::ensure!(is_set, "nobody has the email {email} any more");
    store.close().await;
    println!(
        "the password of {} is set, and all tokens from before are void",
        user.email
    );
    Ok(ExitCode::SUCCESS)
}

async fn erase(settings: &Settings, arguments: Erase) -> anyhow::Result<ExitCode> {
    let (store, clock) = super::open_existing(settings).await?;
    let user = named(store.as_ref(), &arguments.user).await?;
    if !arguments.yes && !is_confirmed(user)? {
        println!("nothing was erased");
        return Ok(ExitCode::FAILURE);
    }
    let erasure = Erasure {
        user,
        decided_in: None,
        operator: arguments.operator,
        at: clock.now(),
    };
    let erased = erasure::erase(store.as_ref(), &clock, &erasure, ERASURE_PATIENCE).await;
    store.close().await;
    match erased {
        Ok(()) => println!("user {user} is erased; the ledger stays"),
        Err(EraseError::UserUnknown) => anyhow::bail!("there is no user {user}"),
        Err(EraseError::SessionLive) => anyhow::bail!(
            "user {user} has a live session, and no server ended it: start the server that serves it, and repeat"
        ),
        Err(error) => {
            return Err(error).context(format!(
                "user {user} may not be erased: repeat with the id {user}"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The user that the operator names by email or id. One who was erased still has an id.
async fn named(store: &dyn Store, name: &str) -> anyhow::Result<UserId> {
    if let Ok(id) = name.parse::<i64>() {
        return UserId::new(id).with_context(|| format!("{name} is no user's id"));
    }
    let user = store.user_by_email(name).await;
    let user = user.context("the user could not be read")?;
    Ok(user
        .with_context(|| format!("nobody has the email {name}"))?
        .id)
}

fn is_confirmed(user: UserId) -> anyhow::Result<bool> {
    anyhow::ensure!(
        io::stdin().is_terminal(),
        "there is no terminal to ask on: repeat with --yes"
    );
    print!("Erase user {user} for good? Only \"yes\" does it: ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("no answer could be read")?;
    Ok(answer.trim() == "yes")
}

/// Asks for the password, or reads it from a pipe. It never stands in the arguments, which everybody
/// on the machine can read.
fn read_password() -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() {
        let password = rpassword::prompt_password("New password: ")?;
        anyhow::ensure!(
            rpassword::prompt_password("Once more: ")? == password,
            "the two passwords differ"
        );
        password
    } else {
        let mut line = String::new();
        io::stdin()
            .read_line(&mut line)
            .context("no password could be read from standard input")?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    anyhow::ensure!(
        (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()),
        "a password must have {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes"
    );
    Ok(password)
}

//! `minute-credit user`: accounts, from the command line.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;
use engine::store::NewPassword;
use jiff::Timestamp;
use schema::account::{PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN};

use crate::{passwords, settings::Settings};

/// How many users are read at a time.
const USERS_AT_ONCE: u32 = 500;

/// `list` or `set-password EMAIL`
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
}

pub(super) async fn run(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List => list(settings).await,
        Command::SetPassword { email } => set_password(settings, &email).await,
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

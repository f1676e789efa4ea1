//! `minute-credit user`: accounts, from the command line.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use engine::store::{
    CreateUserError, EraseError, Erasure, NewPassword, NewUser, Store, UserRecord,
};
use jiff::Timestamp;
use schema::{Credits, UserId};

use super::words;
use crate::{emails, erasure, passwords::ChosenPassword, settings::Settings};

/// How many users are read at a time.
const USERS_AT_ONCE: u32 = 500;

/// How long an erasure waits for a server to end the live session.
const ERASURE_PATIENCE: Duration = Duration::from_secs(10);

/// `list`, `create EMAIL`, `set-password USER` or `erase USER`
#[derive(Subcommand)]
pub(super) enum Command {
    /// List users: id, email, credits in the ledger, time of signing up, separated by tabs
    #[command(after_help = "\
With --limit, what to call for the next ones stands on standard error.

Examples:
  minute-credit user list
  minute-credit user list --search ada --limit 50
  minute-credit user list --limit 50 --after 1042 --json")]
    List(List),
    /// Create a user, with a password asked for on a terminal or read from standard input
    #[command(after_help = "\
Examples:
  minute-credit user create ada@example.com
  pass show ada | minute-credit user create ada@example.com --credits 500
  minute-credit user create service@example.com --no-password --credits 0")]
    Create(Create),
    /// Set a user's password, asked for on a terminal or read from standard input; all tokens die
    #[command(after_help = "\
Examples:
  minute-credit user set-password ada@example.com
  pass show ada | minute-credit user set-password ada@example.com")]
    SetPassword {
        /// The user's email, or id
        user: String,
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

/// Which users to list.
#[derive(Args)]
pub(super) struct List {
    /// Only those whose email begins so; upper and lower case are the same
    #[arg(long, value_name = "PREFIX")]
    search: Option<String>,
    /// Only so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
    /// Only those after the user with this id
    #[arg(long, value_name = "ID", value_parser = parse_user)]
    after: Option<UserId>,
    /// Print a JSON object for each, one a line, for programs
    #[arg(long)]
    json: bool,
}

/// Whom to create.
#[derive(Args)]
pub(super) struct Create {
    /// The email, which nobody has yet
    email: String,
    /// The credits to begin with [setting: signup.credits]
    #[arg(long, value_name = "C", value_parser = words::parse_credits)]
    credits: Option<Credits>,
    /// Set none: nobody can log in until user set-password sets one
    #[arg(long)]
    no_password: bool,
}

/// Whom to erase.
#[derive(Args)]
pub(super) struct Erase {
    /// The user's email, or id
    user: String,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// Who does it, for the ledger [default: you, as $USER or the system has it]
    #[arg(long, value_name = "NAME", value_parser = words::parse_name)]
    operator: Option<String>,
}

pub(super) async fn run(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(arguments) => list(settings, arguments).await,
        Command::Create(arguments) => create(settings, arguments).await,
        Command::SetPassword { user } => set_password(settings, &user).await,
        Command::Erase(arguments) => erase(settings, arguments).await,
    }
}

async fn list(settings: &Settings, arguments: List) -> anyhow::Result<ExitCode> {
    let (store, _) = super::open_existing(settings).await?;
    let prefix = arguments.search.unwrap_or_default();
    let (mut after, mut left) = (arguments.after, arguments.limit);
    while left != Some(0) {
        let limit = left.map_or(USERS_AT_ONCE, |left| left.min(USERS_AT_ONCE));
        let users = store
            .find_users(prefix.trim(), after, limit)
            .await
            .context("users could not be read")?;
        write_users(&users, arguments.json)?;
        let count = u32::try_from(users.len())?;
        left = left.map(|left| left - count);
        let Some(last) = users.last().filter(|_| count == limit) else {
            break;
        };
        after = Some(last.id);
        if left == Some(0) {
            eprintln!("there may be more: --after {}", last.id);
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

fn write_users(users: &[UserRecord], json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for user in users {
        if json {
            let line = serde_json::json!({
                "userId": user.id,
                "email": user.email,
                "ledger": user.credits,
                "createdAt": user.created_at,
            });
            writeln!(out, "{line}")?;
        } else {
            let signed_up = Timestamp::from_millisecond(user.created_at.get())?;
            writeln!(
                out,
                "{}\t{}\t{}\t{signed_up}",
                user.id, user.email, user.credits
            )?;
        }
    }
    Ok(())
}

async fn create(settings: &Settings, arguments: Create) -> anyhow::Result<ExitCode> {
    let email = emails::valid(&arguments.email);
    let email = email.with_context(|| format!("{:?} is not an email address", arguments.email))?;
    let (store, clock) = super::open_existing(settings).await?;
    let password_hash = if arguments.no_password {
        None
    } else {
        Some(read_password(&email)?.hash()?)
    };
    let new = NewUser {
        email,
        password_hash,
        grant: arguments.credits.unwrap_or(settings.signup_credits),
        created_at: clock.now(),
    };
    let email = new.email.clone();
    let created = store.create_user(new).await;
    store.close().await;
    let user = match created {
        Ok(user) => user,
        Err(CreateUserError::Store(error)) if error.is_transient() => {
            return Err(error).context(format!(
                "whether the user was created is unknown: see minute-credit user list --search {email}"
            ));
        }
        Err(error) => return Err(error).context("no user was created"),
    };
    println!(
        "user {} is created: {}, with {} credits",
        user.id, user.email, user.credits
    );
    Ok(ExitCode::SUCCESS)
}

async fn set_password(settings: &Settings, user: &str) -> anyhow::Result<ExitCode> {
    let (store, clock) = super::open_existing(settings).await?;
    let user = super::find_user(store.as_ref(), user).await?;
    let hash = read_password(&user.email)?.hash()?;
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
    anyhow::ensure!(is_set, "there is no user {} any more", user.id);
    store.close().await;
    println!(
        "the password of {} is set, and all tokens from before are void",
        user.email
    );
    Ok(ExitCode::SUCCESS)
}

async fn erase(settings: &Settings, arguments: Erase) -> anyhow::Result<ExitCode> {
    let operator = words::operator(arguments.operator)?;
    let (store, clock) = super::open_existing(settings).await?;
    let user = named(store.as_ref(), &arguments.user).await?;
    if !arguments.yes && !is_confirmed(user)? {
        println!("nothing was erased");
        return Ok(ExitCode::FAILURE);
    }
    let erasure = Erasure {
        user,
        decided_in: None,
        operator,
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
    Ok(super::find_user(store, name).await?.id)
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
fn read_password(email: &str) -> anyhow::Result<ChosenPassword> {
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
    Ok(ChosenPassword::new(&password, email)?)
}

fn parse_user(text: &str) -> Result<UserId, String> {
    let id = text.parse::<i64>();
    let id = id.map_err(|_| "must be the number of a user".to_owned())?;
    UserId::new(id).map_err(|error| error.to_string())
}

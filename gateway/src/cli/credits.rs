//! `minute-credit credits`: changes of balances by an operator.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use engine::store::{AdjustError, Adjustment};
use schema::{Credits, CreditsChange, ledger::EntryKind};

use crate::settings::Settings;

/// `grant EMAIL AMOUNT`
#[derive(Subcommand)]
pub(super) enum Command {
    /// Give credits to a user; a running session goes on with them
    #[command(after_help = "\
The grant is made once for each key, however often the command is repeated. Without --key a fresh
key is made and printed: repeat with it if the outcome was unknown.

Example:
  minute-credit credits grant ada@example.com 500 --reason 'support case 17' --key case-17")]
    Grant {
        /// The user's email
        email: String,
        /// How many credits, at least 1
        #[arg(value_parser = parse_amount)]
        amount: Credits,
        /// Why, for the ledger
        #[arg(long)]
        reason: String,
        /// Who grants it, for the ledger
        #[arg(long, env = "USER", hide_env_values = true)]
        operator: String,
        /// The idempotency key
        #[arg(long)]
        key: Option<String>,
    },
}

pub(super) async fn run(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    let Command::Grant {
        email,
        amount,
        reason,
        operator,
        key,
    } = command;
    let (store, clock) = super::open_existing(settings).await?;
    let user = store
        .user_by_email(&email)
        .await
        .context("the user could not be read")?;
    let user = user.with_context(|| format!("nobody has the email {email}"))?;
    let key = key.unwrap_or_else(|| format!("cli-{:032x}", rand::random::<u128>()));
    let adjustment = Adjustment {
        user: user.id,
        kind: EntryKind::Grant,
        amount: CreditsChange::incoming(amount),
        at: clock.now(),
        reason,
        operator,
        idempotency_key: key.clone(),
    };
    let adjusted = store.adjust(adjustment).await.map_err(|error| {
        let is_unknown = matches!(&error, AdjustError::Store(error) if error.is_transient());
        let error = anyhow::Error::from(error);
        if is_unknown {
            error.context(format!(
                "whether the credits were granted is unknown: repeat with --key {key}"
            ))
        } else {
            error.context("no credits were granted")
        }
    })?;
    store.close().await;
    let done = if adjusted.is_repeat {
        "had been granted before, nothing changed"
    } else {
        "granted"
    };
    println!(
        "{amount} credits to {}: {done} (key {key}, ledger entry {}, balance {})",
        user.email, adjusted.entry, adjusted.balance_after
    );
    Ok(ExitCode::SUCCESS)
}

fn parse_amount(text: &str) -> Result<Credits, String> {
    let amount = text.parse::<i64>().map_err(|error| error.to_string())?;
    match Credits::new(amount) {
        Ok(amount) if !amount.is_zero() => Ok(amount),
        _ => Err("must be at least 1".to_owned()),
    }
}

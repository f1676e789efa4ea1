//! `minute-credit backup FILE`

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use engine::store::{BackupError, back_up};

use crate::settings::Settings;

/// `FILE`
#[derive(Args)]
#[command(after_help = "\
For the embedded database. The file holds its state at one instant, and only its owner can read it.
Of a Postgres database, pg_dump makes a backup.

Examples:
  minute-credit backup /backup/credit-$(date +%F).db
  DATABASE_URL=sqlite:///backup/credit-2026-11-22.db minute-credit verify")]
pub(super) struct Arguments {
    /// The backup, which must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let path = arguments.file.display();
    // It is copied as it is: to open it as a server does would migrate it first.
    super::require_existing(settings)?;
    match back_up(&settings.store, &arguments.file).await {
        Ok(()) => println!("the database is backed up to {path}"),
        Err(BackupError::Postgres) => {
            anyhow::bail!("the database is Postgres: back it up with pg_dump --format=custom")
        }
        Err(error) => return Err(error).context("there is no backup"),
    }
    Ok(ExitCode::SUCCESS)
}

//! `minute-credit key`: the keys of the tokens, changed in their file.
//!
//! A new key only reads at first, so that every process knows it before any of them makes a token with
//! it. So no token is refused at any moment of a change.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use clap::Subcommand;

use crate::{
    key_file::{self, KeyFileError, LOOKED_AT_EVERY},
    key_ring::{Key, KeyId, KeyRing},
    settings::{KeySource, Settings},
};

/// `list`, `add`, `use ID` or `retire ID`
#[derive(Subcommand)]
#[command(after_help = "\
To change the key while the server runs and nobody notices:
  minute-credit key add            a new key, which every process can read after a few seconds
  minute-credit key use ID         it makes the tokens from now on
  minute-credit key retire OLD-ID  when the last token of the old key has ended: tokens.lifetime_hours later

If a key has leaked, do all three at once: everybody has to log in again.
An ID may be shortened as long as it names one key.")]
pub(super) enum Command {
    /// List the keys by their ids; the first one makes tokens
    #[command(after_help = "\
Example:
  minute-credit key list")]
    List,
    /// Add a new key that reads tokens and makes none yet
    #[command(after_help = "\
Example:
  minute-credit key add")]
    Add,
    /// Let a key make the tokens from now on
    #[command(after_help = "\
Example:
  minute-credit key use k4.lid.Xv3n")]
    Use {
        /// The key's id, as listed
        id: String,
    },
    /// Remove a key; tokens that it made are void at once
    #[command(after_help = "\
Example:
  minute-credit key retire k4.lid.Xv3n")]
    Retire {
        /// The key's id, as listed
        id: String,
    },
}

pub(super) fn run(settings: &Settings, command: &Command) -> anyhow::Result<ExitCode> {
    let KeySource::File(path) = &settings.tokens.key else {
        anyhow::bail!(
            "the keys are in the setting tokens.key: change them there, the first makes tokens"
        );
    };
    match command {
        Command::List => list(path)?,
        Command::Add => add(path)?,
        Command::Use { id } => make_current(path, id)?,
        Command::Retire { id } => retire(path, id)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(path: &Path) -> anyhow::Result<()> {
    let ring = key_file::read(path)?;
    for key in ring.keys() {
        let is_current = key.id() == ring.current().id();
        let role = if is_current { "makes tokens" } else { "reads" };
        println!("{}\t{role}", key.id().as_str());
    }
    Ok(())
}

fn add(path: &Path) -> anyhow::Result<()> {
    let id = key_file::change(path, |ring| {
        let key = Key::generate()?;
        let id = key.id().clone();
        ring.push(key)?;
        Ok::<_, KeyFileError>(id)
    })?;
    println!("added   {}", id.as_str());
    println!(
        "next    minute-credit key use {}, when every process has read it: after {} s at the latest",
        id.as_str(),
        2 * LOOKED_AT_EVERY.as_secs()
    );
    Ok(())
}

fn make_current(path: &Path, id: &str) -> anyhow::Result<()> {
    let (before, now) = key_file::change(path, |ring| {
        let now = named(ring, id)?;
        let before = ring.current().id().clone();
        ring.make_current(&now);
        anyhow::Ok((before, now))
    })?;
    if before == now {
        println!("nothing changed: {} makes the tokens already", now.as_str());
        return Ok(());
    }
    println!("in use  {}", now.as_str());
    println!(
        "next    minute-credit key retire {}, when its last token has ended",
        before.as_str()
    );
    Ok(())
}

fn retire(path: &Path, id: &str) -> anyhow::Result<()> {
    let id = key_file::change(path, |ring| {
        let id = named(ring, id)?;
        anyhow::ensure!(
            ring.remove(&id),
            "{} makes the tokens: let another key do that first, with minute-credit key use ID",
            id.as_str()
        );
        Ok(id)
    })?;
    println!("retired {}", id.as_str());
    Ok(())
}

fn named(ring: &KeyRing, id: &str) -> anyhow::Result<KeyId> {
    ring.by_id(id)
        .with_context(|| format!("{id} does not name one key: see minute-credit key list"))
}

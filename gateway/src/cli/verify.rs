//! `minute-credit verify`: the whole database against the laws.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::settings::Settings;

/// How many users are audited at a time.
const USERS_AT_ONCE: u32 = 500;

pub(super) async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let (store, _) = super::open_existing(settings).await?;
    // It draws itself on standard error, and only where that is a terminal.
    let progress = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {msg} [{elapsed}]")?);
    progress.enable_steady_tick(Duration::from_millis(100));

    let (mut users, mut sessions, mut entries, mut violations) = (0, 0, 0, 0_u64);
    let mut after = None;
    loop {
        let page = store
            .audit(after, USERS_AT_ONCE)
            .await
            .context("the audit could not be finished")?;
        users += page.users;
        sessions += page.sessions;
        entries += page.entries;
        violations += page.violations.len() as u64;
        progress.suspend(|| {
            let mut out = io::stdout().lock();
            page.violations.iter().try_for_each(|violation| {
                writeln!(
                    out,
                    "law {}, user {}: {}",
                    violation.law, violation.user, violation.what
                )
            })
        })?;
        progress.set_message(format!(
            "{users} users, {sessions} sessions, {entries} ledger entries"
        ));
        after = page.last;
        if after.is_none() {
            break;
        }
    }
    progress.finish_and_clear();
    store.close().await;

    let audited = format!("{users} users, {sessions} sessions, {entries} ledger entries");
    if violations == 0 {
        println!("verified: {audited}, no violation");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("not verified: {audited}, {violations} violations");
        Ok(ExitCode::FAILURE)
    }
}

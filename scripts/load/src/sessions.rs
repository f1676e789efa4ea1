//! `load start` and `load stop`: a session for every user, with nobody watching.

use std::process::ExitCode;

use schema::session::{SessionStarted, SessionStopped};

use crate::{Target, client};

/// Starts them.
pub async fn start(target: &Target) -> anyhow::Result<ExitCode> {
    let tokens = target.tokens()?;
    let started: Vec<SessionStarted> =
        client::for_all(&target.server, &tokens, "/api/sessions/start").await?;
    println!("{} sessions started", started.len());
    Ok(ExitCode::SUCCESS)
}

/// Stops them, and tells what they cost together.
pub async fn stop(target: &Target) -> anyhow::Result<ExitCode> {
    let tokens = target.tokens()?;
    let stopped: Vec<SessionStopped> =
        client::for_all(&target.server, &tokens, "/api/sessions/stop").await?;
    let consumed: i64 = stopped.iter().map(|stop| stop.credits_consumed.get()).sum();
    println!(
        "{} sessions stopped, {consumed} credits consumed",
        stopped.len()
    );
    Ok(ExitCode::SUCCESS)
}

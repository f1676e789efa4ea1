//! `crash`: see [`crash`] and `crash --help`; `scripts/crash-test` builds and runs it.
//!
//! Exit codes: 0 nothing is wrong, 1 something is, 2 it could not be run, 130 it was interrupted.

use std::process::ExitCode;

use clap::Parser;
use crash::{options::Options, run};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let ended = tokio::select! {
        ended = crash(&options) => ended,
        // Dropping the run kills the server.
        interrupted = interrupted() => interrupted.map(|()| ExitCode::from(130)),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminations = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminations.recv() => (),
    }
    Ok(())
}

async fn crash(options: &Options) -> anyhow::Result<ExitCode> {
    let outcome = run::run(options, async |_| Ok(())).await?;
    outcome.report.write(&mut std::io::stdout().lock())?;
    if let Some(kept) = outcome.kept {
        println!("The log and the history are in {}", kept.display());
    }
    Ok(if outcome.report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

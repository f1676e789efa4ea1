//! `crash`: see [`crash`] and `crash --help`; `scripts/crash-test` builds and runs it.
//!
//! Exit codes: 0 nothing is wrong, 1 something is, 2 it could not be run.

use std::process::ExitCode;

use clap::Parser;
use crash::{options::Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    match crash(&Options::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
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

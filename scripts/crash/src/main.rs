//! `crash`: see [`crash`] and `crash --help`; `scripts/crash-test` builds and runs it.

use std::process::ExitCode;

use clap::Parser;
use crash::{options::Options, run};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let outcome = run::run(&Options::parse(), async |_| Ok(())).await?;
    outcome.report.write(&mut std::io::stdout().lock())?;
    if let Some(kept) = outcome.kept {
        println!("kept          {}", kept.display());
    }
    Ok(if outcome.report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

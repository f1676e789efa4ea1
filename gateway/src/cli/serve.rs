//! `minute-credit serve`

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::service_manager::{self, State};
use crate::{server::Server, settings::Settings};

pub(super) async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let mut signalled = async move || {
        tokio::select! {
            _ = interrupts.recv() => (),
            _ = terminations.recv() => (),
        }
    };
    let server = tokio::select! {
        server = Server::build(settings) => server?,
        () = signalled() => return Ok(ExitCode::SUCCESS),
    };
    eprintln!("{}", server.greeting());
    service_manager::tell(State::Ready);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        signalled().await;
        service_manager::tell(State::Stopping);
        // If nobody waits for it, the server has ended by itself.
        let _ = stop.send(());
        signalled().await;
        eprintln!("error: ended at once, without waiting for what was in progress");
        std::process::exit(1);
    });
    server
        .run(async {
            // The sender lives as long as the process.
            let _ = stopped.await;
        })
        .await?;
    Ok(ExitCode::SUCCESS)
}

//! `minute-credit serve`

use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::service_manager::{self, State};
use crate::{
    open_files,
    server::Server,
    settings::{Options, Settings},
    voice::{Listener, Voice},
};

/// `--host`, `--port`
#[derive(Args)]
#[command(after_help = "\
It serves http://127.0.0.1:8000, keeps its data in the folder data, and makes both the database and the
token key if there are none. SIGTERM and ctrl-c end it in order; a second one ends it at once.

Examples:
  minute-credit serve
  minute-credit serve --host 0.0.0.0 --port 9000
  minute-credit --config /etc/minute-credit/settings.toml serve")]
pub(super) struct Arguments {
    /// Where to listen: 127.0.0.1 for this machine alone, 0.0.0.0 or :: for everybody [setting: http.host]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// The port to listen on; 0 takes any free one [setting: http.port]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
}

impl Arguments {
    /// What they say of settings.
    pub(super) fn options(&self) -> Options {
        Options {
            host: self.host.clone(),
            port: self.port.clone(),
        }
    }
}

pub(super) async fn run(mut settings: Settings) -> anyhow::Result<ExitCode> {
    let voice = Voice::new(settings.log.format, Listener::Log);
    open_files::make_room(&mut settings);
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
    voice.say(&server.greeting());
    service_manager::tell(State::Ready);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        signalled().await;
        service_manager::tell(State::Stopping);
        // If nobody waits for it, the server has ended by itself.
        let _ = stop.send(());
        signalled().await;
        voice.complain("ended at once, without waiting for what was in progress");
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

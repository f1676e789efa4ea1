//! `minute-credit serve`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

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

/// How long after a signal another one is the same stop, sent twice: by a process group and by whoever
/// forwards it, for example. A person who has lost patience takes longer.
const SAME_STOP_WITHIN: Duration = Duration::from_secs(2);

/// The signals that tell the program to end.
struct Stops {
    interrupts: Signal,
    terminations: Signal,
    /// The terminal is gone. None where that was to be ignored, as by `nohup`.
    hang_ups: Option<Signal>,
}

impl Stops {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupts: signal(SignalKind::interrupt())?,
            terminations: signal(SignalKind::terminate())?,
            hang_ups: if ignores_hang_ups() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        let hang_up = async {
            match &mut self.hang_ups {
                Some(hang_ups) => hang_ups.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupts.recv() => (),
            _ = self.terminations.recv() => (),
            _ = hang_up => (),
        }
    }

    /// Waits for one that is not the same stop as the first, which came at `first_at`.
    async fn next_after(&mut self, first_at: Instant) {
        loop {
            self.next().await;
            if first_at.elapsed() >= SAME_STOP_WITHIN {
                return;
            }
        }
    }
}

/// Whether whoever started the program wants it to outlive its terminal.
#[cfg(target_os = "linux")]
fn ignores_hang_ups() -> bool {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    // Signal 1 is the lowest bit.
    status.is_ok_and(|status| status.sigign & 1 != 0)
}

#[cfg(not(target_os = "linux"))]
const fn ignores_hang_ups() -> bool {
    false
}

pub(super) async fn run(mut settings: Settings) -> anyhow::Result<ExitCode> {
    let voice = Voice::new(settings.log.format, Listener::Log);
    open_files::make_room(&mut settings);
    let mut stops = Stops::listen()?;
    let server = tokio::select! {
        server = Server::build(settings) => server?,
        () = stops.next() => return Ok(ExitCode::SUCCESS),
    };
    voice.say(&server.greeting());
    service_manager::tell(State::Ready);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        stops.next().await;
        let first_at = Instant::now();
        service_manager::tell(State::Stopping);
        // If nobody waits for it, the server has ended by itself.
        let _ = stop.send(());
        stops.next_after(first_at).await;
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

//! `minute-credit serve`

use std::{process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use super::service_manager::{self, State};
use crate::{server::Server, settings::Settings};

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

pub(super) async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut stops = Stops::listen()?;
    let server = tokio::select! {
        server = Server::build(settings) => server?,
        () = stops.next() => return Ok(ExitCode::SUCCESS),
    };
    eprintln!("{}", server.greeting());
    service_manager::tell(State::Ready);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        stops.next().await;
        let first_at = Instant::now();
        service_manager::tell(State::Stopping);
        // If nobody waits for it, the server has ended by itself.
        let _ = stop.send(());
        stops.next_after(first_at).await;
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

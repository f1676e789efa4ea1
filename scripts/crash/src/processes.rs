//! The server as its processes: there is one at a time, or two while one takes over from the other.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::Context;
use tokio::sync::watch;

use crate::{
    clocks::Clocks,
    history::Recorder,
    program::Program,
    server::{Log, Server},
};

/// How a process is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    /// As it is.
    Off,
    /// So that a limit for the size of its files can be set later.
    FileSize,
}

/// The processes, and where clients find the server.
pub struct Processes {
    program: Program,
    limits: Limits,
    /// Sets the clock of each server wrong, if it is to be.
    clocks: Option<Clocks>,
    server: Option<Server>,
    address: watch::Sender<Option<SocketAddr>>,
    recorder: Recorder,
    log: Log,
}

impl Processes {
    /// No process yet. The server's address is told by `address`.
    pub fn new(
        program: Program,
        limits: Limits,
        clocks: Option<Clocks>,
        address: watch::Sender<Option<SocketAddr>>,
        recorder: Recorder,
        log: Log,
    ) -> Self {
        Self {
            program,
            limits,
            clocks,
            server: None,
            address,
            recorder,
            log,
        }
    }

    /// Starts the server, and returns when it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let mut server = self.spawn()?;
        let address = server.ready().await?;
        self.server = Some(server);
        self.address.send_replace(Some(address));
        Ok(())
    }

    /// Starts the server, and kills it `after` a moment, ready or not.
    pub async fn start_and_kill(&mut self, after: Duration) -> anyhow::Result<()> {
        let server = self.spawn()?;
        tokio::time::sleep(after).await;
        server.kill().await
    }

    /// Tells the server to end in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.address.send_replace(None);
        match self.server.take() {
            Some(server) => server.terminate().await,
            None => Ok(()),
        }
    }

    /// Kills the server.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let killed = match self.server.take() {
            Some(server) => server.kill().await,
            None => Ok(()),
        };
        self.address.send_replace(None);
        killed
    }

    /// Starts another process under the same node's name; the first must notice, and end by itself.
    pub async fn take_over(&mut self) -> anyhow::Result<()> {
        let first = self.server.take().context("there is no server")?;
        first.is_being_superseded();
        self.start().await?;
        first.has_been_superseded().await
    }

    /// Stops the server without its knowing for `length`.
    pub async fn suspend(&self, length: Duration) -> anyhow::Result<()> {
        let server = self.server.as_ref().context("there is no server")?;
        server.suspend(length).await
    }

    /// Lets no file of the server's grow beyond `bytes`, or lifts that limit.
    pub async fn limit_files(&self, bytes: Option<u64>) -> anyhow::Result<()> {
        let server = self.server.as_ref().context("there is no server")?;
        let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        self.log
            .line(&format!("--- {}: file size {limit}", self.recorder.now()));
        let mut command = Command::new("prlimit");
        command.args([
            format!("--pid={}", server.pid()),
            format!("--fsize={limit}:unlimited"),
        ]);
        let status = tokio::task::spawn_blocking(move || command.status()).await??;
        anyhow::ensure!(status.success(), "prlimit failed with {status}");
        Ok(())
    }

    /// An error if the server has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(server) = &mut self.server
            && let Some(status) = server.has_ended()?
        {
            self.address.send_replace(None);
            anyhow::bail!("the server ended by itself with {status}");
        }
        Ok(())
    }

    fn spawn(&mut self) -> anyhow::Result<Server> {
        let mut command = match self.limits {
            Limits::Off => self.program.command(&["serve"]),
            Limits::FileSize => self.program.serve_with_limit(),
        };
        if let Some(clocks) = &mut self.clocks {
            let off_s = clocks.skew_server(&mut command);
            self.log.line(&format!("--- its clock is off by {off_s} s"));
        }
        Server::spawn(command, &self.recorder, &self.log)
    }
}

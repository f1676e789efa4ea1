//! What befalls the server: each round lets it work for a while, then strikes.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::{RngExt, rngs::StdRng};
use tokio::{sync::watch, time::sleep};

use crate::{
    history::Recorder,
    options::Options,
    program::Program,
    server::{Log, Server},
};

/// Longer than the ten seconds after which a process counts as having been down.
const SUSPENSION: Duration = Duration::from_millis(11_500);

/// A strike that ends a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// SIGKILL.
    Kill,
    /// SIGKILL, and once more while the next process starts up.
    KillTwice,
    /// SIGTERM.
    Terminate,
    /// Another process is started under the same node's name.
    TakeOver,
    /// SIGSTOP, and SIGCONT long after.
    Suspend,
}

impl Strike {
    /// The words in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillTwice => "kill, and again during start-up",
            Self::Terminate => "terminate",
            Self::TakeOver => "take over",
            Self::Suspend => "suspend",
        }
    }
}

/// Starts the server, strikes it, and starts it again.
pub struct Nemesis {
    program: Program,
    server: Option<Server>,
    address: watch::Sender<Option<SocketAddr>>,
    recorder: Recorder,
    log: Log,
    random: StdRng,
    round_ms: u64,
    suspend_every: u32,
    /// How often each strike was made.
    pub strikes: BTreeMap<Strike, u32>,
}

impl Nemesis {
    /// A nemesis of `program`, which tells the server's address by `address`.
    pub fn new(
        program: Program,
        address: watch::Sender<Option<SocketAddr>>,
        recorder: Recorder,
        log: Log,
        random: StdRng,
        options: &Options,
    ) -> Self {
        Self {
            program,
            server: None,
            address,
            recorder,
            log,
            random,
            round_ms: options.round_ms,
            suspend_every: options.suspend_every,
            strikes: BTreeMap::new(),
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

    /// One round.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        let length = self.round_ms * self.random.random_range(10..190) / 100;
        sleep(Duration::from_millis(length)).await;
        self.check_alive()?;
        let strike = self.choose();
        *self.strikes.entry(strike).or_default() += 1;
        match strike {
            Strike::Kill => self.kill().await?,
            Strike::KillTwice => {
                self.kill().await?;
                let server = self.spawn()?;
                sleep(Duration::from_millis(self.random.random_range(0..200))).await;
                server.kill().await?;
            }
            Strike::Terminate => self.stop().await?,
            Strike::TakeOver => return self.take_over().await,
            Strike::Suspend => return self.suspend().await,
        }
        let down = self.random.random_range(0..200);
        sleep(Duration::from_millis(down)).await;
        self.start().await
    }

    /// Tells the server to end in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.address.send_replace(None);
        if let Some(server) = self.server.take() {
            server.terminate().await?;
        }
        Ok(())
    }

    fn choose(&mut self) -> Strike {
        if self.suspend_every > 0 && self.random.random_ratio(1, self.suspend_every) {
            return Strike::Suspend;
        }
        match self.random.random_range(0..100) {
            0..72 => Strike::Kill,
            72..84 => Strike::KillTwice,
            84..92 => Strike::Terminate,
            _ => Strike::TakeOver,
        }
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(server) = self.server.take() {
            server.kill().await?;
        }
        self.address.send_replace(None);
        Ok(())
    }

    async fn take_over(&mut self) -> anyhow::Result<()> {
        if let Some(first) = self.server.take() {
            first.is_being_superseded();
            let started = self.start().await;
            let ended = first.has_been_superseded().await;
            started?;
            ended?;
        }
        Ok(())
    }

    async fn suspend(&mut self) -> anyhow::Result<()> {
        if let Some(server) = &self.server {
            server.suspend(SUSPENSION).await?;
        }
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Server> {
        Server::spawn(self.program.command(&["serve"]), &self.recorder, &self.log)
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(server) = &mut self.server
            && let Some(status) = server.has_ended()?
        {
            self.address.send_replace(None);
            anyhow::bail!("the server ended by itself with {status}");
        }
        Ok(())
    }
}

//! The program under test: how each of its commands is started, with the settings of the run.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::Context;
use tokio::time::{Instant, sleep};

/// How often a process that should end is looked at.
const POLL: Duration = Duration::from_millis(2);

/// The program with its settings. They are the same for each command.
#[derive(Clone, Debug)]
pub struct Program {
    binary: PathBuf,
    /// Where it is started, so that nothing of the caller's folder is found.
    dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl Program {
    /// The program `binary`, to be run in `dir`.
    pub fn new(binary: &Path, dir: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            settings: Vec::new(),
        }
    }

    /// The same program with a setting, as an environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.retain(|(other, _)| other != name);
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// A command, with no settings but the run's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// `serve` by a shell that has the signal for too large files ignored: writing past the limit
    /// then fails as it does on a full disk.
    pub fn serve_with_limit(&self) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" serve"])
            .arg(&self.binary);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(&self.dir)
            .env_clear()
            .env("USER", "crash")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// Runs a command to its end, however long that takes.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output())
            .await?
            .with_context(|| format!("can't run {}", self.binary.display()))
    }
}

/// Waits for the end of a process. Nothing if it doesn't end in time.
pub async fn ended(
    child: &mut Child,
    patience: Duration,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(POLL).await;
    }
}

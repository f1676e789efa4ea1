//! A process of the server: started, listened to, and ended in every way there is.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    history::{Ending, LifeId, Recorder, Suspension},
    program,
};

/// How long a process may take to become ready, or to end once it must.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where the processes of a run write what they have to say. Clones are the same file.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl Log {
    /// A new log at `path`.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("can't write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line. A log that can't be written is no reason to stop the run.
    pub fn line(&self, text: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{text}");
    }
}

/// A running process.
pub struct Server {
    child: Child,
    life: LifeId,
    recorder: Recorder,
    log: Log,
    ready: Option<oneshot::Receiver<SocketAddr>>,
}

impl Server {
    /// Starts a process; it is not ready yet.
    pub fn spawn(mut command: Command, recorder: &Recorder, log: &Log) -> anyhow::Result<Self> {
        let life = recorder.spawning();
        // In a process group of its own: when the shell that started this run ends, the system lets
        // the stopped processes of its group go on, and one of them may be suspended just then.
        command.process_group(0);
        let mut child = command.spawn().context("can't start the server")?;
        let (tell, ready) = oneshot::channel();
        if let Some(err) = child.stderr.take() {
            let (pid, log, recorder) = (child.id(), log.clone(), recorder.clone());
            std::thread::spawn(move || listen(err, pid, tell, &recorder, life, &log));
        }
        log.line(&format!(
            "--- {}: process {} starts",
            recorder.now(),
            child.id()
        ));
        Ok(Self {
            child,
            life,
            recorder: recorder.clone(),
            log: log.clone(),
            ready: Some(ready),
        })
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns when it is ready, with its address.
    pub async fn ready(&mut self) -> anyhow::Result<SocketAddr> {
        let Some(ready) = self.ready.take() else {
            bail!("the server was ready before");
        };
        match timeout(PATIENCE, ready).await {
            Ok(Ok(address)) => Ok(address),
            Ok(Err(_)) => bail!("the server ended before it was ready"),
            Err(_) => bail!("the server was not ready after {PATIENCE:?}"),
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it at once: no handler of its own runs.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.note(Ending::Killed);
        self.child.kill()?;
        self.wait().await?;
        Ok(())
    }

    /// Tells it to end in order, which it must do with exit code 0.
    pub async fn terminate(mut self) -> anyhow::Result<()> {
        self.note(Ending::Terminated);
        signal("TERM", self.pid()).await?;
        let status = self.wait().await?;
        if status.code() != Some(0) {
            self.recorder
                .complain(format!("after SIGTERM the server ended with {status}"));
        }
        Ok(())
    }

    /// Says that another process is about to take over from this one.
    pub fn is_being_superseded(&self) {
        self.note(Ending::Superseded);
    }

    /// Waits until it has noticed that another process took over, which it must by itself.
    pub async fn has_been_superseded(mut self) -> anyhow::Result<()> {
        let status = self.wait().await?;
        if status.code() != Some(1) {
            self.recorder
                .complain(format!("a superseded server ended with {status}"));
        }
        Ok(())
    }

    /// Stops it without its knowing for `length`, then lets it go on.
    pub async fn suspend(&self, length: Duration) -> anyhow::Result<()> {
        self.log
            .line(&format!("--- {}: SIGSTOP", self.recorder.now()));
        let before = self.recorder.now();
        signal("STOP", self.pid()).await?;
        let stopped = (before, self.recorder.now());
        tokio::time::sleep(length).await;
        let before = self.recorder.now();
        signal("CONT", self.pid()).await?;
        let continued = (before, self.recorder.now());
        self.recorder.life(self.life, |life| {
            life.suspensions.push(Suspension { stopped, continued });
        });
        Ok(())
    }

    fn note(&self, ending: Ending) {
        let now = self.recorder.now();
        self.log.line(&format!(
            "--- {now}: process {} ends: {ending:?}",
            self.pid()
        ));
        self.recorder.life(self.life, |life| {
            life.doomed = Some(now);
            life.ending = Some(ending);
        });
    }

    async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let status = program::ended(&mut self.child, PATIENCE).await?;
        let now = self.recorder.now();
        self.recorder.life(self.life, |life| life.ended = Some(now));
        status.with_context(|| format!("process {} does not end", self.pid()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended can't be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Copies what a process says into the log, and tells where it listens once it says so.
fn listen(
    err: ChildStderr,
    pid: u32,
    tell: oneshot::Sender<SocketAddr>,
    recorder: &Recorder,
    life: LifeId,
    log: &Log,
) {
    let mut tell = Some(tell);
    for line in BufReader::new(err).lines() {
        let Ok(said) = line else {
            return;
        };
        log.line(&format!("{pid}: {said}"));
        let address = said
            .split_once("is ready at http://")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .and_then(|address| address.parse().ok());
        if let (Some(address), Some(tell)) = (address, tell.take_if(|_| address.is_some())) {
            let now = recorder.now();
            recorder.life(life, |life| life.ready = Some(now));
            // Nobody waits any more if it was killed meanwhile.
            let _ = tell.send(address);
        }
        if said.contains("panicked at") {
            recorder.complain(format!("the server panicked: {said}"));
        }
    }
}

/// Sends a signal to one process.
pub async fn signal(name: &str, pid: u32) -> anyhow::Result<()> {
    let (option, pid) = (format!("-{name}"), pid.to_string());
    let sent =
        tokio::task::spawn_blocking(move || Command::new("kill").args([option, pid]).status());
    if !sent.await??.success() {
        bail!("can't send SIG{name}");
    }
    Ok(())
}

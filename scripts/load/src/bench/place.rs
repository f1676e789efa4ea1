//! A place of its own for every run: an empty folder, or an empty Postgres database too, with users in
//! it; and the program there.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use super::{
    database::{Database, Statements},
    filled::{Home, Past},
};
use crate::{control, process::ProcessId, users::Users};

/// How long the program may take to begin or to end. A million sessions take a while.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often it is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// The ports that servers are given: below those that the system gives to clients.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// Which databases the server keeps its data in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// The embedded SQLite file.
    Sqlite,
    /// Postgres, with Redis as the mirror.
    Postgres,
}

impl StoreKind {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "Postgres + Redis",
        }
    }
}

/// What stays the same in all runs.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The program that is measured.
    pub program: PathBuf,
    /// Settings for it in addition to those that each work load needs.
    pub settings: Vec<(String, String)>,
    /// For how long something is measured, in place of each work load's own times.
    pub window: Option<Duration>,
    /// Whether the shorter of a work load's own times is used.
    pub is_quick: bool,
    /// Where databases with a past are kept.
    pub filled: Arc<Home>,
}

/// A work load's own times for a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// The usual one.
    pub usual: Duration,
    /// The one with `--quick`.
    pub quick: Duration,
}

impl Length {
    /// So many seconds, usually and with `--quick`.
    pub const fn seconds(usual: u64, quick: u64) -> Self {
        Self {
            usual: Duration::from_secs(usual),
            quick: Duration::from_secs(quick),
        }
    }
}

impl Bench {
    /// For how long to measure.
    pub fn time(&self, length: Length) -> Duration {
        let own = if self.is_quick {
            length.quick
        } else {
            length.usual
        };
        self.window.unwrap_or(own)
    }
}

/// Folder, database and settings of one run. What is in them goes with it.
pub struct Place {
    program: PathBuf,
    folder: TempDir,
    database: Option<Database>,
    settings: Vec<(String, String)>,
    address: SocketAddr,
    starts: u32,
}

/// A running server.
pub struct Server {
    child: Child,
    log: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    /// How long it took from its start until it was ready.
    pub ready_after: Duration,
}

impl Place {
    /// An empty place whose servers have these settings, by their names in the environment.
    pub fn new(
        bench: &Bench,
        store: StoreKind,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        Self::with_copy_of(None, bench, store, settings)
    }

    /// A place whose database has a past, and so many of its users, who have the same credits as those
    /// of all work loads.
    pub fn with_past(
        bench: &Bench,
        store: StoreKind,
        settings: &[(&str, String)],
        past: Past,
        users: usize,
    ) -> anyhow::Result<(Self, Users)> {
        let filled = bench.filled.get(bench, store, past)?;
        let place = Self::with_copy_of(filled.template(), bench, store, settings)?;
        filled.copy_to(&place.folder.path().join("data"))?;
        Ok((place, filled.users(users)?))
    }

    fn with_copy_of(
        template: Option<&str>,
        bench: &Bench,
        store: StoreKind,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let database = match store {
            StoreKind::Sqlite => None,
            StoreKind::Postgres => Some(Database::create(template)?),
        };
        let own = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        Ok(Self {
            program: bench.program.clone(),
            folder: TempDir::with_prefix("minute-credit-bench.")?,
            database,
            settings: own.chain(bench.settings.iter().cloned()).collect(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
            starts: 0,
        })
    }

    /// Vacuums and analyses the database, where that makes a difference.
    pub fn vacuum(&self) -> anyhow::Result<()> {
        self.database.as_ref().map_or(Ok(()), Database::vacuum)
    }

    /// Begins to count the database's statements, where it is Postgres.
    pub fn count_statements(&self) -> anyhow::Result<()> {
        let database = self.database.as_ref();
        database.map_or(Ok(()), Database::count_statements)
    }

    /// What they came to since.
    pub fn statements(&self) -> anyhow::Result<Option<Statements>> {
        let database = self.database.as_ref();
        database.map(Database::statements).transpose()
    }

    /// Makes users with so many credits each, who have a live session if a spread of their starts is
    /// given.
    pub fn users(
        &self,
        count: usize,
        credits: i64,
        spread: Option<Duration>,
    ) -> anyhow::Result<Users> {
        let file = self.folder.path().join("tokens");
        let mut command = self.command("fixture");
        command
            .args(["--users", &count.to_string()])
            .args(["--credits", &credits.to_string()])
            .arg("--tokens")
            .arg(&file);
        if let Some(spread) = spread {
            command.args(["--live-spread-ms", &spread.as_millis().to_string()]);
        }
        let said = output_of(&mut command).context("the users could not be made")?;
        let live = spread.map(|_| starts_in(&said)).transpose()?;
        let mut users = Users::read(&file)?;
        users.live = live;
        fs::remove_file(&file)?;
        Ok(users)
    }

    /// Starts the server and waits until it is ready.
    pub fn serve(&mut self) -> anyhow::Result<Server> {
        self.starts += 1;
        let log = self.folder.path().join(format!("log.{}", self.starts));
        let mut command = self.command("serve");
        command.stderr(File::create(&log)?).stdout(Stdio::null());
        let begin = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("can't run {}", self.program.display()))?;
        let mut server = Server {
            child,
            log,
            address: self.address,
            ready_after: Duration::ZERO,
        };
        loop {
            if control::get(self.address, "/readyz").is_ok_and(|reply| reply.status == 200) {
                server.ready_after = begin.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended with {status}: {}", server.last_words());
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "the server is not ready after {PATIENCE:?}"
            );
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Audits the database. The sentence says what was found; an error, that it is not clean.
    pub fn verify(&self) -> anyhow::Result<String> {
        let said = output_of(&mut self.command("verify")).context("verify found a violation")?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }

    /// The settings that differ from the defaults, but for the addresses.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// The program with this command, all our settings, and none from the environment.
    fn command(&self, name: &str) -> Command {
        let mut command = program_command(&self.program, name, self.folder.path());
        command
            .env("PORT", self.address.port().to_string())
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        if let Some(database) = &self.database {
            command
                .env("DATABASE_URL", database.address())
                .env("REDIS_URL", database.redis());
        }
        command
    }
}

/// The program with this command in this folder, where it keeps its data, without any settings.
pub fn program_command(program: &Path, name: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg(name)
        .current_dir(folder)
        .env_clear()
        .env("DATA_DIR", folder.join("data"))
        .stdin(Stdio::null());
    command
}

impl Server {
    /// Its process.
    pub fn process(&self) -> ProcessId {
        ProcessId(self.child.id())
    }

    /// The sum of a metric over its labels, without its prefix: `recovery_seconds`.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let reply = control::get(self.address, "/metrics")?;
        let full = format!("minute_credit_{name}");
        let samples = reply.body.lines().filter_map(|line| {
            let rest = line.strip_prefix(&full)?;
            rest.starts_with([' ', '{'])
                .then(|| rest.rsplit(' ').next())?
        });
        let values: Result<Vec<f64>, _> = samples.map(str::parse).collect();
        let values = values.with_context(|| format!("{full} is no number"))?;
        ensure!(!values.is_empty(), "there is no metric {full}");
        Ok(values.iter().sum())
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        Ok(())
    }

    /// Waits until it has ended.
    pub fn wait_for_end(&mut self) -> anyhow::Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(begin.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Ends it in order; an error if it had anything to complain of.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.ask_to_end()?;
        let status = self.wait_for_end()?;
        ensure!(
            status.success(),
            "the server ended with {status}: {}",
            self.last_words()
        );
        Ok(())
    }

    /// The last lines of its log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// A run that fails leaves no server behind.
impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets this process, and those that it starts, have as many files open as it may.
pub fn raise_file_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// When the first and the last session started, by the fixture's account.
fn starts_in(said: &str) -> anyhow::Result<(i64, i64)> {
    let mut numbers = said
        .rsplit(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok());
    let last = numbers.next();
    let both = numbers.next().zip(last);
    both.context("no instants of the starts")
}

/// What a program says that ends well.
pub fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let (out, err) = (&output.stdout, &output.stderr);
        let said = [out, err].map(|said| String::from_utf8_lossy(said).trim().to_owned());
        bail!("it ended with {}: {}", output.status, said.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Which version a program is, in its own words, or nothing where it is absent.
pub fn version_of(program: impl AsRef<Path>) -> Option<String> {
    let said = output_of(Command::new(program.as_ref()).arg("--version")).ok()?;
    Some(said.lines().next()?.trim().to_owned())
}

/// A port that nobody listens on.
fn free_port() -> anyhow::Result<u16> {
    let first = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start))?;
    let mut ports = (PORTS.start + first..PORTS.end).chain(PORTS);
    ports
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no port is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_start_are_read() {
        let said = "created 7 users\nthe first started at 1700, the last at 1800\n";
        assert_eq!(starts_in(said).unwrap(), (1_700, 1_800));
        assert!(starts_in("").is_err());
    }
}

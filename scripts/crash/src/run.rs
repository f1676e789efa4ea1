//! A run: prepare, let users and nemesis loose on each other, make peace, audit.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schema::{Credits, Millis};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    checker::{self, Terms},
    client::{Address, Client},
    clocks::Clocks,
    history::{Recorder, UserIndex},
    moment::Stopwatch,
    nemesis::Nemesis,
    operator::{Abilities, Operator},
    options::{Faults, Options, Store, WallClocks},
    processes::{Limits, Processes},
    program::Program,
    records::Records,
    report::{self, Report},
    server::Log,
    setup::{self, Data, Folder, PRICE, SIGNUP_CREDITS, Setup},
    user::{self, Account, Phase, User},
    watcher,
};

/// More than this much service lost by one crash is wrong even on a busy machine.
const LAG_MAX_MS: i64 = 3_000;
/// The streams of decisions about clocks; users have those from 2 on.
const CLOCKS_OF_SERVERS: u64 = u64::MAX;
const CLOCKS_OF_OPERATORS: u64 = u64::MAX - 1;
/// How long users may take to come to an end, once there are no faults any more.
const PEACE: Duration = Duration::from_secs(90);

/// What a run came to, and where its evidence is.
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// The folder with the log and the history, if it was kept.
    pub kept: Option<PathBuf>,
}

/// Runs what `options` ask for. `before_audit` is called when the server is down for the last time
/// but one: a test of the audit may tamper with the data then.
pub async fn run(
    options: &Options,
    before_audit: impl AsyncFnOnce(&Data) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let mut run = Run::prepare(options).await?;
    let ended = run.rounds_and_audit(before_audit).await;
    let (records, verified) = ended.unwrap_or_else(|error| {
        run.recorder.complain(format!("{error:#}"));
        (Records::default(), "not reached".to_owned())
    });
    run.report(&records, verified)
}

/// A run in progress.
struct Run<'a> {
    options: &'a Options,
    /// A word that no other run has.
    name: String,
    seed: u64,
    folder: Folder,
    stopwatch: Stopwatch,
    recorder: Recorder,
    data: Data,
    program: Program,
    /// The program with a network that never fails.
    auditor: Program,
    nemesis: Nemesis,
    address: Address,
    rounds: u32,
}

impl<'a> Run<'a> {
    async fn prepare(options: &'a Options) -> anyhow::Result<Self> {
        let seed = options.seed.unwrap_or_else(|| rand::rng().random());
        // Users of another run on the same database have other names.
        let name = format!("crash-{:08x}", rand::rng().random::<u32>());
        let folder = Folder::make(options.dir.as_ref())?;
        let stopwatch = Stopwatch::start();
        let recorder = Recorder::new(stopwatch, &name);
        let log = Log::create(&folder.path.join("server.log"))?;
        eprintln!("seed {seed}, log {}", log.path().display());
        let Setup {
            program,
            auditor,
            data,
            networks,
        } = setup::set_up(options, &folder.path, &name).await?;
        let (tell, address) = watch::channel::<Option<SocketAddr>>(None);
        let limits = match (options.store, options.faults) {
            (Store::Sqlite, Faults::DiskFull | Faults::All) => Limits::FileSize,
            _ => Limits::Off,
        };
        let recorder_of = recorder.clone();
        let clocks = clocks_of(options, seed, CLOCKS_OF_SERVERS)?;
        let processes = Processes::new(
            program.clone(),
            limits,
            clocks,
            tell,
            recorder_of,
            log.clone(),
        );
        let random = decisions(seed, 0);
        let nemesis = Nemesis::new(processes, networks, recorder.clone(), log, random, options);
        Ok(Self {
            options,
            name,
            seed,
            folder,
            stopwatch,
            recorder,
            data,
            program,
            auditor,
            nemesis,
            address,
            rounds: 0,
        })
    }

    async fn rounds_and_audit(
        &mut self,
        before_audit: impl AsyncFnOnce(&Data) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Records, String)> {
        self.nemesis.processes.start().await?;
        let accounts = self.sign_up().await;
        let (tell_phase, phase) = watch::channel(Phase::Busy);
        let mut cast = self.cast(&accounts, &phase).await?;
        let mut watchers = JoinSet::new();
        for account in accounts.iter().step_by(3) {
            let (account, address) = (account.clone(), self.address.clone());
            watchers.spawn(watcher::watch(account, address, self.recorder.clone()));
        }

        self.rounds().await?;

        tell_phase.send_replace(Phase::Closing);
        let peace = timeout(PEACE, async { while cast.join_next().await.is_some() {} }).await;
        if peace.is_err() {
            bail!("{} users could not end without faults", cast.len());
        }
        watchers.shutdown().await;
        self.audit(&accounts, before_audit).await
    }

    async fn sign_up(&self) -> Vec<Account> {
        let mut accounts = Vec::with_capacity(self.options.users);
        for number in 0..self.options.users {
            let email = format!("{}-{number}@example.com", self.name);
            let mut client = self.client();
            let index = UserIndex(number);
            accounts.push(user::sign_up(index, email, &mut client, &self.recorder).await);
        }
        accounts
    }

    /// Lets the users and the operator begin.
    async fn cast(
        &self,
        accounts: &[Account],
        phase: &watch::Receiver<Phase>,
    ) -> anyhow::Result<JoinSet<()>> {
        let mut cast = JoinSet::new();
        let operator = Operator {
            program: self.program.clone(),
            abilities: Abilities::of(&self.program).await?,
            accounts: accounts.to_vec(),
            recorder: self.recorder.clone(),
            phase: phase.clone(),
            random: decisions(self.seed, 1),
            clocks: clocks_of(self.options, self.seed, CLOCKS_OF_OPERATORS)?,
        };
        cast.spawn(operator.run());
        for (account, stream) in accounts.iter().zip(2..) {
            let user = User::new(
                account.clone(),
                [self.client(), self.client()],
                self.recorder.clone(),
                phase.clone(),
                decisions(self.seed, stream),
            );
            cast.spawn(user.run());
        }
        Ok(cast)
    }

    async fn rounds(&mut self) -> anyhow::Result<()> {
        let progress = ProgressBar::new(self.options.rounds.into()).with_style(
            ProgressStyle::with_template("{bar:30} round {pos} of {len} [{elapsed}] {msg}")?,
        );
        let mut is_verified = true;
        for round in 1..=self.options.rounds {
            self.nemesis
                .round()
                .await
                .with_context(|| format!("in round {round}"))?;
            self.rounds = round;
            let every = self.options.verify_every;
            if every > 0 && round.is_multiple_of(every) && is_verified {
                // What is wrong once stays wrong: it is told once, and the run goes on.
                is_verified = self.verify(&format!("after round {round}")).await.is_some();
            }
            let (operations, complaints) = self
                .recorder
                .read(|history| (history.operations.len(), history.complaints.len()));
            progress.set_message(format!("{operations} operations, {complaints} complaints"));
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// Ends the server in order, so that all is settled; then reads the records from a fresh one.
    async fn audit(
        &mut self,
        accounts: &[Account],
        before_audit: impl AsyncFnOnce(&Data) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Records, String)> {
        self.nemesis.processes.stop().await?;
        before_audit(&self.data).await?;
        self.nemesis.processes.start().await?;
        let records = Records::read(&mut self.client(), accounts).await?;
        self.nemesis.processes.stop().await?;
        let verified = self.verify("in the end").await;
        let verified = verified.unwrap_or_else(|| "violations".to_owned());
        Ok((records, verified))
    }

    /// Has the program audit the whole database. Gives its summary, or complains.
    async fn verify(&self, when: &str) -> Option<String> {
        let wrong = match self.auditor.run(&["verify"]).await {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                if output.status.success() {
                    return Some(said.replace('\n', "; "));
                }
                let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                format!("{said} {error}")
            }
            Err(error) => format!("{error:#}"),
        };
        self.recorder
            .complain(format!("{when} minute-credit verify said: {wrong}"));
        None
    }

    fn client(&self) -> Client {
        Client::new(self.address.clone(), self.recorder.clone())
    }

    fn report(self, records: &Records, verified: String) -> anyhow::Result<Outcome> {
        let terms = Terms {
            signup: Credits::new(SIGNUP_CREDITS)?,
            price: Credits::new(PRICE)?,
            interval: Millis::new(self.options.interval_ms.into())?,
            lag_max: Millis::new(LAG_MAX_MS)?,
        };
        let history = self.recorder.read(Clone::clone);
        let verdict = checker::check(&history, records, &terms);
        let report = Report {
            seed: self.seed,
            rounds: self.rounds,
            strikes: self.nemesis.made.clone(),
            cuts: self.nemesis.cuts(),
            elapsed: self.stopwatch.elapsed(),
            verified,
            verdict,
        };
        let is_kept = self.options.dir.is_some() || !report.is_clean();
        if is_kept {
            report::keep(&self.folder.path, &history, records, &report.verdict)?;
        }
        let kept = is_kept.then(|| self.folder.keep());
        Ok(Outcome { report, kept })
    }
}

/// What sets clocks wrong, where that is asked for.
fn clocks_of(options: &Options, seed: u64, stream: u64) -> anyhow::Result<Option<Clocks>> {
    match options.clocks {
        WallClocks::Right => Ok(None),
        WallClocks::Skewed => Clocks::new(decisions(seed, stream)).map(Some),
    }
}

/// The source of one actor's decisions: each has its own, so that none depends on another's timing.
fn decisions(seed: u64, stream: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

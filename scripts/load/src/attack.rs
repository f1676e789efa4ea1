//! `load attack`: honest users watch their balances while one attack after the other runs beside them.
//!
//! The attackers are a process of their own at the lowest priority: on this machine they share the
//! processors with the server, which strangers would not. What the server does for them is not niced.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use schema::session::{SessionStarted, SessionStopped};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Target,
    attackers::Attack,
    client::{self, Caller},
    hiccup, metrics,
    score::Watched,
    watch,
};

/// How many users share a loopback address: fewer than one address may have sockets.
const USERS_PER_ADDRESS: usize = 100;
/// How long an update may take before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an attack runs before it is measured what it does.
const WARM_UP: Duration = Duration::from_secs(2);
/// The starts are spread over this, so that the balances don't all fall at once.
const STARTS_SPREAD: Duration = Duration::from_secs(6);

/// The arguments of `load attack`.
#[derive(clap::Args)]
pub struct AttackArguments {
    #[command(flatten)]
    target: Target,
    /// A file of other users' bearer tokens for the attackers, one a line.
    #[arg(long, value_name = "FILE")]
    attackers: PathBuf,
    /// For how long each attack is measured, in seconds.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Only these attacks; otherwise all.
    #[arg(value_enum)]
    attacks: Vec<Attack>,
}

/// What the watchers saw while something went on.
struct Seen {
    lateness: Histogram<u64>,
    hiccups: Histogram<u64>,
    missing: usize,
    /// What the server refused, by the name of the limit or the status.
    refused: BTreeMap<String, u64>,
}

/// The honest users.
struct Watchers {
    tokens: Vec<String>,
    seen: Vec<Arc<Mutex<Watched>>>,
    readers: JoinSet<()>,
}

/// Runs the command.
pub async fn run(arguments: AttackArguments) -> anyhow::Result<ExitCode> {
    let server = &arguments.target.server;
    let attacks: Vec<Attack> = if arguments.attacks.is_empty() {
        Attack::value_variants().to_vec()
    } else {
        arguments.attacks.clone()
    };
    let mut watchers = Watchers::open(&arguments.target).await?;
    println!(
        "{} users watch · each line {} s · milliseconds\n",
        watchers.tokens.len(),
        arguments.seconds
    );
    println!(
        "{:<16}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}  refused",
        "beside", "p50", "p99", "max", "x quiet", "hiccup p99", "missing"
    );
    let quiet = measure(&arguments, &watchers, None).await?;
    let quiet_p99 = quiet.lateness.value_at_quantile(0.99).max(1);
    quiet.print("nothing", quiet_p99);
    let mut missing = quiet.missing;
    for attack in attacks {
        let seen = measure(&arguments, &watchers, Some(attack)).await?;
        missing += seen.missing;
        seen.print(&attack.name(), quiet_p99);
    }
    let again = measure(&arguments, &watchers, None).await?;
    missing += again.missing;
    again.print("nothing again", quiet_p99);

    let stops =
        client::for_all::<SessionStopped>(server, &watchers.tokens, "/api/sessions/stop").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let wrong = watchers.stops_that_do_not_add_up(&stops);
    watchers.readers.shutdown().await;
    println!("\n{wrong} stops that don't add up");
    Ok(if missing == 0 && wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Measures for the time that is wanted, beside an attack or in quiet.
async fn measure(
    arguments: &AttackArguments,
    watchers: &Watchers,
    attack: Option<Attack>,
) -> anyhow::Result<Seen> {
    let server = &arguments.target.server;
    let refused_before = metrics::refused(server).await?;
    let mut attacker = match attack {
        Some(attack) => Some(Attacker::start(attack, arguments)?),
        None => None,
    };
    tokio::time::sleep(WARM_UP).await;
    let window = Duration::from_secs(arguments.seconds);
    let hiccups = hiccup::Meter::start();
    let from = watch::wall_micros();
    tokio::time::sleep(window).await;
    let to = watch::wall_micros();
    let hiccups = hiccups.end()?;
    if let Some(attacker) = &mut attacker {
        attacker.end()?;
    }
    tokio::time::sleep(PATIENCE).await;
    let mut refused = metrics::refused(server).await?;
    for (name, before) in refused_before {
        refused
            .entry(name)
            .and_modify(|now| *now = now.saturating_sub(before));
    }
    refused.retain(|_, times| *times > 0);
    let (lateness, missing) = watchers.between(from, to);
    Ok(Seen {
        lateness,
        hiccups,
        missing,
        refused,
    })
}

impl Watchers {
    /// Opens everybody's websocket, and starts the sessions one after the other.
    async fn open(target: &Target) -> anyhow::Result<Self> {
        let tokens = target.tokens()?;
        let mut readers = JoinSet::new();
        let mut seen = Vec::new();
        for (number, token) in tokens.iter().enumerate() {
            let host = u8::try_from(1 + number / USERS_PER_ADDRESS).context("too many users")?;
            let from = Ipv4Addr::new(127, 0, 2, host);
            let socket = client::open_socket_from(&target.server, token, from)
                .await
                .context("opening a websocket")?;
            let watched = Arc::new(Mutex::new(Watched::default()));
            seen.push(Arc::clone(&watched));
            readers.spawn(watch::read(socket, watched));
        }
        let mut caller = Caller::connect(&target.server).await?;
        let begun = Instant::now();
        for (number, token) in (1_u32..).zip(&tokens) {
            let _: SessionStarted = caller.post("/api/sessions/start", token).await?;
            let share = STARTS_SPREAD * number / u32::try_from(tokens.len())?;
            tokio::time::sleep_until(begun + share).await;
        }
        Ok(Self {
            tokens,
            seen,
            readers,
        })
    }

    /// How late the falls came that were due in this time, and how many never came.
    fn between(&self, from_micros: i64, to_micros: i64) -> (Histogram<u64>, usize) {
        let mut lateness = hiccup::new_histogram();
        let mut missing = 0;
        for seen in &self.seen {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            for late in seen.due_between(from_micros, to_micros) {
                match late {
                    Some(late) => lateness.saturating_record(u64::try_from(late).unwrap_or(0)),
                    None => missing += 1,
                }
            }
        }
        (lateness, missing)
    }

    fn stops_that_do_not_add_up(&self, stops: &[SessionStopped]) -> usize {
        let agrees = |(seen, stop): &(&Arc<Mutex<Watched>>, &SessionStopped)| {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.agrees_with(stop)
        };
        self.seen
            .iter()
            .zip(stops)
            .filter(|both| !agrees(both))
            .count()
    }
}

/// A process that attacks.
struct Attacker(Child);

impl Attacker {
    fn start(attack: Attack, arguments: &AttackArguments) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let child = Command::new("nice")
            .args(["-n", "19"])
            .arg(own)
            .args(["attacker", "--server", &arguments.target.server])
            .arg("--tokens")
            .arg(&arguments.attackers)
            .args(["--seconds", "3600", &attack.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("can't start the attackers")?;
        Ok(Self(child))
    }

    /// Ends it. An attacker that ended by itself before is no measure of anything.
    fn end(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.0.try_wait()? {
            anyhow::bail!("the attackers ended by themselves, with {status}");
        }
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Seen {
    fn print(&self, name: &str, quiet_p99: u64) {
        let millis = |micros: u64| format!("{}.{}", micros / 1_000, micros % 1_000 / 100);
        let p99 = self.lateness.value_at_quantile(0.99);
        let tenths = p99 * 10 / quiet_p99;
        let mut refused: Vec<_> = self.refused.iter().collect();
        refused.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        let refused: Vec<String> = refused
            .iter()
            .take(4)
            .map(|(name, times)| format!("{name} {times}"))
            .collect();
        println!(
            "{name:<16}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}  {}",
            millis(self.lateness.value_at_quantile(0.5)),
            millis(p99),
            millis(self.lateness.max()),
            format!("{}.{}", tenths / 10, tenths % 10),
            millis(self.hiccups.value_at_quantile(0.99)),
            self.missing,
            refused.join(", ")
        );
    }
}

//! `load attack`: honest users watch their balances while one attack after the other runs beside them.
//!
//! The attackers are a process of their own at the lowest priority: on this machine they share the
//! processors with the server, which strangers would not. What the server does for them is not niced.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;
use hdrhistogram::Histogram;

use crate::{
    Target,
    attackers::Attack,
    clock::wall_micros,
    control,
    fleet::Fleet,
    hiccup, metrics,
    schedule::{Rule, Score},
    sessions,
    users::Users,
    watch,
};

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
    score: Score,
    hiccups: Histogram<u64>,
    /// What the server refused, by the name of the limit or the status.
    refused: BTreeMap<String, u64>,
}

/// Runs the command.
pub fn run(arguments: &AttackArguments) -> anyhow::Result<ExitCode> {
    let (users, server) = (arguments.target.users()?, arguments.target.address()?);
    let attacks: Vec<Attack> = if arguments.attacks.is_empty() {
        Attack::value_variants().to_vec()
    } else {
        arguments.attacks.clone()
    };
    start(server, &users)?;
    let mut fleet = watch::open(server, users.evenly(users.len()))?;
    println!(
        "{} users watch · each line {} s · milliseconds\n",
        users.len(),
        arguments.seconds
    );
    println!(
        "{:<16}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}  refused",
        "beside", "p50", "p99", "max", "x quiet", "hiccup p99", "missing"
    );
    let quiet = measure(arguments, server, &mut fleet, None)?;
    let quiet_p99 = quiet.score.lateness.value_at_quantile(0.99).max(1);
    quiet.print("nothing", quiet_p99);
    let mut missing = quiet.score.missing;
    for attack in attacks {
        let seen = measure(arguments, server, &mut fleet, Some(attack))?;
        missing += seen.score.missing;
        seen.print(&attack.name(), quiet_p99);
    }
    let again = measure(arguments, server, &mut fleet, None)?;
    missing += again.score.missing;
    again.print("nothing again", quiet_p99);

    let wrong = sessions::stop_watched(server, &users, fleet.seen().map(|(seen, _)| seen))?;
    println!("\n{wrong} stops that don't add up");
    Ok(if missing == 0 && wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts the sessions one after the other.
fn start(server: SocketAddr, users: &Users) -> anyhow::Result<()> {
    let count = u32::try_from(users.len())?;
    let begun = Instant::now();
    for (number, token) in (1..=count).zip(users.evenly(users.len())) {
        control::call_as(server, "POST", "/api/sessions/start", token)?;
        let due = begun + STARTS_SPREAD * number / count;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Measures for the time that is wanted, beside an attack or in quiet.
fn measure(
    arguments: &AttackArguments,
    server: SocketAddr,
    fleet: &mut Fleet<'_>,
    attack: Option<Attack>,
) -> anyhow::Result<Seen> {
    let refused_before = metrics::refused(server)?;
    let mut attacker = match attack {
        Some(attack) => Some(Attacker::start(attack, arguments)?),
        None => None,
    };
    fleet.read_until(Instant::now() + WARM_UP)?;
    let hiccups = hiccup::Meter::start();
    let from = wall_micros();
    fleet.read_until(Instant::now() + Duration::from_secs(arguments.seconds))?;
    let to = wall_micros();
    let hiccups = hiccups.end()?;
    if let Some(attacker) = &mut attacker {
        attacker.end()?;
    }
    fleet.read_until(Instant::now() + PATIENCE)?;
    let mut refused = metrics::refused(server)?;
    for (name, before) in refused_before {
        refused
            .entry(name)
            .and_modify(|now| *now = now.saturating_sub(before));
    }
    refused.retain(|_, times| *times > 0);
    let seen = fleet.seen().map(|(seen, _)| seen);
    Ok(Seen {
        score: Score::of(seen, from, to, Rule::Pushed),
        hiccups,
        refused,
    })
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
        let p99 = self.score.lateness.value_at_quantile(0.99);
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
            millis(self.score.lateness.value_at_quantile(0.5)),
            millis(p99),
            millis(self.score.lateness.max()),
            format!("{}.{}", tenths / 10, tenths % 10),
            millis(self.hiccups.value_at_quantile(0.99)),
            self.score.missing,
            refused.join(", ")
        );
    }
}

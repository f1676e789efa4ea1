//! `load watch`: every user of a running server starts a session and watches it; then all stop, and the
//! books are checked. It is for servers of yours; `load bench watch` starts one of its own.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    Target,
    clock::wall_micros,
    fleet::Fleet,
    hiccup,
    schedule::{Rule, Score, quantile},
    sessions,
};

/// How many connect at once.
const CONNECT_AT_ONCE: usize = 64;
/// How long all together may take to connect.
const CONNECT_PATIENCE: Duration = Duration::from_mins(2);
/// How late an update may come before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The arguments of `load watch`.
#[derive(clap::Args)]
pub struct WatchArguments {
    #[command(flatten)]
    target: Target,
    /// For how long all are watched, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Prints one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &WatchArguments) -> anyhow::Result<ExitCode> {
    let (users, server) = (arguments.target.users()?, arguments.target.address()?);
    sessions::start_all(server, &users)?;
    let mut fleet = open(server, users.evenly(users.len()))?;

    let hiccups = hiccup::Meter::start();
    let from = wall_micros();
    fleet.read_until(Instant::now() + Duration::from_secs(arguments.seconds))?;
    let to = wall_micros();
    let hiccups = hiccups.end()?;
    fleet.read_until(Instant::now() + PATIENCE)?;

    let seen = || fleet.seen().map(|(seen, _)| seen);
    let score = Score::of(seen(), from, to, Rule::Pushed);
    let stops_wrong = sessions::stop_watched(server, &users, seen())?;
    print(users.len(), &score, stops_wrong, &hiccups, arguments.json);
    let is_right = score.missing + score.doubled + score.early == 0 && stops_wrong == 0;
    Ok(if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Watchers for these tokens' users, each with its first balance.
pub fn open<'t>(
    server: std::net::SocketAddr,
    tokens: impl Iterator<Item = &'t str>,
) -> anyhow::Result<Fleet<'t>> {
    let mut fleet = Fleet::new(server, tokens, 16)?;
    fleet.open(CONNECT_AT_ONCE, CONNECT_PATIENCE)?;
    Ok(fleet)
}

fn print(users: usize, score: &Score, stops_wrong: usize, hiccups: &Histogram<u64>, is_json: bool) {
    let quantiles = |histogram: &Histogram<u64>, infinite| {
        [0.5, 0.99, 0.999, 1.0].map(|share| quantile(histogram, infinite, share))
    };
    let late = quantiles(&score.lateness, score.missing);
    let baseline = quantiles(hiccups, 0);
    if is_json {
        // What is infinite is null.
        let row = |row: [Option<u64>; 4]| serde_json::json!({ "p50": row[0], "p99": row[1], "p999": row[2], "max": row[3] });
        let json = serde_json::json!({
            "totals": {
                "users": users,
                "updates": score.lateness.len(),
                "missing": score.missing,
                "doubled": score.doubled,
                "early": score.early,
                "stopsWrong": stops_wrong,
            },
            "latenessMicros": row(late),
            "hiccupMicros": row(baseline),
        });
        println!("{json}");
        return;
    }
    println!(
        "{users} users · {} falls seen · {} missing · {} doubled · {} early · {stops_wrong} stops that don't add up",
        score.lateness.len(),
        score.missing,
        score.doubled,
        score.early
    );
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "p50", "p99", "p99.9", "max"
    );
    for (name, row) in [
        ("update later than due", late),
        ("the machine's own hiccups", baseline),
    ] {
        let cell = |micros: Option<u64>| match micros {
            Some(micros) => format!("{:>6}.{:03}", micros / 1_000, micros % 1_000),
            None => format!("{:>10}", "∞"),
        };
        println!("{name:<28}{}", row.map(cell).concat());
    }
}

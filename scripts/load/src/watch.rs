//! `load watch`: every user starts a session and watches it; then all stop, and the books are checked.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use schema::{
    session::{SessionStarted, SessionStopped},
    websocket::ServerMessage,
};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::{Target, client, hiccup, score::Watched};

/// The arguments of `load watch`.
#[derive(clap::Args)]
pub struct WatchArguments {
    #[command(flatten)]
    target: Target,
    /// For how long all sessions run, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Prints one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What all users saw together.
#[derive(Default, serde::Serialize)]
struct Totals {
    users: usize,
    updates: u64,
    missing: usize,
    doubled: i64,
    stops_wrong: usize,
}

/// Runs the command.
pub async fn run(arguments: WatchArguments) -> anyhow::Result<ExitCode> {
    let tokens = arguments.target.tokens()?;
    let server = &arguments.target.server;

    let mut readers = JoinSet::new();
    let mut watched = Vec::new();
    for token in &tokens {
        let socket = client::open_socket(server, token)
            .await
            .context("opening a websocket")?;
        let seen = Arc::new(Mutex::new(Watched::default()));
        watched.push(Arc::clone(&seen));
        readers.spawn(read(socket, seen));
    }

    let hiccups = hiccup::Meter::start();
    client::for_all::<SessionStarted>(server, &tokens, "/api/sessions/start").await?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let stops = client::for_all::<SessionStopped>(server, &tokens, "/api/sessions/stop").await?;
    // The last updates are on their way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    readers.abort_all();

    let mut totals = Totals {
        users: tokens.len(),
        ..Totals::default()
    };
    let mut lateness = hiccup::new_histogram();
    for (seen, stop) in watched.iter().zip(&stops) {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        totals.missing += seen.missing(stop.ended_at);
        totals.doubled += seen.doubled(stop.ended_at);
        totals.stops_wrong += usize::from(!seen.agrees_with(stop));
        for late in seen.lateness_micros() {
            totals.updates += 1;
            lateness.saturating_record(u64::try_from(late).unwrap_or(0));
        }
    }
    let hiccups = hiccups.end()?;
    print(&totals, &lateness, &hiccups, arguments.json)?;
    let is_right = totals.missing == 0 && totals.doubled == 0 && totals.stops_wrong == 0;
    Ok(if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Notes every balance that arrives, until the socket closes.
pub async fn read(
    mut socket: tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>,
    seen: Arc<Mutex<Watched>>,
) {
    while let Some(Ok(message)) = socket.next().await {
        let at_micros = wall_micros();
        if let Message::Text(text) = message
            && let Ok(ServerMessage::CreditUpdate(update)) = serde_json::from_str(&text)
        {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(&update, at_micros);
        }
    }
}

/// The wall clock in microseconds since 1970; the server on the same machine has the same.
pub fn wall_micros() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the load generator stands outside the engine"
    )]
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

fn print(
    totals: &Totals,
    lateness: &Histogram<u64>,
    hiccups: &Histogram<u64>,
    is_json: bool,
) -> anyhow::Result<()> {
    let quantiles = |histogram: &Histogram<u64>| {
        [0.5, 0.99, 0.999]
            .map(|quantile| histogram.value_at_quantile(quantile))
            .into_iter()
            .chain([histogram.max()])
            .collect::<Vec<_>>()
    };
    let (late, baseline) = (quantiles(lateness), quantiles(hiccups));
    if is_json {
        let json = serde_json::json!({
            "totals": totals,
            "latenessMicros": { "p50": late[0], "p99": late[1], "p999": late[2], "max": late[3] },
            "hiccupMicros": { "p50": baseline[0], "p99": baseline[1], "p999": baseline[2], "max": baseline[3] },
        });
        println!("{}", serde_json::to_string(&json)?);
        return Ok(());
    }
    println!(
        "{} users · {} falls seen · {} missing · {} doubled · {} stops that don't add up",
        totals.users, totals.updates, totals.missing, totals.doubled, totals.stops_wrong
    );
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "p50", "p99", "p99.9", "max"
    );
    for (name, row) in [
        ("update later than due", late),
        ("the machine's own hiccups", baseline),
    ] {
        let cells: Vec<String> = row
            .iter()
            .map(|micros| format!("{:>6}.{:03}", micros / 1_000, micros % 1_000))
            .collect();
        println!("{name:<28}{}", cells.concat());
    }
    Ok(())
}

//! `minute-credit credits`: looking at a wallet, and changing its balance as an operator.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use engine::{
    Clock,
    store::{AdjustError, Adjusted, Adjustment, Shortfall, Standing, Store, UserRecord},
};
use jiff::Timestamp;
use schema::{
    Credits, CreditsChange, SessionId, UnixMillis,
    ledger::{EntryKind, LedgerEntry},
};

use super::words;
use crate::settings::Settings;

/// What all the changes have in common.
const ABOUT_KEYS: &str = "\
It is done once for each key, however often the command is repeated. Without --key a fresh key is
made and printed: repeat with it if the outcome was unknown.
";

/// `show`, `grant`, `revoke` or `refund`
#[derive(Subcommand)]
pub(super) enum Command {
    /// Show a wallet: its balance, what of it is free, the live session and the last ledger entries
    #[command(after_help = "\
Examples:
  minute-credit credits show ada@example.com
  minute-credit credits show 42 --entries 0 --json")]
    Show {
        /// The user's email, or id
        user: String,
        /// How many ledger entries to show
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1_000))]
        entries: u32,
        /// Print one JSON object, for programs
        #[arg(long)]
        json: bool,
    },
    /// Give credits to a user; a running session goes on with them
    #[command(after_help = format!("{ABOUT_KEYS}
Example:
  minute-credit credits grant ada@example.com 500 --reason 'support case 17' --key case-17"))]
    Grant(Order),
    /// Take credits back that are free: neither used nor held by a running session, which ends sooner
    #[command(after_help = format!("{ABOUT_KEYS}
Example:
  minute-credit credits revoke ada@example.com 500 --up-to --reason 'chargeback 4711'"))]
    Revoke {
        #[command(flatten)]
        order: Order,
        /// Take what is free if that is less, instead of nothing
        #[arg(long)]
        up_to: bool,
    },
    /// Give back what a session cost; all refunds of a session never exceed its cost
    #[command(after_help = format!("{ABOUT_KEYS}
Example:
  minute-credit credits refund ada@example.com 12 --session 345 --reason 'no picture, case 18'"))]
    Refund {
        #[command(flatten)]
        order: Order,
        /// The session, by its id
        #[arg(long, value_name = "ID", value_parser = words::parse_session)]
        session: SessionId,
    },
}

/// Whose balance is to be changed, by how much, and what the ledger says about it.
#[derive(Args)]
pub(super) struct Order {
    /// The user's email, or id
    #[arg(value_name = "USER")]
    user: String,
    /// How many credits, at least 1
    #[arg(value_parser = words::parse_amount, allow_negative_numbers = true)]
    amount: Credits,
    /// Why, for the ledger
    #[arg(long, value_parser = words::parse_reason)]
    reason: String,
    /// Who does it, for the ledger [default: you, as $USER or the system has it]
    #[arg(long, value_name = "NAME", value_parser = words::parse_name)]
    operator: Option<String>,
    /// The idempotency key
    #[arg(long, value_parser = words::parse_key)]
    key: Option<String>,
}

/// What is to be done with an order.
#[derive(Clone, Copy)]
struct Deed {
    kind: EntryKind,
    session: Option<SessionId>,
    shortfall: Shortfall,
}

pub(super) async fn run(settings: &Settings, command: Command) -> anyhow::Result<ExitCode> {
    let deed = |kind| Deed {
        kind,
        session: None,
        shortfall: Shortfall::Refuse,
    };
    match command {
        Command::Show {
            user,
            entries,
            json,
        } => show(settings, &user, entries, json).await,
        Command::Grant(order) => adjust(settings, order, deed(EntryKind::Grant)).await,
        Command::Revoke { order, up_to } => {
            let shortfall = if up_to {
                Shortfall::TakeWhatIsFree
            } else {
                Shortfall::Refuse
            };
            let deed = Deed {
                shortfall,
                ..deed(EntryKind::Revoke)
            };
            adjust(settings, order, deed).await
        }
        Command::Refund { order, session } => {
            let deed = Deed {
                session: Some(session),
                ..deed(EntryKind::Refund)
            };
            adjust(settings, order, deed).await
        }
    }
}

/// Opens the database, and finds the user in it.
async fn find(
    settings: &Settings,
    user: &str,
) -> anyhow::Result<(Arc<dyn Store>, Clock, UserRecord)> {
    let (store, clock) = super::open_existing(settings).await?;
    let user = super::find_user(store.as_ref(), user).await?;
    Ok((store, clock, user))
}

// --- changing ---

async fn adjust(settings: &Settings, order: Order, deed: Deed) -> anyhow::Result<ExitCode> {
    let operator = words::operator(order.operator)?;
    let (store, clock, user) = find(settings, &order.user).await?;
    let key = order
        .key
        .unwrap_or_else(|| format!("cli-{:032x}", rand::random::<u128>()));
    let amount = if deed.kind == EntryKind::Revoke {
        CreditsChange::outgoing(order.amount)
    } else {
        CreditsChange::incoming(order.amount)
    };
    let adjustment = Adjustment {
        user: user.id,
        kind: deed.kind,
        amount,
        session: deed.session,
        shortfall: deed.shortfall,
        at: clock.now(),
        reason: order.reason,
        operator,
        idempotency_key: key.clone(),
    };
    let adjusted = store.adjust(adjustment).await;
    store.close().await;
    let adjusted = adjusted.map_err(|error| explained(error, deed, &key))?;
    println!("{}", told(&user.email, deed, &key, &adjusted));
    Ok(ExitCode::SUCCESS)
}

/// What became of an adjustment that came back with `error`.
fn explained(error: AdjustError, deed: Deed, key: &str) -> anyhow::Error {
    let past = past(deed.kind);
    let may_take_less = matches!(&error, AdjustError::MoreThanFree { free } if !free.is_zero())
        && deed.shortfall == Shortfall::Refuse;
    let is_unknown = matches!(&error, AdjustError::Store(error) if error.is_transient());
    let error = anyhow::Error::from(error);
    if is_unknown {
        return error.context(format!(
            "whether the credits were {past} is unknown: repeat with --key {key}"
        ));
    }
    let hint = if may_take_less {
        " (--up-to takes what is free)"
    } else {
        ""
    };
    error.context(format!("no credits were {past}{hint}"))
}

/// What was done, in a line.
fn told(email: &str, deed: Deed, key: &str, adjusted: &Adjusted) -> String {
    let past = past(deed.kind);
    let done = if adjusted.is_repeat {
        format!("had been {past} before, nothing changed")
    } else {
        past.to_owned()
    };
    let side = if deed.kind == EntryKind::Revoke {
        "of"
    } else {
        "to"
    };
    let session = deed
        .session
        .map_or_else(String::new, |session| format!(" for session {session}"));
    format!(
        "{} credits {side} {email}: {done}{session} (key {key}, ledger entry {}, balance {})",
        adjusted.amount.get().unsigned_abs(),
        adjusted.entry,
        adjusted.balance_after
    )
}

const fn past(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Revoke => "revoked",
        EntryKind::Refund => "refunded",
        _ => "granted",
    }
}

// --- looking ---

async fn show(
    settings: &Settings,
    user: &str,
    entries: u32,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (store, clock, user) = find(settings, user).await?;
    let read = || "the wallet could not be read";
    let standing = store
        .standing(user.id, clock.now())
        .await
        .with_context(read)?;
    let standing = standing.with_context(|| format!("there is no user {} any more", user.id))?;
    let entries = store
        .ledger(user.id, None, entries)
        .await
        .with_context(read)?;
    store.close().await;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", as_json(&user, &standing, &entries))?;
    } else {
        write_standing(&mut out, &user, &standing)?;
        write_entries(&mut out, &entries)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a live session has cost; nothing if it has run out of credits, which is not recorded yet.
fn cost_of(standing: &Standing, session: SessionId) -> Option<Credits> {
    let mut costs = standing.consumed.iter();
    costs.find(|(id, _)| *id == session).map(|(_, cost)| *cost)
}

fn as_json(user: &UserRecord, standing: &Standing, entries: &[LedgerEntry]) -> serde_json::Value {
    let sessions = standing.record.live.iter().map(|live| {
        serde_json::json!({
            "sessionId": live.session.id,
            "startedAt": live.session.started_at,
            "cost": cost_of(standing, live.session.id),
            "settled": live.session.settled.total,
            "node": live.node.as_str(),
        })
    });
    serde_json::json!({
        "userId": user.id,
        "email": user.email,
        "at": standing.at,
        "balance": standing.balance,
        "free": standing.free,
        "ledger": standing.record.credits,
        "sessions": sessions.collect::<Vec<_>>(),
        "entries": entries,
    })
}

fn write_standing(out: &mut impl Write, user: &UserRecord, standing: &Standing) -> io::Result<()> {
    let Standing {
        record,
        at,
        balance,
        free,
        ..
    } = standing;
    writeln!(out, "user     {}, {}", user.id, user.email)?;
    writeln!(out, "at       {}", time(*at))?;
    writeln!(out, "balance  {balance}")?;
    writeln!(out, "free     {free}")?;
    writeln!(out, "ledger   {}", record.credits)?;
    if record.live.is_empty() {
        writeln!(out, "session  none is live")?;
    }
    for live in &record.live {
        let id = live.session.id;
        let cost = match cost_of(standing, id) {
            Some(cost) => format!("has cost {cost}"),
            None => "has run out of credits".to_owned(),
        };
        writeln!(
            out,
            "session  {id} is live since {}, {cost} of which {} are in the ledger, at node {}",
            time(live.session.started_at),
            live.session.settled.total,
            live.node.as_str()
        )?;
    }
    Ok(())
}

fn write_entries(out: &mut impl Write, entries: &[LedgerEntry]) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:>8}  {:<24}  {:<12}  {:>8}  {:>8}  {:>8}  reason",
        "entry", "at", "kind", "amount", "balance", "session"
    )?;
    for entry in entries {
        let session = entry
            .session_id
            .map_or_else(String::new, |session| session.to_string());
        let line = format!(
            "{:>8}  {:<24}  {:<12}  {:>+8}  {:>8}  {session:>8}  {}",
            entry.entry_id,
            time(entry.at),
            entry.kind.as_str(),
            entry.amount.get(),
            entry.balance_after,
            entry.reason.as_deref().unwrap_or_default()
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The instant as people write it; its number if it is beyond what they do.
pub(super) fn time(at: UnixMillis) -> String {
    Timestamp::from_millisecond(at.get())
        .map_or_else(|_| at.to_string(), |time| format!("{time:.3}"))
}

//! `minute-credit verify`: the whole database against the laws, and repairing what is only a cache.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use engine::{
    Clock,
    store::{
        Store,
        audit::{AuditLimits, AuditPage, Moved, Place, Rebuilt, RepairMode, Repaired, Violation},
    },
};
use indicatif::{ProgressBar, ProgressStyle};
use schema::UserId;

use crate::settings::Settings;

/// How many users are audited at a time, and how many rows of a kind are in memory at once.
const USERS_AT_ONCE: u32 = 500;
const ROWS_AT_ONCE: u32 = 20_000;
/// How many violations of one rule are told one by one; the others are counted.
const TOLD_OF_A_RULE: u64 = 20;

/// `--repair`, `--yes`
#[derive(Args)]
#[command(after_help = "\
Every violation is a line on standard output: the law as the README numbers them, the table and row,
the user, and what is wrong. It tells too of constraints, indexes and triggers that are missing,
changed or disabled. Of one rule that many rows break, the first are told and the others counted. Exit
code 0: nothing is wrong. It may run beside a server.

--repair rebuilds caches of the ledger, users' balances and sessions' totals, and nothing else. It
moves no credit and never writes to the ledger, and audits again. It leaves a user alone whose facts are
damaged: where rebuilding would leave anything wrong with the user's money, or an entry is none that
can be. Users with a live session are left alone too: repair them once it has ended.

Examples:
  minute-credit verify
  minute-credit verify --repair          # list what can be rebuilt, and ask
  minute-credit verify --repair --yes")]
pub(super) struct Arguments {
    /// Rebuild wrong caches from the ledger; without --yes and a terminal to ask on, only list them
    #[arg(long)]
    repair: bool,
    /// Don't ask
    #[arg(long, requires = "repair")]
    yes: bool,
}

/// What an audit of the whole database came to.
#[derive(Default)]
struct Audited {
    users: u64,
    sessions: u64,
    entries: u64,
    moved: Moved,
    violations: u64,
    /// How many rows break each rule of a table.
    rules: BTreeMap<(u8, String, String), u64>,
    /// Whose rows break a law, each once.
    broken: Vec<UserId>,
}

pub(super) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (store, clock) = super::open_existing(settings).await?;
    let mut audited = audit(store.as_ref(), &clock).await?;
    let is_repaired = arguments.repair
        && audited.violations > 0
        && repair(store.as_ref(), &clock, &audited.broken, arguments).await?;
    if is_repaired {
        println!("auditing again");
        audited = audit(store.as_ref(), &clock).await?;
    }
    store.close().await;

    let Audited {
        users,
        sessions,
        entries,
        violations,
        rules,
        moved,
        ..
    } = audited;
    let audited = format!("{users} users, {sessions} sessions, {entries} ledger entries");
    if violations > 0 {
        write_untold(&rules)?;
        println!("not verified: {audited}, {violations} violations");
        return Ok(ExitCode::FAILURE);
    }
    println!("verified: {audited}, no violation");
    println!(
        "credits: {} issued, {} revoked, {} used, {} refunded, {} in wallets",
        moved.issued,
        moved.revoked,
        moved.used,
        moved.refunded,
        moved.held()
    );
    Ok(ExitCode::SUCCESS)
}

// --- auditing ---

/// Audits everything, and prints what is wrong.
async fn audit(store: &dyn Store, clock: &Clock) -> anyhow::Result<Audited> {
    let failed = || "the audit could not be finished";
    let in_all = store.count_users().await.with_context(failed)?;
    let progress = progress(in_all)?;
    let mut audited = Audited::default();
    let mut after = None;
    loop {
        let limits = AuditLimits {
            users: USERS_AT_ONCE,
            rows: ROWS_AT_ONCE,
            now: clock.now(),
        };
        let page = store.audit(after, limits).await.with_context(failed)?;
        let told = audited.add(&page);
        progress.suspend(|| write_violations(&told))?;
        progress.set_position(audited.users);
        progress.set_message(format!(
            "{} sessions, {} ledger entries, {} violations",
            audited.sessions, audited.entries, audited.violations
        ));
        after = page.last;
        if after.is_none() {
            break;
        }
    }
    progress.finish_and_clear();
    audited.broken.sort_unstable();
    audited.broken.dedup();
    Ok(audited)
}

/// A progress bar for so many users. It draws itself on standard error, and only where that is a
/// terminal.
fn progress(users: u64) -> anyhow::Result<ProgressBar> {
    let template = "{bar:30} {pos}/{len} users, {msg} [{elapsed}, {eta} left]";
    let progress = ProgressBar::new(users).with_style(ProgressStyle::with_template(template)?);
    progress.enable_steady_tick(Duration::from_millis(100));
    Ok(progress)
}

fn write_violations(violations: &[&Violation]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for Violation {
        law, place, what, ..
    } in violations
    {
        let Place { table, row, user } = place;
        match user {
            Some(user) if table != "users" => {
                writeln!(out, "law {law}, {table} {row}, user {user}: {what}")?;
            }
            _ => writeln!(out, "law {law}, {table} {row}: {what}")?,
        }
    }
    Ok(())
}

/// Tells how many rows there are besides those that were told one by one.
fn write_untold(rules: &BTreeMap<(u8, String, String), u64>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for ((law, table, rule), count) in rules {
        let untold = count.saturating_sub(TOLD_OF_A_RULE);
        if untold > 0 {
            writeln!(
                out,
                "law {law}, {table}: {untold} more, {count} in all: {rule}"
            )?;
        }
    }
    Ok(())
}

impl Audited {
    /// Adds a page, and returns those of its violations that are to be told.
    fn add<'p>(&mut self, page: &'p AuditPage) -> Vec<&'p Violation> {
        self.users += page.users;
        self.sessions += page.sessions;
        self.entries += page.entries;
        self.moved = self.moved.and(page.moved);
        let mut told = Vec::new();
        for violation in &page.violations {
            let Violation {
                law, place, rule, ..
            } = violation;
            self.violations += violation.count;
            let key = (*law, place.table.clone(), rule.clone());
            let of_rule = self.rules.entry(key).or_default();
            *of_rule += violation.count;
            if *of_rule <= TOLD_OF_A_RULE {
                told.push(violation);
            }
            if self.broken.last() != place.user.as_ref() {
                self.broken.extend(place.user);
            }
        }
        told
    }
}

// --- repairing ---

/// Rebuilds the caches of these users, if that is wanted. Returns whether anything was written.
async fn repair(
    store: &dyn Store,
    clock: &Clock,
    users: &[UserId],
    arguments: &Arguments,
) -> anyhow::Result<bool> {
    if arguments.yes {
        return Ok(go_through(store, clock, users, RepairMode::Apply).await? > 0);
    }
    let count = go_through(store, clock, users, RepairMode::List).await?;
    if count == 0 {
        println!("nothing can be repaired");
        return Ok(false);
    }
    if !io::stdin().is_terminal() {
        println!("{count} users can be repaired: do it with --repair --yes");
        return Ok(false);
    }
    print!("Repair {count} users? Only \"yes\" does it: ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("no answer could be read")?;
    if answer.trim() != "yes" {
        println!("nothing was repaired");
        return Ok(false);
    }
    Ok(go_through(store, clock, users, RepairMode::Apply).await? > 0)
}

/// Repairs the users one by one, or lists what that would do. Returns how many there are to repair.
async fn go_through(
    store: &dyn Store,
    clock: &Clock,
    users: &[UserId],
    mode: RepairMode,
) -> anyhow::Result<u64> {
    let mut count = 0;
    let done = match mode {
        RepairMode::List => "can be set",
        RepairMode::Apply => "was set",
    };
    for user in users {
        let repaired = store
            .repair(*user, mode, clock.now())
            .await
            .with_context(|| format!("user {user} may not be repaired: repeat"))?;
        match repaired {
            Repaired::NothingToDo => println!("user {user}: no cache is wrong, left alone"),
            Repaired::LeftAlone(why) => println!("user {user}: left alone, {why}"),
            Repaired::Caches(caches) => {
                count += 1;
                for Rebuilt { session, from, to } in caches {
                    let what = session.map_or_else(
                        || "the balance".to_owned(),
                        |session| format!("what session {session} has consumed"),
                    );
                    println!("user {user}: {what} {done} from {from} to {to}");
                }
            }
        }
    }
    Ok(count)
}

//! The summary of a run, and what is wrong.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    checker::{Kind, Undercharge, Verdict},
    history::History,
    nemesis::Strike,
    records::Records,
};

/// How many violations are printed in full; all are in the file.
const PRINTED_MAX: usize = 20;

/// What a run comes to.
pub struct Report {
    /// The seed that its decisions came from.
    pub seed: u64,
    /// How many rounds were run.
    pub rounds: u32,
    /// What ended them.
    pub strikes: BTreeMap<Strike, u32>,
    /// How many COMMITs were cut off.
    pub cuts: u64,
    /// How long it all took.
    pub elapsed: Duration,
    /// What `minute-credit verify` said last.
    pub verified: String,
    /// What the checker found.
    pub verdict: Verdict,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.verdict.violations.is_empty()
    }

    /// Writes the summary for people.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        for violation in self.verdict.violations.iter().take(PRINTED_MAX) {
            let user = violation
                .user
                .map_or_else(String::new, |user| format!(", user {}", user.0));
            writeln!(out, "{}{user}: {}", violation.kind.as_str(), violation.what)?;
            for row in &violation.evidence {
                writeln!(out, "    {row}")?;
            }
        }
        let hidden = self.verdict.violations.len().saturating_sub(PRINTED_MAX);
        if hidden > 0 {
            writeln!(out, "and {hidden} more")?;
        }
        self.write_rounds(out)?;
        self.write_operations(out)?;
        let verdict = &self.verdict;
        row(
            out,
            "records",
            format_args!(
                "{} sessions, {} ledger entries; {} websocket messages",
                verdict.sessions, verdict.entries, verdict.messages
            ),
        )?;
        row(out, "verify", &self.verified)?;
        for kind in Kind::ALL {
            row(out, kind.as_str(), verdict.count(kind))?;
        }
        let Undercharge {
            worst_ms,
            worst_per_crash_ms,
            sessions,
        } = verdict.undercharge;
        row(
            out,
            "undercharge",
            format_args!(
                "at worst {worst_ms} ms of a session, {worst_per_crash_ms} ms for each crash \
                 it went through ({sessions} sessions bounded)"
            ),
        )?;
        let seconds = self.elapsed.as_secs();
        row(
            out,
            "duration",
            format_args!("{} min {} s", seconds / 60, seconds % 60),
        )?;
        row(out, "seed", self.seed)
    }

    fn write_rounds(&self, out: &mut impl Write) -> std::io::Result<()> {
        row(out, "rounds", self.rounds)?;
        for (strike, count) in &self.strikes {
            row(out, "", format_args!("{count:>6}  {}", strike.as_str()))?;
        }
        if self.cuts > 0 {
            row(out, "", format_args!("{:>6}  COMMITs cut off", self.cuts))?;
        }
        Ok(())
    }

    fn write_operations(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "\n{:<16}{:>12}{:>9}{:>9}   and then{:>14}{:>9}{:>7}{:>10}",
            "operations",
            "acknowledged",
            "refused",
            "unknown",
            "acknowledged",
            "refused",
            "found",
            "not found"
        )?;
        for (sort, tally) in &self.verdict.tallies {
            writeln!(
                out,
                "{sort:<16}{:>12}{:>9}{:>9}           {:>14}{:>9}{:>7}{:>10}",
                tally.acknowledged,
                tally.refused,
                tally.unknown,
                tally.acknowledged_later,
                tally.refused_later,
                tally.found_done,
                tally.found_undone
            )?;
        }
        writeln!(out)
    }
}

/// A line of the summary.
fn row(out: &mut impl Write, name: &str, value: impl Display) -> std::io::Result<()> {
    writeln!(out, "{name:<16}{value}")
}

/// Writes everything into files in `dir`, one JSON value a line, for whoever looks into a violation.
pub fn keep(
    dir: &Path,
    history: &History,
    records: &Records,
    verdict: &Verdict,
) -> anyhow::Result<()> {
    lines(&dir.join("violations.jsonl"), &verdict.violations)?;
    lines(&dir.join("operations.jsonl"), &history.operations)?;
    lines(&dir.join("sightings.jsonl"), &history.sightings)?;
    lines(&dir.join("streams.jsonl"), &history.streams)?;
    lines(&dir.join("processes.jsonl"), &history.lives)?;
    lines(&dir.join("records.jsonl"), &records.users)
}

fn lines<T: Serialize>(path: &Path, rows: &[T]) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("can't write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    for row in rows {
        serde_json::to_writer(&mut file, row)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

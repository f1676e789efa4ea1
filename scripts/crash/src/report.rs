//! The summary of a run, and what is wrong.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    checker::{Kind, Verdict},
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
        let mut row = |name: &str, value: String| writeln!(out, "{name:<14}{value}");
        row("rounds", self.rounds.to_string())?;
        for (strike, count) in &self.strikes {
            row("", format!("{count} × {}", strike.as_str()))?;
        }
        if self.cuts > 0 {
            row("", format!("{} COMMITs cut off", self.cuts))?;
        }
        for (sort, tally) in &self.verdict.tallies {
            row(
                &format!("{sort}s"),
                format!(
                    "{} acknowledged, {} refused, {} unknown at first \
                     (then {} acknowledged, {} refused; {} found done, {} found not done)",
                    tally.acknowledged,
                    tally.refused,
                    tally.unknown,
                    tally.acknowledged_later,
                    tally.refused_later,
                    tally.found_done,
                    tally.found_undone
                ),
            )?;
        }
        row(
            "records",
            format!(
                "{} sessions, {} ledger entries; {} messages over websockets",
                self.verdict.sessions, self.verdict.entries, self.verdict.messages
            ),
        )?;
        row("verify", self.verified.clone())?;
        for kind in Kind::ALL {
            row(kind.as_str(), self.verdict.count(kind).to_string())?;
        }
        let undercharge = self.verdict.undercharge;
        row(
            "undercharge",
            format!(
                "{} ms at worst in one session, {} ms for each crash ({} sessions bounded)",
                undercharge.worst_ms, undercharge.worst_per_crash_ms, undercharge.sessions
            ),
        )?;
        row("duration", format!("{:.1} s", self.elapsed.as_secs_f64()))?;
        row("seed", self.seed.to_string())
    }
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

//! What holds for a node's runs (law 8): they follow each other, and the last one is the current one.
//! Old ones that no session fell into may have been deleted.

use super::{Findings, Place, rows::RunRow};

/// For how long retention keeps runs at least, in ms: a day.
const KEPT_MS: i64 = 24 * 3_600_000;

/// Checks the runs of one node, in the order of their epochs, by the auditor's clock.
pub(super) fn check(runs: &[RunRow], now: i64, findings: &mut Findings<'_>) {
    for run in runs {
        let RunRow {
            epoch,
            started_at,
            alive_at,
            ..
        } = run;
        if alive_at < started_at {
            let what = format!(
                "run {epoch} of node {} began at {started_at} and was last alive at {alive_at}",
                run.node
            );
            findings.add(8, place(run), "a run was last alive before it began", what);
        }
    }
    for (before, run) in runs.iter().zip(runs.iter().skip(1)) {
        check_neighbours(before, run, now, findings);
    }
    if let Some(last) = runs.last().filter(|last| !last.is_current) {
        let what = format!(
            "run {} of node {} is the last one and not current",
            last.epoch, last.node
        );
        findings.add(8, place(last), "a node's last run is not current", what);
    }
}

fn check_neighbours(before: &RunRow, run: &RunRow, now: i64, findings: &mut Findings<'_>) {
    let RunRow {
        node,
        epoch,
        started_at,
        ..
    } = run;
    let (earlier, latest) = (before.epoch, before.proved());
    if *started_at <= latest {
        let what = format!(
            "run {epoch} of node {node} began at {started_at}, and run {earlier} was alive or recorded something at {latest}"
        );
        findings.add(8, place(run), "two runs of a node overlap", what);
    }
    if before.is_current {
        let what = format!("run {earlier} of node {node} is still current after run {epoch} began");
        findings.add(8, place(before), "a node has two current runs", what);
    }
    // Retention takes old ones from between others, and never one that a session fell into.
    let is_too_young = now.saturating_sub(*started_at) < KEPT_MS;
    if before.epoch.checked_add(1) != Some(*epoch) && is_too_young {
        let what = format!(
            "run {epoch} of node {node} comes after run {earlier}: those between are gone, and too young for retention"
        );
        findings.add(8, place(run), "runs of a node are missing", what);
    }
}

fn place(run: &RunRow) -> Place {
    Place::new("node_runs", format!("{}/{}", run.node, run.epoch))
}

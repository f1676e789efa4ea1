//! What holds for a node's runs (law 8): they follow each other, and the last one is the current one.
//! Old ones that no session fell into may have been deleted.

use super::{Findings, rows::RunRow};

/// Checks the runs of one node, in the order of their epochs.
pub(super) fn check(runs: &[RunRow], findings: &mut Findings<'_>) {
    for run in runs {
        let RunRow {
            node,
            epoch,
            started_at,
            alive_at,
            ..
        } = run;
        if alive_at < started_at {
            findings.add(8, format!("run {epoch} of node {node} began at {started_at} and was last alive at {alive_at}"));
        }
    }
    for (before, run) in runs.iter().zip(runs.iter().skip(1)) {
        let RunRow {
            node,
            epoch,
            started_at,
            ..
        } = run;
        let latest = before.alive_at.max(before.last_instant);
        if *started_at <= latest {
            findings.add(
                8,
                format!(
                    "run {epoch} of node {node} began at {started_at}, and run {} was alive or recorded something at {latest}",
                    before.epoch
                ),
            );
        }
        if before.is_current {
            findings.add(
                8,
                format!(
                    "run {} of node {node} is still current after run {epoch} began",
                    before.epoch
                ),
            );
        }
    }
    if let Some(last) = runs.last().filter(|last| !last.is_current) {
        findings.add(
            8,
            format!(
                "run {} of node {} is the last one and not current",
                last.epoch, last.node
            ),
        );
    }
}

//! `criterion`: the micro-benchmarks of the workspace, by `cargo bench`, and their medians.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::bench::figures::{Figure, Outcome, Unit};

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct CriterionPlan {
    /// Whether each takes one second instead of several.
    pub is_quick: bool,
}

impl CriterionPlan {
    /// What tells it from others of its kind.
    pub fn name(self) -> String {
        let quick = if self.is_quick { ", quickly" } else { "" };
        format!("cargo bench{quick}")
    }

    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let workspace =
            std::env::var_os("BENCH_WORKSPACE").map_or_else(|| ".".into(), PathBuf::from);
        #[expect(
            clippy::disallowed_methods,
            reason = "it is compared with the times of files, and no credit depends on it"
        )]
        let begin = SystemTime::now();
        let mut command = Command::new("cargo");
        command
            .current_dir(&workspace)
            .args(["bench", "--package", "benches", "--"]);
        if self.is_quick {
            command.args(["--quick"]);
        }
        let status = command
            .stdout(Stdio::null())
            .status()
            .context("can't run cargo")?;
        ensure!(status.success(), "cargo bench ended with {status}");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), PathBuf::from);
        let mut outcome = Outcome::default();
        collect(&target.join("criterion"), begin, &mut outcome.figures)?;
        outcome
            .figures
            .sort_by(|one, other| one.what.cmp(&other.what));
        ensure!(!outcome.figures.is_empty(), "cargo bench left no figures");
        Ok(outcome)
    }
}

/// Adds the median of every benchmark below the folder that was run since then.
fn collect(folder: &Path, since: SystemTime, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let (estimates, benchmark) = (path.join("estimates.json"), path.join("benchmark.json"));
        let is_latest = path.ends_with("new") && benchmark.exists();
        if is_latest && fs::metadata(&estimates)?.modified()? >= since {
            let name = string(&benchmark, "/full_id")?;
            let median = read(&estimates)?
                .pointer("/median/point_estimate")
                .and_then(Value::as_f64);
            figures.push(Figure {
                // There are as many as the workspace has benchmarks, once in the life of the program.
                key: name.clone().leak(),
                what: name,
                unit: Unit::Nanos,
                parts: vec![("", median.context("an estimate without a median")?)],
            });
        }
        collect(&path, since, figures)?;
    }
    Ok(())
}

fn string(file: &Path, pointer: &str) -> anyhow::Result<String> {
    let value = read(file)?;
    let text = value.pointer(pointer).and_then(Value::as_str);
    Ok(text
        .with_context(|| format!("no {pointer} in {}", file.display()))?
        .to_owned())
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let text =
        fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))
}

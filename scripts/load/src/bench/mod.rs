//! `load bench`: the benchmark suite behind `scripts/bench`.
//!
//! Every run of a work load has a server of its own with fresh data, which this program starts, watches
//! and ends; so no run profits from or suffers under another. Runs of different plans take turns
//! (A B C A B C …), so that a change of the machine's mood hits all alike. What is told is the median,
//! with the least and the greatest.
//!
//! What makes the figures fair:
//!
//! - Lateness is scored against the schedule that the contract promises, and a push that never comes
//!   counts as infinitely late (`schedule`).
//! - Rates are found by a closed loop, and times also by an open one, where who has to wait counts from
//!   when it was due (`calls`).
//! - How late an idle sleeper wakes stands beside every lateness (`hiccup`).
//! - Every charge is held against whole-number arithmetic of our own (`oracle`), and the database
//!   against `minute-credit verify`.
//! - The load generator takes its share of the same processors; how much is told (`window`).

mod arguments;
mod database;
mod figures;
mod filled;
mod machine;
mod place;
mod plot;
mod report;
mod timeline;
mod window;
mod workload;

use std::{fs, path::Path, process::ExitCode, time::Instant};

use anyhow::Context;

pub use arguments::BenchArguments;

use figures::Outcome;
use machine::Machine;
use place::{Bench, StoreKind};
use report::{Measured, Report, RunRecord, full_name};
use workload::Plan;

/// Runs the command.
pub fn run(arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    place::raise_file_limit()?;
    let plans = arguments.plans()?;
    let bench = arguments.bench()?;
    let uses_postgres = plans
        .iter()
        .any(|plan| plan.store() == Some(StoreKind::Postgres));
    let machine = Machine::describe(&bench.program, uses_postgres);
    let mut measured: Vec<Measured> = plans
        .into_iter()
        .map(|plan| Measured {
            plan,
            runs: Vec::new(),
        })
        .collect();
    let begin = Instant::now();
    let (rounds, count) = (arguments.rounds(), measured.len());
    for round in 0..rounds {
        for (place, measured) in measured.iter_mut().enumerate() {
            if round > 0 && measured.plan.is_repeated_by_itself() {
                continue;
            }
            let number = round * count + place + 1;
            eprintln!(
                "{:>5} s  run {number} of {}: {}: {}",
                begin.elapsed().as_secs(),
                rounds * count,
                measured.plan.workload(),
                full_name(&measured.plan)
            );
            measured
                .runs
                .push(run_once(&measured.plan, &bench, number)?);
        }
    }
    let report = Report {
        machine,
        command: arguments::command_line(),
        measured,
    };
    println!("{}", report.markdown());
    if let Some(file) = &arguments.json {
        write(file, &serde_json::to_string_pretty(&report.json())?)?;
    }
    if let Some(folder) = &arguments.out {
        write_out(folder, &report)?;
    }
    eprintln!("{:>5} s  done", begin.elapsed().as_secs());
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One run. One that fails is a run with a problem: it is told, not hidden.
fn run_once(plan: &Plan, bench: &Bench, number: usize) -> anyhow::Result<RunRecord> {
    let load_average = machine::load_average();
    let busy_percent = machine::busy_percent()?;
    let begin = Instant::now();
    let outcome = plan.run(bench).unwrap_or_else(|error| {
        eprintln!("         it failed: {error:#}");
        Outcome {
            problems: vec![format!("the run failed: {error:#}")],
            ..Outcome::default()
        }
    });
    for problem in &outcome.problems {
        eprintln!("         wrong: {problem}");
    }
    Ok(RunRecord {
        number,
        busy_percent,
        load_average,
        took_s: begin.elapsed().as_secs_f64(),
        outcome,
    })
}

/// Writes the table, the JSON document and a plot for every run that has a timeline.
fn write_out(folder: &Path, report: &Report) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    write(&folder.join("table.md"), &report.markdown())?;
    write(
        &folder.join("figures.json"),
        &serde_json::to_string_pretty(&report.json())?,
    )?;
    for measured in &report.measured {
        for run in &measured.runs {
            let Some(timeline) = &run.outcome.timeline else {
                continue;
            };
            let workload = measured.plan.workload();
            let name = format!("{workload}-{:03}.svg", run.number);
            let title = format!("{workload}: {}", full_name(&measured.plan));
            write(&folder.join(name), &plot::svg(&title, timeline))?;
        }
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
}

//! The table and the JSON document. No run is left out of either, a disturbed one is marked.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{
    figures::{Bound, Figure, Goal, Outcome, Unit, median},
    machine::Machine,
    workload::Plan,
};

/// From where on a run counts as disturbed: a hiccup p99, in milliseconds.
const HICCUP_MS_MAX: f64 = 20.0;
/// And how busy the machine was before it, in percent of one processor.
const BUSY_PERCENT_MAX: f64 = 30.0;

/// One run of a plan.
#[derive(Debug)]
pub struct RunRecord {
    /// When it began, as a number among all runs.
    pub number: usize,
    /// How busy the machine was just before, in percent of one processor.
    pub busy_percent: f64,
    /// The load average just before.
    pub load_average: Option<f64>,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// What it came to.
    pub outcome: Outcome,
}

/// A plan with its runs.
#[derive(Debug)]
pub struct Measured {
    /// What was done.
    pub plan: Plan,
    /// Each time.
    pub runs: Vec<RunRecord>,
}

/// All of it.
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// How to get it again.
    pub command: String,
    /// What was done.
    pub measured: Vec<Measured>,
}

impl RunRecord {
    /// Why its figures are to be doubted, if they are.
    pub fn disturbed(&self) -> Option<String> {
        let hiccup = self.outcome.value("hiccup", "p99");
        let hiccup = hiccup.filter(|hiccup| *hiccup > HICCUP_MS_MAX);
        if let Some(hiccup) = hiccup {
            return Some(format!("the machine's hiccups had a p99 of {hiccup:.0} ms"));
        }
        (self.busy_percent > BUSY_PERCENT_MAX)
            .then(|| format!("the machine was {:.0} % busy before it", self.busy_percent))
    }
}

impl Measured {
    /// The figure's values in all runs that have it.
    fn values(&self, key: &str, part: &str) -> Vec<f64> {
        let value = |run: &RunRecord| run.outcome.value(key, part);
        self.runs.iter().filter_map(value).collect()
    }

    /// The figures in the order of the first run.
    fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.runs
            .iter()
            .take(1)
            .flat_map(|run| &run.outcome.figures)
    }

    /// What is wanted of a figure, and whether the median has it; two empty texts if nothing is.
    fn goals_met(&self, figure: &Figure) -> (String, &'static str) {
        let goals = self.plan.goals().into_iter();
        let goals: Vec<Goal> = goals.filter(|goal| goal.key == figure.key).collect();
        let is_met = |goal: &Goal| {
            let value = median(&self.values(goal.key, goal.part));
            goal.bound.is_met_by(value)
        };
        let met = match goals.iter().all(is_met) {
            _ if goals.is_empty() => "",
            true => "yes",
            false => "**no**",
        };
        let shown: Vec<String> = goals
            .iter()
            .map(|goal| show_goal(goal, figure.unit))
            .collect();
        (shown.join(", "), met)
    }
}

impl Report {
    /// Whether nothing was missing, doubled, drifting or not clean.
    pub fn is_clean(&self) -> bool {
        let mut runs = self.measured.iter().flat_map(|it| &it.runs);
        runs.all(|run| run.outcome.problems.is_empty())
    }

    /// The whole report in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("`{}`\n\n", self.command);
        for (name, value) in &self.machine.facts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "- {name}: {value}");
        }
        text.push('\n');
        text.push_str("| work load | figure | median | of all runs | goal | met |\n");
        text.push_str("|---|---|---:|---:|---:|---|\n");
        for measured in &self.measured {
            write_rows(&mut text, measured);
        }
        text.push_str(
            "\nThe median is of the runs; beside it are the least and the greatest. Of a distribution it is \
             that of each of p50 / p99 / p99.9 / max, and beside it that of the p99. A push that never came \
             counts as infinitely late.\n",
        );
        self.write_remarks(&mut text);
        text
    }

    fn write_remarks(&self, text: &mut String) {
        for measured in &self.measured {
            let mut remarks: Vec<String> = Vec::new();
            for (number, run) in (1..).zip(&measured.runs) {
                let outcome = &run.outcome;
                let problems = outcome.problems.iter().map(|it| format!("**wrong**: {it}"));
                let disturbed = run.disturbed().map(|why| format!("disturbed: {why}"));
                let notes = outcome.notes.iter().cloned();
                for remark in problems.chain(disturbed).chain(notes) {
                    remarks.push(format!("  - run {number}: {remark}"));
                }
            }
            let settings = measured
                .runs
                .iter()
                .take(1)
                .flat_map(|run| &run.outcome.settings);
            let settings: Vec<String> = settings
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            if !settings.is_empty() {
                remarks.push(format!("  - settings: `{}`", settings.join(" ")));
            }
            if !remarks.is_empty() {
                let (workload, name) = (measured.plan.workload(), full_name(&measured.plan));
                let _ = write!(text, "\n- {workload}: {name}\n{}\n", remarks.join("\n"));
            }
        }
    }

    /// The whole report as JSON, with every run's figures. What is infinite is `null`.
    pub fn json(&self) -> Value {
        let measured = self.measured.iter().map(|measured| {
            json!({
                "workload": measured.plan.workload(),
                "name": full_name(&measured.plan),
                "goals": measured.plan.goals().iter().map(goal_json).collect::<Vec<_>>(),
                "medians": figures_json(measured.figures(), |key, part, _| {
                    median(&measured.values(key, part))
                }),
                "runs": measured.runs.iter().map(run_json).collect::<Vec<_>>(),
            })
        });
        json!({
            "command": self.command,
            "machine": self.machine.json(),
            "measured": measured.collect::<Vec<_>>(),
        })
    }
}

/// The plan's name with where the data was.
pub fn full_name(plan: &Plan) -> String {
    match plan.store() {
        Some(store) => format!("{}, {}", plan.name(), store.name()),
        None => plan.name(),
    }
}

fn write_rows(text: &mut String, measured: &Measured) {
    let mut head = format!(
        "**{}**: {}",
        measured.plan.workload(),
        full_name(&measured.plan)
    );
    let disturbed = measured.runs.iter().filter(|run| run.disturbed().is_some());
    let (disturbed, all) = (disturbed.count(), measured.runs.len());
    let _ = write!(head, ", {all} run{}", if all == 1 { "" } else { "s" });
    if disturbed > 0 {
        let _ = write!(head, ", {disturbed} of them disturbed");
    }
    for figure in measured.figures() {
        let show = |part: &str| figure.unit.show(median(&measured.values(figure.key, part)));
        let medians: Vec<String> = figure.parts.iter().map(|(part, _)| show(part)).collect();
        let range = range_of(measured, figure);
        let (goals, met) = measured.goals_met(figure);
        let (what, medians) = (&figure.what, medians.join(" / "));
        let _ = writeln!(
            text,
            "| {head} | {what} | {medians} | {range} | {goals} | {met} |"
        );
        head.clear();
    }
    if measured.figures().next().is_none() {
        let _ = writeln!(text, "| {head} | no figures, see below | | | | **no** |");
    }
}

/// The least and the greatest of the number, or of the p99 of a distribution.
fn range_of(measured: &Measured, figure: &Figure) -> String {
    let of = match figure.parts[..] {
        [(only, _)] => only,
        _ if figure.parts.iter().any(|(part, _)| *part == "p99") => "p99",
        _ => return String::new(),
    };
    let values = measured.values(figure.key, of);
    let [least, greatest] = [
        values.iter().copied().fold(f64::INFINITY, f64::min),
        values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    ]
    .map(|value| figure.unit.show(value));
    let name = if of.is_empty() {
        String::new()
    } else {
        format!("{of} ")
    };
    format!("{name}{least} – {greatest}")
}

fn show_goal(goal: &Goal, unit: Unit) -> String {
    let (sign, limit) = match goal.bound {
        Bound::AtMost(limit) => ("≤", limit),
        Bound::AtLeast(limit) => ("≥", limit),
    };
    let part = if goal.part.is_empty() {
        String::new()
    } else {
        format!("{} ", goal.part)
    };
    format!("{part}{sign} {}", unit.show(limit))
}

fn goal_json(goal: &Goal) -> Value {
    let (bound, limit) = match goal.bound {
        Bound::AtMost(limit) => ("at most", limit),
        Bound::AtLeast(limit) => ("at least", limit),
    };
    json!({ "figure": goal.key, "part": goal.part, "bound": bound, "limit": limit })
}

fn run_json(run: &RunRecord) -> Value {
    json!({
        "number": run.number,
        "busyPercentBefore": run.busy_percent,
        "loadAverageBefore": run.load_average,
        "tookSeconds": run.took_s,
        "disturbed": run.disturbed(),
        "problems": run.outcome.problems,
        "notes": run.outcome.notes,
        "settings": run.outcome.settings,
        "figures": figures_json(run.outcome.figures.iter(), |_, _, value| value),
        "timeline": run.outcome.timeline,
    })
}

/// Figures with the values that `value` gives for their keys and parts.
fn figures_json<'f>(
    figures: impl Iterator<Item = &'f Figure>,
    value: impl Fn(&str, &str, f64) -> f64,
) -> Value {
    let figure_json = |figure: &Figure| {
        let mut members = Map::new();
        members.insert("unit".to_owned(), json!(figure.unit.name()));
        for (part, own) in &figure.parts {
            let name = if part.is_empty() { "value" } else { part };
            members.insert(name.to_owned(), json!(value(figure.key, part, *own)));
        }
        (figure.key.to_owned(), Value::Object(members))
    };
    Value::Object(figures.map(figure_json).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        place::StoreKind,
        workload::{
            sessions::Start,
            watch::{Phases, WatchPlan},
        },
    };

    fn report(late: &[f64]) -> Report {
        let plan = Plan::Watch(WatchPlan {
            store: StoreKind::Sqlite,
            sessions: 10_000,
            watched: 1_000,
            phases: Phases::Spread,
            start: Start::Recorded,
        });
        let run = |(number, late): (usize, &f64)| {
            let mut outcome = Outcome::default();
            outcome.add("lateness_over_hiccup", "over", Unit::Millis, *late);
            outcome.figures.push(Figure {
                key: "hiccup",
                what: "hiccups".to_owned(),
                unit: Unit::Millis,
                parts: vec![("p50", 1.0), ("p99", 4.0 * *late)],
            });
            if late.is_infinite() {
                outcome.problems.push("1 missing pushes".to_owned());
            }
            RunRecord {
                number,
                busy_percent: 1.0,
                load_average: None,
                took_s: 1.0,
                outcome,
            }
        };
        Report {
            machine: Machine {
                facts: vec![("date", "today".to_owned())],
            },
            command: "scripts/bench watch".to_owned(),
            measured: vec![Measured {
                plan,
                runs: late.iter().enumerate().map(run).collect(),
            }],
        }
    }

    #[test]
    fn a_table_has_medians_ranges_and_goals() {
        let report = report(&[4.0, 9.0, 2.0]);
        let text = report.markdown();
        let has = |row: &str| assert!(text.contains(row), "no {row} in:\n{text}");
        has("- date: today");
        has("3 runs, 1 of them disturbed | over | 4.00 ms | 2.00 ms – 9.00 ms | ≤ 5.00 ms | yes |");
        has("|  | hiccups | 1.00 ms / 16.0 ms | p99 8.00 ms – 36.0 ms |  |  |");
        has("run 2: disturbed: the machine's hiccups had a p99 of 36 ms");
        assert!(report.is_clean());
    }

    #[test]
    fn what_never_came_is_seen() {
        let report = report(&[f64::INFINITY, 9.0, f64::INFINITY]);
        let text = report.markdown();
        assert!(
            text.contains("| over | ∞ | 9.00 ms – ∞ | ≤ 5.00 ms | **no** |"),
            "{text}"
        );
        assert!(
            text.contains("run 1: **wrong**: 1 missing pushes"),
            "{text}"
        );
        assert!(!report.is_clean());
        let json = report.json();
        let runs = &json["measured"][0]["runs"];
        assert_eq!(
            runs[0]["figures"]["lateness_over_hiccup"]["value"],
            Value::Null
        );
        assert_eq!(
            runs[1]["figures"]["lateness_over_hiccup"]["value"],
            json!(9.0)
        );
        assert_eq!(runs[1]["figures"]["hiccup"]["p99"], json!(36.0));
        assert_eq!(
            json["measured"][0]["goals"].as_array().map(Vec::len),
            Some(5)
        );
    }
}

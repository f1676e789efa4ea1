//! What the figures were taken on, and how quiet it was.

use std::{
    fs,
    hint::black_box,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    database::Database,
    figures::number,
    place::{output_of, version_of},
};
use crate::process::busy_time;

/// For how long it is watched how busy the machine is by itself, before each run.
const LOOK: Duration = Duration::from_secs(1);

/// What memory comes in.
const PAGE: usize = 4_096;

/// The machine, and the programs that matter.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Names and values, in the order of the table.
    pub facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Describes this one. What can't be found out is left out.
    pub fn describe(program: &Path, uses_postgres: bool) -> Self {
        let mut facts = Vec::new();
        let mut add = |name, value: Option<String>| {
            facts.extend(value.map(|value| (name, value)));
        };
        let date = output_of(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])).ok();
        add("date", date.map(|date| date.trim().to_owned()));
        add("processors", processors());
        add("memory", memory());
        add("system", system());
        add(
            "program",
            version_of(program).map(|version| {
                let commit =
                    output_of(Command::new("git").args(["describe", "--always", "--dirty"]));
                commit.map_or(version.clone(), |commit| {
                    format!("{version}, commit {}", commit.trim())
                })
            }),
        );
        add("compiler", version_of("rustc"));
        if uses_postgres {
            let server = std::env::var("DATABASE_URL").unwrap_or_default();
            add("database", Database::describe(&server).ok());
            add(
                "mirror",
                version_of("redis-server").map(|it| first_words(&it, 3)),
            );
        }
        Self { facts }
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        let facts = self.facts.iter();
        Value::Object(
            facts
                .map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect(),
        )
    }
}

/// How busy the machine is with what is none of our business, in percent of one processor.
pub fn busy_percent() -> anyhow::Result<f64> {
    let before = busy_time()?;
    std::thread::sleep(LOOK);
    let busy = busy_time()?.saturating_sub(before);
    Ok(100.0 * busy.as_secs_f64() / LOOK.as_secs_f64())
}

/// How long it takes only to be given so much memory, by one thread for each processor. On a virtual
/// machine whose host has to find it first, that can be most of the time of filling it.
pub fn time_to_touch(bytes: u64) -> anyhow::Result<Duration> {
    let threads = thread::available_parallelism()?.get();
    let share = usize::try_from(bytes)? / threads;
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut block = vec![0_u8; share];
                for page in block.chunks_mut(PAGE) {
                    page[0] = 1;
                }
                black_box(&block);
            });
        }
    });
    Ok(begin.elapsed())
}

/// The load average of the last minute.
pub fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

fn processors() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let models = || {
        text.lines()
            .filter_map(|line| line.strip_prefix("model name"))
    };
    let model = models().next()?.trim_start_matches(['\t', ' ', ':']);
    Some(format!("{} × {model}", models().count()))
}

fn memory() -> Option<String> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(format!("{:.1} GiB", number(kibibytes) / 1_048_576.0))
}

fn system() -> Option<String> {
    let version = fs::read_to_string("/proc/version").ok()?;
    Some(first_words(&version, 3))
}

fn first_words(text: &str, count: usize) -> String {
    text.split(' ').take(count).collect::<Vec<_>>().join(" ")
}

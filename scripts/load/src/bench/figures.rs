//! What a run came to, and what is wanted of it.

use hdrhistogram::Histogram;

use super::{timeline::Timeline, window::WindowSeen};
use crate::schedule::{Score, quantile};

/// The quantiles that are told of every distribution; the last is the greatest value.
pub const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Millis,
    /// Nanoseconds.
    Nanos,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Something a second.
    PerSecond,
    /// Percent of one processor.
    PercentOfCore,
    /// One thing for each of another.
    Ratio,
    /// Things.
    Count,
}

/// One figure of a run: a number, or the quantiles of a distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name in the JSON document.
    pub key: &'static str,
    /// Its name in the table.
    pub what: String,
    /// What the numbers count.
    pub unit: Unit,
    /// The numbers, with the names of their parts if there are several. Infinite where it is of
    /// something that never came.
    pub parts: Vec<(&'static str, f64)>,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The figures, in the order of the table.
    pub figures: Vec<Figure>,
    /// What is wrong: something missing, doubled, drifting or not clean.
    pub problems: Vec<String>,
    /// What a reader should know of the run.
    pub notes: Vec<String>,
    /// How lateness and memory went, for a plot.
    pub timeline: Option<Timeline>,
    /// The server's settings that were not the defaults.
    pub settings: Vec<(String, String)>,
}

/// What is wanted of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Of which figure.
    pub key: &'static str,
    /// Of which of its parts; empty if it has one only.
    pub part: &'static str,
    /// What is wanted.
    pub bound: Bound,
}

/// What is wanted of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Goal {
    /// At most `limit` of a figure with one number.
    pub const fn at_most(key: &'static str, limit: f64) -> Self {
        Self {
            key,
            part: "",
            bound: Bound::AtMost(limit),
        }
    }

    /// At least `limit` of a figure with one number.
    pub const fn at_least(key: &'static str, limit: f64) -> Self {
        Self {
            key,
            part: "",
            bound: Bound::AtLeast(limit),
        }
    }

    /// The same of one of several parts.
    pub const fn of_part(self, part: &'static str) -> Self {
        Self { part, ..self }
    }
}

impl Bound {
    /// Whether a number is as wanted.
    pub fn is_met_by(self, number: f64) -> bool {
        match self {
            Self::AtMost(limit) => number <= limit,
            Self::AtLeast(limit) => number >= limit,
        }
    }
}

impl Unit {
    /// A number in this unit, as it stands in the table.
    pub fn show(self, number: f64) -> String {
        if number.is_infinite() {
            return "∞".to_owned();
        }
        match self {
            Self::Millis => with_digits(number, " ms"),
            Self::Nanos if number >= 1_000.0 => with_digits(number / 1_000.0, " µs"),
            Self::Nanos => with_digits(number, " ns"),
            Self::Seconds => with_digits(number, " s"),
            Self::Bytes => bytes(number),
            Self::PerSecond => format!("{}/s", whole(number)),
            Self::PercentOfCore => format!("{number:.2} %"),
            Self::Ratio => with_digits(number, ""),
            Self::Count => whole(number),
        }
    }

    /// Its name in the JSON document.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Millis => "ms",
            Self::Nanos => "ns",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::PerSecond => "per second",
            Self::PercentOfCore => "percent of one processor",
            Self::Ratio => "ratio",
            Self::Count => "count",
        }
    }
}

impl Outcome {
    /// Adds a number.
    pub fn add(&mut self, key: &'static str, what: impl Into<String>, unit: Unit, value: f64) {
        self.figures.push(Figure {
            key,
            what: what.into(),
            unit,
            parts: vec![("", value)],
        });
    }

    /// Adds the quantiles of a distribution of microseconds, where so many more were infinite.
    pub fn add_micros(
        &mut self,
        key: &'static str,
        what: impl Into<String>,
        micros: &Histogram<u64>,
        infinite: u64,
    ) {
        let part = |(name, share): (&'static str, f64)| {
            let value = quantile(micros, infinite, share);
            (name, value.map_or(f64::INFINITY, millis))
        };
        self.figures.push(Figure {
            key,
            what: what.into(),
            unit: Unit::Millis,
            parts: QUANTILES.into_iter().map(part).collect(),
        });
    }

    /// Adds how late pushes came, beside the hiccups of the same window.
    pub fn add_lateness(&mut self, score: &Score, window: &WindowSeen) {
        self.add_micros("lateness", "lateness", &score.lateness, score.missing);
        self.add_micros("hiccup", "the machine's hiccups", &window.hiccups, 0);
        let late = score.quantile(0.99).map_or(f64::INFINITY, millis);
        let hiccup = millis(window.hiccups.value_at_quantile(0.99));
        self.add(
            "lateness_over_hiccup",
            "lateness p99 over hiccup p99",
            Unit::Millis,
            late - hiccup,
        );
        self.add("due", "pushes due", Unit::Count, number(score.due()));
        self.add("missing", "missing", Unit::Count, number(score.missing));
        self.add("doubled", "doubled", Unit::Count, number(score.doubled));
        self.expect_none("missing pushes", score.missing);
        self.expect_none("doubled pushes", score.doubled);
        self.expect_none("pushes before they were due", score.early);
    }

    /// Adds whose the processors' time was in a window.
    pub fn add_shares(&mut self, window: &WindowSeen) {
        let share = |time| window.percent(time);
        self.figures.push(Figure {
            key: "processors",
            what: "processors: server / load generator / all else".to_owned(),
            unit: Unit::PercentOfCore,
            parts: vec![
                ("server", share(window.server)),
                ("own", share(window.own)),
                ("others", share(window.others)),
            ],
        });
    }

    /// A problem, unless there are none of them.
    pub fn expect_none(&mut self, what: &str, count: u64) {
        if count > 0 {
            self.problems.push(format!("{count} {what}"));
        }
    }

    /// Takes the sentence of an audit, or its failure as a problem.
    pub fn take_audit(&mut self, audit: anyhow::Result<String>) {
        match audit {
            Ok(said) => self.notes.push(format!("verify: {said}")),
            Err(error) => self.problems.push(format!("{error:#}")),
        }
    }

    /// The value of a figure's part.
    pub fn value(&self, key: &str, part: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.key == key)?;
        let (_, value) = figure.parts.iter().find(|(name, _)| *name == part)?;
        Some(*value)
    }
}

/// A count as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "no figure of a benchmark needs more than 52 bits"
)]
pub const fn number(count: u64) -> f64 {
    count as f64
}

/// A length as a number to calculate with.
pub fn number_of(count: usize) -> f64 {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Microseconds in milliseconds.
pub fn millis(micros: u64) -> f64 {
    number(micros) / 1_000.0
}

/// The middle one; of an even number of values the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(upper), 0) => f64::midpoint(sorted[middle - 1], *upper),
        (Some(exact), _) => *exact,
        (None, _) => f64::NAN,
    }
}

/// With three digits that count, at least.
fn with_digits(number: f64, unit: &str) -> String {
    match number.abs() {
        ..10.0 => format!("{number:.2}{unit}"),
        ..100.0 => format!("{number:.1}{unit}"),
        _ => format!("{}{unit}", whole(number)),
    }
}

fn bytes(number: f64) -> String {
    match number.abs() {
        ..10_000.0 => format!("{} B", whole(number)),
        ..1e6 => with_digits(number / 1e3, " kB"),
        ..1e9 => with_digits(number / 1e6, " MB"),
        _ => with_digits(number / 1e9, " GB"),
    }
}

/// Rounded, with commas between thousands.
fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    let is_negative = number < 0.0 && digits != "0";
    if is_negative {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_their_units() {
        let check = |unit: Unit, number: f64, expected: &str| {
            assert_eq!(unit.show(number), expected, "{number}");
        };
        check(Unit::Millis, 1.234, "1.23 ms");
        check(Unit::Millis, 12.34, "12.3 ms");
        check(Unit::Millis, 1_234.4, "1,234 ms");
        check(Unit::Millis, f64::INFINITY, "∞");
        check(Unit::Nanos, 999.0, "999 ns");
        check(Unit::Nanos, 1_500.0, "1.50 µs");
        check(Unit::Bytes, -2_048.0, "-2,048 B");
        check(Unit::Bytes, 20_480.0, "20.5 kB");
        check(Unit::Bytes, 9.1e9, "9.10 GB");
        check(Unit::PerSecond, 12_345.6, "12,346/s");
        check(Unit::PercentOfCore, 0.123, "0.12 %");
        check(Unit::Ratio, 0.947, "0.95");
        check(Unit::Count, 0.0, "0");
        check(Unit::Count, 1_000_000.0, "1,000,000");
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[f64::INFINITY, 1.0, f64::INFINITY]).is_infinite());
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn bounds_hold_on_their_side() {
        assert!(Bound::AtMost(5.0).is_met_by(5.0));
        assert!(!Bound::AtMost(5.0).is_met_by(f64::INFINITY));
        assert!(Bound::AtLeast(5.0).is_met_by(5.0));
        assert!(!Bound::AtLeast(5.0).is_met_by(4.9));
        assert!(!Bound::AtMost(5.0).is_met_by(f64::NAN));
    }
}

//! The two text forms of metrics, and which one a scraper wants.
//!
//! The library writes `OpenMetrics`. What reads Prometheus's older text form alone (Telegraf, New Relic,
//! `promtool check metrics`, all that use `expfmt`'s text parser) fails on its types `info` and `unknown`,
//! and loses the whole scrape. So that form is made from the other.

use std::{collections::HashMap, fmt::Write};

use hyper::{HeaderMap, header::ACCEPT};

/// A text form of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
    /// Prometheus's text form, version 0.0.4.
    Plain,
}

impl Form {
    /// The form that a request with these headers wants: the older one, unless `OpenMetrics` is named in
    /// `Accept` and not liked less.
    pub fn wanted(headers: &HeaderMap) -> Self {
        let (mut open, mut plain) = (0, 0);
        for list in headers.get_all(ACCEPT) {
            for item in list.to_str().unwrap_or_default().split(',') {
                let mut parts = item.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default().to_ascii_lowercase();
                let weight = parts.find_map(weight).unwrap_or(1_000);
                match name.as_str() {
                    "application/openmetrics-text" => open = open.max(weight),
                    "text/plain" => plain = plain.max(weight),
                    _ => {}
                }
            }
        }
        if open > 0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Plain
        }
    }

    /// The content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The weight that a parameter of a media range gives it, in thousandths.
fn weight(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let thousandths = format!("{fraction:0<3}").get(..3)?.parse::<u32>().ok()?;
    Some((whole.parse::<u32>().ok()? * 1_000 + thousandths).min(1_000))
}

/// `open_metrics` in Prometheus's text form.
pub fn to_plain(open_metrics: &str) -> String {
    let mut types = HashMap::new();
    for line in open_metrics.lines() {
        if let Some((name, kind)) = after(line, "# TYPE ") {
            types.insert(name, kind);
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        // Writing to a string can't fail.
        let _ = if let Some((name, kind)) = after(line, "# TYPE ") {
            writeln!(
                text,
                "# TYPE {} {}",
                full_name(name, kind),
                plain_type(kind)
            )
        } else if let Some((name, help)) = after(line, "# HELP ") {
            let kind = types.get(name).copied().unwrap_or_default();
            // What the one form escapes in a help that the other doesn't.
            let help = help.replace("\\\"", "\"");
            writeln!(text, "# HELP {} {help}", full_name(name, kind))
        } else if line.starts_with('#') {
            // Units, and the mark of the end.
            Ok(())
        } else {
            // Without an example after the value.
            let sample = line.split(" # {").next().unwrap_or(line);
            writeln!(text, "{sample}")
        };
    }
    text
}

/// The name of a metric and the rest of a line that begins with `begin`.
fn after<'a>(line: &'a str, begin: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(begin)?.split_once(' ')
}

/// The name of a metric as its samples have it.
fn full_name(name: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

/// The type that a metric has in the older form.
fn plain_type(kind: &str) -> &str {
    match kind {
        "info" | "stateset" => "gauge",
        "unknown" => "untyped",
        known => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_form_that_it_reads() {
        let check = |accept: &[&str], expected: Form| {
            let mut headers = HeaderMap::new();
            for list in accept {
                headers.append(ACCEPT, list.parse().unwrap());
            }
            assert_eq!(Form::wanted(&headers), expected, "{accept:?}");
        };
        let open = "application/openmetrics-text;version=1.0.0";
        check(&[], Form::Plain);
        check(&["*/*"], Form::Plain);
        check(&["text/plain;version=0.0.4"], Form::Plain);
        check(&["nonsense;;q=,"], Form::Plain);
        check(&[open], Form::OpenMetrics);
        check(&["Application/OpenMetrics-Text"], Form::OpenMetrics);
        check(&[open, "text/plain;q=0.9"], Form::OpenMetrics);
        for (ours, theirs, expected) in [
            ("0.5", "0.3", Form::OpenMetrics),
            ("0.5", "0.5", Form::OpenMetrics),
            ("0.001", "0", Form::OpenMetrics),
            ("1", "1.000", Form::OpenMetrics),
            ("0.3", "0.5", Form::Plain),
            ("0.1", "1", Form::Plain),
            ("0", "0.5", Form::Plain),
            ("0.000", "0", Form::Plain),
        ] {
            let list = format!("{open};q={ours}, text/plain;version=0.0.4;q={theirs}, */*;q=0.1");
            check(&[&list], expected);
        }
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3";
        check(&[protobuf], Form::Plain);
    }

    #[test]
    fn the_older_form_has_its_own_types_and_no_end() {
        let open_metrics = "\
# HELP credit_build The version of the program.
# TYPE credit_build info
credit_build_info{version=\"0.1.0\"} 1
# HELP requests Requests that were \\\"answered\\\".
# TYPE requests counter
# UNIT requests seconds
requests_total{route=\"a # b\"} 7 # {trace=\"x\"} 1.0
# HELP seconds The time.
# TYPE seconds histogram
seconds_sum 0.5
seconds_count 1
seconds_bucket{le=\"+Inf\"} 1
# HELP odd Something.
# TYPE odd unknown
odd 1
# HELP open Open files.
# TYPE open gauge
open 3
# EOF
";
        let plain = "\
# HELP credit_build_info The version of the program.
# TYPE credit_build_info gauge
credit_build_info{version=\"0.1.0\"} 1
# HELP requests_total Requests that were \"answered\".
# TYPE requests_total counter
requests_total{route=\"a # b\"} 7
# HELP seconds The time.
# TYPE seconds histogram
seconds_sum 0.5
seconds_count 1
seconds_bucket{le=\"+Inf\"} 1
# HELP odd Something.
# TYPE odd untyped
odd 1
# HELP open Open files.
# TYPE open gauge
open 3
";
        assert_eq!(to_plain(open_metrics), plain);
    }
}

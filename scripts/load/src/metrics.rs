//! What the server says that it refused, from its `/metrics`.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::control;

/// How often each limit was hit so far, and how often each status of a failure was answered.
pub fn refused(server: SocketAddr) -> anyhow::Result<BTreeMap<String, u64>> {
    let text = control::call_as(server, "GET", "/metrics", "")?;
    let mut refused = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, times)) = limit(line).or_else(|| failure(line)) {
            *refused.entry(name).or_insert(0) += times;
        }
    }
    Ok(refused)
}

/// `minute_credit_limited_total{limit="calls"} 5`
fn limit(line: &str) -> Option<(String, u64)> {
    let (labels, value) = sample(line, "minute_credit_limited_total")?;
    Some((label(labels, "limit")?.to_owned(), value))
}

/// `minute_credit_http_requests_total{route="/api/auth/login",status="401"} 5`
fn failure(line: &str) -> Option<(String, u64)> {
    let (labels, value) = sample(line, "minute_credit_http_requests_total")?;
    let status = label(labels, "status")?;
    (status >= "400").then(|| (status.to_owned(), value))
}

/// The labels and the value of a sample of the metric `name`.
fn sample<'t>(line: &'t str, name: &str) -> Option<(&'t str, u64)> {
    let (labels, value) = line
        .strip_prefix(name)?
        .strip_prefix('{')?
        .split_once("} ")?;
    Some((labels, value.parse().ok()?))
}

fn label<'t>(labels: &'t str, name: &str) -> Option<&'t str> {
    labels
        .split(',')
        .find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""))?
        .strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_metrics_are_read() {
        let read = |line: &str| limit(line).or_else(|| failure(line));
        let check = |line: &str, expected: Option<(&str, u64)>| {
            let expected = expected.map(|(name, times)| (name.to_owned(), times));
            assert_eq!(read(line), expected, "{line}");
        };
        let requests = "minute_credit_http_requests_total";
        check(
            "minute_credit_limited_total{limit=\"calls\"} 5",
            Some(("calls", 5)),
        );
        check(
            &format!("{requests}{{route=\"/api/auth/login\",status=\"401\"}} 7"),
            Some(("401", 7)),
        );
        check(&format!("{requests}{{route=\"/\",status=\"200\"}} 7"), None);
        check("# TYPE minute_credit_limited counter", None);
        check("minute_credit_live_sessions 7", None);
    }
}

//! What operators watch: every metric that an alert or the dashboard asks for is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    client::{Socket, get, post, sign_up},
    server::TestServer,
};

/// What histograms and counters have behind their names.
const ENDINGS: [&str; 4] = ["_bucket", "_sum", "_count", "_total"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config")
        .join(path);
    std::fs::read_to_string(path).unwrap()
}

/// The names of our metrics in `text`, without their endings.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("minute_credit_") || word.starts_with("process_"))
        .map(base)
        .collect()
}

fn base(name: &str) -> String {
    let ending = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
    ending.unwrap_or(name).to_owned()
}

/// The labels of our metrics that `text` chooses by, each as it stands in the metrics: `limit="calls"`.
fn labels_in(text: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for name in ["cause", "kind", "limit", "outcome", "reason", "route"] {
        for operator in ["=\"", "=~\""] {
            for chosen in text.split(&format!("{name}{operator}")).skip(1) {
                let (values, _) = chosen.split_once('"').unwrap();
                let values = values.split('|');
                labels.extend(values.map(|value| format!("{name}=\"{value}\"")));
            }
        }
    }
    labels
}

/// The words after every key `name` in `json`.
fn under<'j>(json: &'j Value, name: &str, found: &mut Vec<&'j str>) {
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == name => found.push(text),
                    value => under(value, name, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| under(value, name, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_metric_that_is_watched_is_there() {
    let server = TestServer::start().await;
    let token = sign_up(&server, "ada@example.com").await;
    // Some have a label whose values are only known when they happen.
    let wrong = json!({"email": "ada@example.com", "password": "not the password"});
    let refused = post("/api/auth/login").json(&wrong).send(&server).await;
    refused.expect_failure(401, "invalid_credentials");
    let mut closed = Socket::open(&server, "/ws?token=nonsense", &[])
        .await
        .unwrap();
    closed.closed().await;
    let _open = Socket::with_token(&server, &token).await;

    let metrics = get("/metrics").send(&server).await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let samples = || metrics.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<String> = samples()
        .map(|line| base(line.split(['{', ' ']).next().unwrap()))
        .collect();

    let alerts = read("prometheus/alerts.yml");
    let dashboard: Value = serde_json::from_str(&read("grafana/dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    under(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() > 30, "{expressions:?}");
    for (what, text) in [
        ("an alert", alerts),
        ("the dashboard", expressions.join("\n")),
    ] {
        let watched = metrics_in(&text);
        assert!(watched.len() > 15, "{watched:?}");
        let missing: Vec<_> = watched.difference(&there).collect();
        assert!(
            missing.is_empty(),
            "{what} asks for {missing:?}, which {there:?} lack"
        );
        for label in labels_in(&text) {
            let is_there = samples().any(|line| line.contains(&label));
            assert!(is_there, "{what} asks for {label}, which no metric has");
        }
    }
}

#[tokio::test]
async fn metrics_come_in_the_form_that_a_scraper_reads() {
    let server = TestServer::start().await;
    get("/healthz").send(&server).await;
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let telegraf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3";
    for (accept, expected) in [
        (
            "text/plain;version=0.0.4",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (telegraf, "text/plain; version=0.0.4; charset=utf-8"),
        (
            prometheus,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let metrics = get("/metrics").header("accept", accept).send(&server).await;
        assert_eq!(metrics.header("content-type"), expected, "{accept}");
        assert_eq!(metrics.header("vary"), "Accept");
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        let is_plain = expected.starts_with("text/plain");
        assert_eq!(text.contains("# EOF"), !is_plain);
        let mut kinds = BTreeMap::new();
        let mut told = BTreeSet::new();
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                assert!(
                    kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                    "{name}"
                );
            } else if !line.starts_with('#') {
                told.insert(line.split(['{', ' ']).next().unwrap().to_owned());
            }
        }
        let is_counter = |name: &str| kinds.get(name).is_some_and(|kind| kind == "counter");
        if is_plain {
            // As expfmt reads it: no other types, and a sample's name is its metric's.
            let known = ["counter", "gauge", "histogram", "summary", "untyped"];
            assert!(
                kinds.values().all(|kind| known.contains(&kind.as_str())),
                "{kinds:?}"
            );
            for name in &told {
                let parts = ["_bucket", "_sum", "_count"];
                let base = parts.iter().find_map(|part| name.strip_suffix(part));
                let is_known = kinds.contains_key(name)
                    || base.is_some_and(|base| {
                        kinds.get(base).is_some_and(|kind| kind == "histogram")
                    });
                assert!(is_known, "{name} has no type");
            }
            assert!(is_counter("minute_credit_http_requests_total"), "{kinds:?}");
        } else {
            assert!(is_counter("minute_credit_http_requests"), "{kinds:?}");
        }
    }
}

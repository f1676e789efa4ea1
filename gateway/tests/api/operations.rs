//! What operators watch: every metric that an alert or the dashboard asks for is there.

use std::{collections::BTreeSet, path::Path};

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

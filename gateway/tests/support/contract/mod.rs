//! Holds every answer that the tests get against the description of the API, and writes down which
//! answers there were, for the test that asks whether every documented one was produced.

mod schema;

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::LazyLock,
};

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::client::Answer;

/// The description of the API.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../schema/openapi.json")).unwrap()
});

/// A call as the document has it, and what it says about it.
#[derive(Clone, Copy)]
pub struct Operation {
    /// Its path, with names for what varies.
    pub path: &'static str,
    /// In capitals.
    pub method: &'static str,
    description: &'static Value,
}

impl Operation {
    /// Every operation of the document.
    pub fn all() -> Vec<Self> {
        let paths = DOCUMENT["paths"].as_object().unwrap();
        let mut all = Vec::new();
        for (path, methods) in paths {
            for (method, description) in methods.as_object().unwrap() {
                all.push(Self {
                    path,
                    method: if method == "post" { "POST" } else { "GET" },
                    description,
                });
            }
        }
        all
    }

    /// Each documented answer: the status, and with a failure the code.
    pub fn answers(self) -> BTreeSet<(u16, Option<String>)> {
        let mut all = BTreeSet::new();
        for (status, response) in self.description["responses"].as_object().unwrap() {
            let status = status.parse().unwrap();
            let codes = codes(schema::resolve(response));
            if codes.is_empty() {
                all.insert((status, None));
            }
            all.extend(codes.into_iter().map(|code| (status, Some(code))));
        }
        all
    }

    /// Whether it may answer with `code`.
    pub fn may_answer(self, code: &str) -> bool {
        self.answers()
            .iter()
            .any(|(_, documented)| documented.as_deref() == Some(code))
    }

    /// A path that there is no operation for but this: what varies is 1.
    pub fn example_path(self) -> String {
        let parts = self.path.split('/');
        let parts = parts.map(|part| if part.starts_with('{') { "1" } else { part });
        parts.collect::<Vec<_>>().join("/")
    }

    fn find(method: &Method, path: &str) -> Found {
        let at_path: Vec<_> = Self::all()
            .into_iter()
            .filter(|operation| matches(operation.path, path))
            .collect();
        // Of two that match, the one without names is meant.
        let is_named = |operation: &Self| operation.path.contains('{');
        let exact = at_path.iter().any(|operation| !is_named(operation));
        let at_path: Vec<_> = at_path
            .into_iter()
            .filter(|operation| !exact || !is_named(operation))
            .collect();
        let wanted = if method == Method::HEAD {
            "GET"
        } else {
            method.as_str()
        };
        match at_path.iter().find(|operation| operation.method == wanted) {
            Some(operation) => Found::Operation(*operation),
            None if at_path.is_empty() => Found::Nothing,
            None => Found::OtherMethods,
        }
    }
}

/// What the document has for a request.
enum Found {
    Operation(Operation),
    OtherMethods,
    Nothing,
}

/// Whether `path` is one of `template`.
fn matches(template: &str, path: &str) -> bool {
    let (mut names, mut parts) = (template.split('/'), path.split('/'));
    loop {
        match (names.next(), parts.next()) {
            (None, None) => return true,
            (Some(name), Some(part)) if name == part => {}
            (Some(name), Some(part)) if name.starts_with('{') && !part.is_empty() => {}
            _ => return false,
        }
    }
}

/// The codes that a documented response may have.
fn codes(response: &Value) -> Vec<String> {
    let codes = response["x-error-codes"].as_array();
    let codes = codes.map(Vec::as_slice).unwrap_or_default();
    codes
        .iter()
        .map(|code| code.as_str().unwrap().to_owned())
        .collect()
}

/// Panics if the document doesn't have `answer` for that request, and else writes it down.
#[track_caller]
pub fn check(method: &Method, address: &str, answer: &Answer) {
    let path = address.split('?').next().unwrap_or_default();
    let told = match Operation::find(method, path) {
        Found::Operation(operation) => check_documented(operation, method, answer),
        Found::OtherMethods => check_other_method(method, answer),
        Found::Nothing if path == "/api" || path.starts_with("/api/") => {
            has_code(answer, StatusCode::NOT_FOUND, "not_found")
        }
        // Everything else is the page's.
        Found::Nothing => Ok(()),
    };
    if let Err(problem) = told {
        panic!("{method} {path} is answered otherwise than documented: {problem}: {answer:?}");
    }
}

fn check_documented(operation: Operation, method: &Method, answer: &Answer) -> Result<(), String> {
    let responses = &operation.description["responses"];
    let status = answer.status.to_string();
    let response = responses
        .get(&status)
        .ok_or_else(|| format!("the status {status} is not documented"))?;
    let response = schema::resolve(response);
    for name in response["headers"].as_object().into_iter().flatten() {
        if !answer.headers.contains_key(name.0) {
            return Err(format!("the header {} is missing", name.0));
        }
    }
    let mut code = None;
    if let Some(content) = response["content"].as_object()
        && method != Method::HEAD
    {
        let essence = answer.header("content-type").split(';').next();
        let body = content
            .get(essence.unwrap_or_default())
            .ok_or("the content type is not documented")?;
        if essence == Some("application/json") {
            let told = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            let is_open =
                body["schema"].get("properties").is_none() && body["schema"]["type"] == "object";
            if !is_open {
                schema::check(&body["schema"], &told)?;
                has_whole_session(&told)?;
            }
            code = told["code"].as_str().map(ToOwned::to_owned);
            let codes = codes(response);
            if !codes.is_empty() && !code.as_ref().is_some_and(|code| codes.contains(code)) {
                return Err(format!("the code must be one of {codes:?}"));
            }
        }
    } else if !answer.body.is_empty() {
        return Err("there is a body".to_owned());
    }
    write_down(operation, answer.status, code.as_deref());
    Ok(())
}

/// Where a balance is told, there are all fields of a live session or none. The document can't say so in
/// a way that generated clients understand.
fn has_whole_session(told: &Value) -> Result<(), String> {
    const SESSION: [&str; 7] = [
        "sessionId",
        "startedAt",
        "consumed",
        "creditsPerInterval",
        "intervalMs",
        "nextChargeAt",
        "depletesAt",
    ];
    if let Some(user) = told.get("user") {
        return has_whole_session(user);
    }
    if told.get("asOf").is_none() {
        return Ok(());
    }
    match SESSION
        .iter()
        .filter(|field| told.get(field).is_some())
        .count()
    {
        0 | 7 => Ok(()),
        some => Err(format!("{some} fields of a session are there, and not all")),
    }
}

fn check_other_method(method: &Method, answer: &Answer) -> Result<(), String> {
    if answer.status == StatusCode::FORBIDDEN.as_u16() {
        return has_code(answer, StatusCode::FORBIDDEN, "origin_not_allowed");
    }
    if answer.header("allow").is_empty() {
        return Err("the header Allow is missing".to_owned());
    }
    match *method {
        Method::OPTIONS if answer.status == StatusCode::NO_CONTENT.as_u16() => Ok(()),
        Method::HEAD if answer.status == StatusCode::METHOD_NOT_ALLOWED.as_u16() => Ok(()),
        _ => has_code(answer, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
    }
}

fn has_code(answer: &Answer, status: StatusCode, code: &str) -> Result<(), String> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    schema::check(&schema::named("ErrorBody"), &body)?;
    if answer.status != status.as_u16() || body["code"] != code {
        return Err(format!("it must be {status} {code}"));
    }
    Ok(())
}

/// Panics unless the document has `message` as one that a server may send.
#[track_caller]
pub fn check_message(message: &Value) {
    let checked = schema::check(&schema::named("StreamMessage"), message);
    if let Err(problem) = checked.and_then(|()| has_whole_session(message)) {
        panic!("the message is not as documented: {problem}: {message}");
    }
}

/// Writes down that the server has accepted a websocket.
pub fn websocket_opened() {
    opened("/ws", StatusCode::SWITCHING_PROTOCOLS);
}

/// Writes down that the server has begun an event stream.
pub fn event_stream_opened() {
    opened("/api/stream", StatusCode::OK);
}

fn opened(path: &str, status: StatusCode) {
    if let Found::Operation(operation) = Operation::find(&Method::GET, path) {
        write_down(operation, status.as_u16(), None);
    }
}

/// Where the answers are written down: one file for each test program.
pub fn answers_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("answers")
}

/// How an answer is written down.
pub fn line(operation: Operation, status: u16, code: Option<&str>) -> String {
    let Operation { method, path, .. } = operation;
    format!("{method} {path} {status} {}", code.unwrap_or("-"))
}

fn write_down(operation: Operation, status: u16, code: Option<&str>) {
    let dir = answers_dir();
    fs::create_dir_all(&dir).unwrap();
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(std::process::id().to_string()))
        .unwrap();
    let line = line(operation, status, code) + "\n";
    // Of one write, no part gets between another's.
    file.write_all(line.as_bytes()).unwrap();
}

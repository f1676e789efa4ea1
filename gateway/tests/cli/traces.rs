//! Traces, as a collector gets them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;

use crate::program::{Program, Serving};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// The trace that a proxy tells of.
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
/// The proxy's own span in it.
const PARENT: u128 = 0xb7ad_6b71_6920_3331;

/// A collector that takes everything.
struct Collector {
    address: SocketAddr,
    received: Receiver<ExportTraceServiceRequest>,
    /// Everything that came, as bytes.
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let body = take(stream.unwrap());
                if sender.send(Message::decode(&body[..]).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self {
            address,
            received,
            bytes: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// Takes what comes until there is a span that `is_wanted`, and gives that.
    fn wait_for(&mut self, is_wanted: impl Fn(&Span) -> bool) -> Span {
        loop {
            if let Some(span) = self.spans.iter().find(|span| is_wanted(span)) {
                return span.clone();
            }
            let request = self.received.recv_timeout(PATIENCE).unwrap();
            self.bytes.extend(request.encode_to_vec());
            for resource in request.resource_spans {
                let attributes = &resource.resource.unwrap().attributes;
                assert_eq!(text(attributes, "service.name"), "minute-credit");
                assert_eq!(
                    text(attributes, "service.version"),
                    env!("CARGO_PKG_VERSION")
                );
                let spans = resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans);
                self.spans.extend(spans);
            }
        }
    }

    fn child_of(&mut self, parent: &Span, name: &str) -> Span {
        let child =
            self.wait_for(|span| span.parent_span_id == parent.span_id && span.name == name);
        assert_eq!(child.trace_id, parent.trace_id);
        child
    }
}

/// Reads one request, answers it, and gives its body.
fn take(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 16 << 10];
    let head_end = loop {
        if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        let count = stream.read(&mut buffer).unwrap();
        received.extend_from_slice(&buffer[..count]);
    };
    let head = String::from_utf8_lossy(&received[..head_end]).to_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/x-protobuf\r\n"),
        "{head}"
    );
    let (_, rest) = head.split_once("content-length: ").unwrap();
    let length: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
    while received.len() < head_end + length {
        let count = stream.read(&mut buffer).unwrap();
        received.extend_from_slice(&buffer[..count]);
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    received.split_off(head_end)
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|found| found.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?}"),
    }
}

fn serve(program: &Program, endpoint: &str, further: &[(&str, &str)]) -> Serving {
    let mut command = program.command(&["serve"]);
    command.env("MINUTE_CREDIT__TELEMETRY__OTLP_ENDPOINT", endpoint);
    command.envs(further.iter().copied());
    Serving::start(command)
}

#[test]
fn a_request_leaves_a_trace_down_to_the_journal() {
    let mut collector = Collector::start();
    let program = Program::new();
    let endpoint = format!("http://{}", collector.address);
    let serving = serve(&program, &endpoint, &[]);
    let token = serving.sign_up("ada@example.com");
    serving.ask("GET", &format!("/healthz?token={token}"), "", "");
    serving.ask("POST", "/api/sessions/start", &token, "");
    serving.ask("POST", "/api/sessions/stop", &token, "");

    for (route, call) in [
        ("start_session", "start_session"),
        ("stop_session", "stop_session"),
    ] {
        let request = collector
            .wait_for(|span| span.name == "request" && text(&span.attributes, "route") == route);
        assert_eq!(text(&request.attributes, "method"), "POST");
        assert_eq!(text(&request.attributes, "status"), "200");
        let call = collector.child_of(&request, call);
        let batch = collector.child_of(&call, "journal_batch");
        assert_eq!(text(&batch.attributes, "facts"), "1");
    }
    // The last are sent before the program ends.
    serving.ask("GET", "/readyz", "", "");
    serving.signal("TERM");
    let (code, log) = serving.wait();
    assert_eq!(code, Some(0), "{log}");
    collector
        .wait_for(|span| span.name == "request" && text(&span.attributes, "route") == "readyz");

    let everything = String::from_utf8_lossy(&collector.bytes);
    for secret in [
        token.as_str(),
        "ada@example.com",
        "correct horse",
        "v4.local",
    ] {
        assert!(!everything.contains(secret), "{secret} is in a trace");
    }
}

#[test]
fn a_trace_goes_on_only_from_a_trusted_proxy() {
    let mut collector = Collector::start();
    let program = Program::new();
    let endpoint = format!("http://{}", collector.address);
    let ask = |serving: &Serving, id: &str| {
        let mut stream = TcpStream::connect(serving.address).unwrap();
        let parent = format!("00-{TRACE:032x}-{PARENT:016x}-01");
        let head = format!(
            "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             x-request-id: {id}\r\ntraceparent: {parent}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };

    let trusted = [(
        "MINUTE_CREDIT__HTTP__TRUSTED_PROXIES",
        r#"["127.0.0.1/32"]"#,
    )];
    let serving = serve(&program, &endpoint, &trusted);
    let answer = ask(&serving, "proxy-17.a_b");
    assert!(
        answer.contains("x-request-id: proxy-17.a_b\r\n"),
        "{answer}"
    );
    for odd in ["a b", "", &"x".repeat(200), "a\"b"] {
        let answer = ask(&serving, odd);
        assert!(
            !answer.contains(&format!("x-request-id: {odd}\r\n")),
            "{answer}"
        );
    }
    let joined = collector.wait_for(|span| span.name == "request");
    assert_eq!(number(&joined.trace_id), TRACE);
    assert_eq!(number(&joined.parent_span_id), PARENT);
    drop(serving);

    collector.spans.clear();
    let serving = serve(&program, &endpoint, &[]);
    let answer = ask(&serving, "stranger");
    assert!(!answer.contains("stranger"), "{answer}");
    let alone =
        collector.wait_for(|span| span.name == "request" && number(&span.trace_id) != TRACE);
    assert!(alone.parent_span_id.is_empty());
    assert!(
        collector
            .spans
            .iter()
            .all(|span| number(&span.trace_id) != TRACE)
    );
}

#[test]
fn a_dead_collector_costs_a_line_in_the_log() {
    let program = Program::new();
    // Nobody listens there.
    let address = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let serving = serve(&program, &format!("http://{address}"), &[]);
    for _ in 0..20 {
        serving.ask("GET", "/healthz", "", "");
    }
    serving.signal("TERM");
    let (code, log) = serving.wait();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("spans could not be sent").count(), 1, "{log}");
}

/// An id of a trace or span as the number that it is.
fn number(id: &[u8]) -> u128 {
    id.iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

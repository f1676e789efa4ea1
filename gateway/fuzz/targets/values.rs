//! Well-made requests with anything at all in the places that hold values: tokens, tickets, cursors,
//! ids, keys, origins, lists of proxies, encodings, events to go on after.

#![no_main]

use fuzz::{Fixture, check_answers};
use libfuzzer_sys::fuzz_target;

/// What the first byte chooses from: a line, ready for a value. Those with a query or a path take what
/// can stand there.
const LINES: [&str; 9] = [
    "GET /api/sessions?cursor=",
    "GET /api/sessions?limit=",
    "GET /api/sessions/",
    "GET /api/ledger?cursor=",
    "GET /ws?ticket=",
    "GET /ws?token=TOKEN&since=",
    "GET /api/auth/me?",
    "GET /assets/",
    "POST /api/sessions/start?",
];

/// The headers that the lines of the input go into, one after the other.
const HEADERS: [&str; 10] = [
    "authorization",
    "idempotency-key",
    "origin",
    "x-forwarded-for",
    "x-forwarded-proto",
    "accept-encoding",
    "if-none-match",
    "x-request-id",
    "traceparent",
    "last-event-id",
];

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let mut values = rest.split(|byte| *byte == b'\n');
    let mut request = LINES[usize::from(*choice) % LINES.len()].as_bytes().to_vec();
    let in_line = values.next().unwrap_or_default();
    request.extend(in_line.iter().filter(|byte| byte.is_ascii_graphic()));
    request.extend_from_slice(b" HTTP/1.1\r\nhost: x\r\n");
    for (name, value) in HEADERS.into_iter().zip(values) {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        // Anything but what would end the line.
        request.extend(value.iter().filter(|byte| **byte >= b' ' && **byte != 0x7F));
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"connection: close\r\n\r\n");
    let server = Fixture::get();
    let answer = server.exchange(&[&server.with_token(&request)]);
    check_answers(&answer);
});

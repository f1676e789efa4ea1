//! Anything at all over a connection: heads, bodies, several requests, upgrades.

#![no_main]

use fuzz::{Fixture, check_answers};
use libfuzzer_sys::fuzz_target;

/// Comes after the input: ends a head that has no end, and makes the server close.
const LAST: &[u8] = b"\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fuzz_target!(|input: &[u8]| {
    let server = Fixture::get();
    let answer = server.exchange(&[&server.with_token(input), LAST]);
    check_answers(&answer);
});

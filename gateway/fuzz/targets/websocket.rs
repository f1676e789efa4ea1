//! Anything at all over an open websocket.

#![no_main]

use fuzz::{Fixture, check_answers};
use libfuzzer_sys::fuzz_target;

const UPGRADE: &[u8] = b"GET /?token=TOKEN HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Comes after the input: more than a message may have, and nothing that ends a message well.
const LAST: &[u8] = &[0xFF; 8_192];

fuzz_target!(|input: &[u8]| {
    let server = Fixture::get();
    let answer = server.exchange(&[&server.with_token(UPGRADE), input, LAST]);
    check_answers(&answer);
});

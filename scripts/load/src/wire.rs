//! The few bytes of HTTP and websockets that a lean client needs. It shares the processors with the
//! server that it measures, so it reads what it must and allocates nothing for it.
//!
//! Deliberately absent: whatever our own server never sends, such as chunked bodies and masked frames.
//! It is an error, not a wrong figure.

use std::fmt::Write as _;

/// The key of every handshake, the example of RFC 6455, and what the server must answer to it.
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What the server sent that can't be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent what this client can't read: {0}")]
pub struct Unreadable(&'static str);

/// A whole reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'b> {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: &'b [u8],
    /// How many bytes it took in all.
    pub length: usize,
}

/// The reply at the beginning of `bytes`, once all of it is there.
pub fn reply(bytes: &[u8]) -> Result<Option<Reply<'_>>, Unreadable> {
    let Some(head_length) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(None);
    };
    let head = &bytes[..head_length];
    let status = head
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| number(rest.get(..3)?))
        .and_then(|status| u16::try_from(status).ok())
        .ok_or(Unreadable("no status"))?;
    // A switch of protocols has no body; what follows is of the other protocol.
    let body_length = if status == 101 {
        0
    } else {
        let length = header(head, b"content-length").ok_or(Unreadable("no length"))?;
        number(length)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(Unreadable("a wrong length"))?
    };
    let length = head_length + body_length;
    Ok(bytes.get(head_length..length).map(|body| Reply {
        status,
        body,
        length,
    }))
}

/// Whether the head of a reply accepts our handshake.
pub fn is_accepted(head: &[u8]) -> bool {
    header(head, b"sec-websocket-accept") == Some(WEBSOCKET_ACCEPT.as_bytes())
}

/// Writes a request without a body, as the token's user.
pub fn write_request(into: &mut Vec<u8>, method: &str, path: &str, token: &str) {
    into.extend_from_slice(method.as_bytes());
    into.push(b' ');
    into.extend_from_slice(path.as_bytes());
    into.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ");
    into.extend_from_slice(token.as_bytes());
    if method == "POST" {
        into.extend_from_slice(b"\r\nContent-Length: 0");
    }
    into.extend_from_slice(b"\r\n\r\n");
}

/// A request to switch to a websocket, as the token's user.
pub fn handshake(path: &str, token: &str) -> String {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "Authorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n"
    );
    text
}

/// A frame from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'b> {
    /// A message.
    Text(&'b [u8]),
    /// To be answered with the same payload.
    Ping(&'b [u8]),
    /// The answer to a ping of ours, which we never send.
    Pong,
    /// The end, with its code, 1005 where it has none (RFC 6455, section 7.1.5).
    Close(u16),
}

/// The frame at the beginning of `bytes` and its length, once all of it is there.
pub fn frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Unreadable> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0xf0 != 0x80 {
        return Err(Unreadable("a fragment or an extension"));
    }
    if second & 0x80 != 0 {
        return Err(Unreadable("a masked frame"));
    }
    let (extended, length) = match (second & 0x7f, rest) {
        (126, [high, low, ..]) => (2, usize::from(u16::from_be_bytes([*high, *low]))),
        (126, _) => return Ok(None),
        (127, _) => return Err(Unreadable("a frame of over 64 KiB")),
        (length, _) => (0, usize::from(length)),
    };
    let Some(payload) = rest.get(extended..extended + length) else {
        return Ok(None);
    };
    let frame = match first & 0x0f {
        1 => Frame::Text(payload),
        8 => Frame::Close(match payload {
            [high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => 1005,
        }),
        9 => Frame::Ping(payload),
        10 => Frame::Pong,
        _ => return Err(Unreadable("an unknown frame")),
    };
    Ok(Some((frame, 2 + extended + length)))
}

/// Writes the answer to a ping. Its mask is zero, which the protocol allows: it is there against
/// proxies that mistake payloads for requests, and there are none on the way.
pub fn write_pong(into: &mut Vec<u8>, payload: &[u8]) {
    // A control frame has 125 bytes at most (RFC 6455, section 5.5).
    let length = u8::try_from(payload.len().min(125)).unwrap_or(125);
    into.extend_from_slice(&[0x8a, 0x80 | length, 0, 0, 0, 0]);
    into.extend_from_slice(&payload[..usize::from(length)]);
}

/// The whole number of the field `key`, given as `"key":`, in a JSON text that has it once. Nothing
/// where there is none, or no whole number.
pub fn field(json: &[u8], key: &str) -> Option<i64> {
    let rest = &json[find(json, key.as_bytes())? + key.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    number(&rest[..digits])
}

fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The value of the header of this name, in lower case.
fn header<'b>(head: &'b [u8], name: &[u8]) -> Option<&'b [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (given, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        given.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

/// Where `wanted` begins. It compares whole only where its first byte fits.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_once_they_are_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhelloHTTP/1.1";
        for cut in 0..text.len() - 8 {
            assert_eq!(reply(&text[..cut]), Ok(None), "{cut}");
        }
        let whole = reply(text).unwrap().unwrap();
        assert_eq!((whole.status, whole.body), (200, &b"hello"[..]));
        assert_eq!(&text[whole.length..], b"HTTP/1.1");

        let check = |text: &str, expected: Result<Option<u16>, &'static str>| {
            let status = reply(text.as_bytes()).map(|reply| reply.map(|reply| reply.status));
            assert_eq!(status, expected.map_err(Unreadable), "{text}");
        };
        check("HTTP/1.1 101 Switching\r\n\r\n", Ok(Some(101)));
        check(
            "HTTP/1.1 503 x\r\ncontent-length:  0 \r\n\r\n",
            Ok(Some(503)),
        );
        check(
            "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n",
            Err("no length"),
        );
        check(
            "HTTP/1.1 200 x\r\ncontent-length: x\r\n\r\n",
            Err("a wrong length"),
        );
        check("ICY 200 OK\r\n\r\n", Err("no status"));
    }

    #[test]
    fn the_handshake_is_accepted_with_the_right_answer_only() {
        let head =
            |accept: &str| format!("HTTP/1.1 101 x\r\nsec-websocket-accept: {accept}\r\n\r\n");
        assert!(is_accepted(head(WEBSOCKET_ACCEPT).as_bytes()));
        assert!(!is_accepted(head("x").as_bytes()));
        assert!(!is_accepted(b"HTTP/1.1 101 x\r\n\r\n"));
    }

    #[test]
    fn frames_are_read_once_they_are_whole() {
        let mut long = vec![0x81, 126, 1, 44];
        long.extend_from_slice(&[b'x'; 300]);
        let check = |bytes: &[u8], expected: Frame<'_>| {
            for cut in 0..bytes.len() {
                assert_eq!(frame(&bytes[..cut]), Ok(None), "{expected:?} to {cut}");
            }
            assert_eq!(frame(bytes), Ok(Some((expected, bytes.len()))));
            let followed = [bytes, &[0x81]].concat();
            assert_eq!(frame(&followed), Ok(Some((expected, bytes.len()))));
        };
        check(&[0x81, 2, b'h', b'i'], Frame::Text(b"hi"));
        check(&long, Frame::Text(&[b'x'; 300]));
        check(&[0x89, 1, 7], Frame::Ping(&[7]));
        check(&[0x8a, 0], Frame::Pong);
        check(&[0x88, 2, 3, 233], Frame::Close(1001));
        check(&[0x88, 0], Frame::Close(1005));

        let refused = |bytes: &[u8], why| assert_eq!(frame(bytes), Err(Unreadable(why)));
        refused(&[0x01, 0], "a fragment or an extension");
        refused(&[0xc1, 0], "a fragment or an extension");
        refused(&[0x81, 0x80], "a masked frame");
        refused(&[0x81, 127], "a frame of over 64 KiB");
        refused(&[0x82, 0], "an unknown frame");
    }

    #[test]
    fn a_pong_repeats_the_ping_with_a_mask_of_zero() {
        let mut bytes = Vec::new();
        write_pong(&mut bytes, b"ab");
        assert_eq!(bytes, [0x8a, 0x82, 0, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn fields_are_found_in_json() {
        let json = br#"{"type":"credit_update","credits":98,"asOf":17,"nextChargeAt":null}"#;
        assert_eq!(field(json, "\"credits\":"), Some(98));
        assert_eq!(field(json, "\"asOf\":"), Some(17));
        assert_eq!(field(json, "\"nextChargeAt\":"), None);
        assert_eq!(field(json, "\"consumed\":"), None);
    }
}

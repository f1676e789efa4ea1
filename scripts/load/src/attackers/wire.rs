//! The bytes of requests and websocket frames, written by hand: a library would not write wrong ones.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Websocket frames as the first byte has them: the last fragment or not, and what it holds.
pub const PING: u8 = 0x89;
pub const FIRST_FRAGMENT: u8 = 0x01;
pub const NEXT_FRAGMENT: u8 = 0x00;
pub const WHOLE_TEXT: u8 = 0x81;

/// In a frame's second byte: a mask follows; and in the place of a length, that it follows in two bytes.
const MASKED: u8 = 0x80;
const TWO_BYTES_OF_LENGTH: u8 = 0x7e;

/// The most of a reply's head that is read.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A request whose body is `body`.
pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: attacked\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n{headers}\r\n{body}"
    )
}

/// Sends a request and reads its reply's head and body away. An error if the connection ends.
pub async fn ask(stream: &mut TcpStream, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let (head, rest) = read_head(stream).await?;
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    let mut left = vec![0; length.saturating_sub(rest)];
    stream.read_exact(&mut left).await.map(drop)
}

/// Reads a reply's head, and tells how many bytes of the body came with it.
async fn read_head(stream: &mut TcpStream) -> io::Result<(String, usize)> {
    let mut head = Vec::new();
    loop {
        let mut piece = [0; 2048];
        let length = stream.read(&mut piece).await?;
        if length == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..length]);
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = head.len() - end - 4;
            head.truncate(end);
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            return Ok((head, rest));
        }
    }
}

/// Makes the connection a websocket. An error if the server does not want to.
pub async fn upgrade(stream: &mut TcpStream, token: &str, headers: &str) -> io::Result<()> {
    let request = format!(
        "GET /ws?token={token} HTTP/1.1\r\nhost: attacked\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let (head, _) = read_head(stream).await?;
    if head.starts_with("http/1.1 101") {
        Ok(())
    } else {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// A frame with `length` bytes, masked with zeros, which leaves them as they are.
pub fn frame(kind: u8, length: u16) -> Vec<u8> {
    let mut frame = vec![kind];
    match u8::try_from(length) {
        Ok(short) if short < TWO_BYTES_OF_LENGTH => frame.push(MASKED | short),
        _ => {
            frame.push(MASKED | TWO_BYTES_OF_LENGTH);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.resize(frame.len() + usize::from(length), b'x');
    frame
}

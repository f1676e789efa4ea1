//! A websocket as the wire sees it: frames to the client, and what comes from it.
//!
//! Nearly all clients say nothing but a pong now and then. For them the whole of the protocol is too much:
//! tokio-tungstenite keeps buffers, wakers and settings for each socket, about 900 bytes, and copies each
//! message once more. So a client is [`Line::Quiet`] as long as it sends whole pongs and nothing else:
//! its frames are written as they are made, and of what it sends nothing is kept. With the first thing
//! that is anything else, part of a frame too, tokio-tungstenite takes over, and judges all that comes.

use std::{
    io::Cursor,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt, Sink, Stream};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{
            Role, WebSocketConfig,
            frame::{
                FrameHeader,
                coding::{Control, Data, OpCode},
            },
        },
    },
};

use super::{metered::Metered, unsent::Unsent};
use crate::subscription::Text;

/// The buffer for reading. It is filled with zeros at every attempt to read, and clients say little.
const READ_BUFFER_BYTES: usize = 128;

/// How much may wait to be written before the socket counts as broken.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long the header of a frame from us can be (RFC 6455, section 5.2).
const HEADER_BYTES_MAX: usize = 10;

/// What a websocket reads and writes.
pub(super) type Transport = Unsent<Metered<TcpStream>>;

/// A websocket with all of its protocol.
pub(super) type Websocket = WebSocketStream<Transport>;

/// Whether a ping goes along with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    /// It does, in the same packet.
    Along,
    /// It doesn't.
    No,
}

/// See the module's documentation.
pub(super) struct Wire {
    line: Line,
    message_bytes_max: usize,
}

enum Line {
    /// The client has said nothing but whole pongs.
    Quiet(Transport),
    /// It has said something else.
    Talking(Box<Websocket>),
    /// In between, or broken.
    Cut,
}

impl Wire {
    /// A websocket over `stream`, after the handshake. `sent_early` is what the client sent with that.
    pub(super) fn new(
        stream: Metered<TcpStream>,
        sent_early: &[u8],
        message_bytes_max: usize,
    ) -> Self {
        let mut wire = Self {
            line: Line::Quiet(Unsent::new(stream)),
            message_bytes_max,
        };
        if !sent_early.is_empty() {
            wire.talk(sent_early);
        }
        wire
    }

    /// Has a message sent. Call it only when nothing is [being sent](Self::poll_sent).
    pub(super) fn send(&mut self, text: Text, ping: Ping) -> Result<(), Error> {
        match &mut self.line {
            Line::Quiet(stream) => stream.send(frame(text, ping)?),
            Line::Talking(websocket) => {
                let mut websocket = Pin::new(websocket.as_mut());
                let text = match text {
                    Text::Shared(text) => text,
                    Text::Own(text) => text.into(),
                };
                websocket.as_mut().start_send(Message::Text(text))?;
                if ping == Ping::Along {
                    websocket.start_send(Message::Ping(Bytes::new()))?;
                }
            }
            Line::Cut => return Err(Error::ConnectionClosed),
        }
        Ok(())
    }

    /// Has a ping sent, under the same condition.
    pub(super) fn ping(&mut self) -> Result<(), Error> {
        match &mut self.line {
            Line::Quiet(stream) => stream.send(ping_frame()?),
            Line::Talking(websocket) => {
                Pin::new(websocket.as_mut()).start_send(Message::Ping(Bytes::new()))?;
            }
            Line::Cut => return Err(Error::ConnectionClosed),
        }
        Ok(())
    }

    /// Ready once the system has taken all that was to be sent.
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.line {
            Line::Quiet(stream) => stream.poll_sent(context).map_err(Error::Io),
            Line::Talking(websocket) => Pin::new(websocket.as_mut()).poll_flush(context),
            Line::Cut => Poll::Ready(Err(Error::ConnectionClosed)),
        }
    }

    /// The next message from the client.
    pub(super) fn poll_heard(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        if let Line::Quiet(stream) = &mut self.line {
            let mut bytes = [0; READ_BUFFER_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            if let Err(error) = ready!(Pin::new(stream).poll_read(context, &mut buffer)) {
                return Poll::Ready(Some(Err(Error::Io(error))));
            }
            let heard = buffer.filled();
            if heard.is_empty() {
                let gone = Error::Protocol(ProtocolError::ResetWithoutClosingHandshake);
                return Poll::Ready(Some(Err(gone)));
            }
            if is_one_pong(heard) {
                return Poll::Ready(Some(Ok(Message::Pong(Bytes::new()))));
            }
            self.talk(heard);
        }
        match &mut self.line {
            Line::Talking(websocket) => Pin::new(websocket.as_mut()).poll_next(context),
            Line::Quiet(_) | Line::Cut => Poll::Ready(None),
        }
    }

    /// All of the protocol, for the end; nothing if the wire is cut.
    pub(super) fn into_websocket(mut self) -> Option<Box<Websocket>> {
        if matches!(self.line, Line::Quiet(_)) {
            self.talk(&[]);
        }
        match self.line {
            Line::Talking(websocket) => Some(websocket),
            Line::Quiet(_) | Line::Cut => None,
        }
    }

    /// Leaves a quiet line to tokio-tungstenite, with what was `heard` on it.
    fn talk(&mut self, heard: &[u8]) {
        let Line::Quiet(stream) = std::mem::replace(&mut self.line, Line::Cut) else {
            return;
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(self.message_bytes_max))
            .max_frame_size(Some(self.message_bytes_max));
        let websocket =
            Websocket::from_partially_read(stream, heard.to_vec(), Role::Server, Some(config));
        // There is no handshake to wait for: it is ready at once.
        if let Some(websocket) = websocket.now_or_never() {
            self.line = Line::Talking(Box::new(websocket));
        }
    }
}

/// A message as it goes over the wire, with a ping after it if it is to be there.
fn frame(text: Text, ping: Ping) -> Result<Vec<u8>, Error> {
    let length = text.as_str().len();
    let mut header = [0; HEADER_BYTES_MAX];
    let header = write_header(&mut header, OpCode::Data(Data::Text), length)?;
    let mut bytes = match text {
        // It is nobody else's and has room: it is moved up instead of being copied elsewhere.
        Text::Own(text) => {
            let mut bytes = text.into_bytes();
            bytes.splice(..0, header.iter().copied());
            bytes
        }
        Text::Shared(text) => [header, text.as_str().as_bytes()].concat(),
    };
    if ping == Ping::Along {
        bytes.extend(ping_frame()?);
    }
    Ok(bytes)
}

fn ping_frame() -> Result<Vec<u8>, Error> {
    let mut header = [0; HEADER_BYTES_MAX];
    write_header(&mut header, OpCode::Control(Control::Ping), 0).map(<[u8]>::to_vec)
}

/// The frame that answers a peer's close frame of the same code.
pub(super) fn close_frame(code: Option<u16>) -> Vec<u8> {
    const CLOSE: u8 = 0x88;
    match code {
        Some(code) => {
            let [high, low] = code.to_be_bytes();
            vec![CLOSE, 2, high, low]
        }
        None => vec![CLOSE, 0],
    }
}

/// Writes the header of a frame into `room`, and returns it.
fn write_header(
    room: &mut [u8; HEADER_BYTES_MAX],
    opcode: OpCode,
    length: usize,
) -> Result<&[u8], Error> {
    let header = FrameHeader {
        is_final: true,
        opcode,
        ..FrameHeader::default()
    };
    let mut left = room.as_mut_slice();
    header.format(length as u64, &mut left)?;
    let unused = left.len();
    Ok(&room[..HEADER_BYTES_MAX - unused])
}

/// Whether these are the bytes of one good pong, and nothing else.
fn is_one_pong(bytes: &[u8]) -> bool {
    let mut cursor = Cursor::new(bytes);
    let Ok(Some((header, length))) = FrameHeader::parse(&mut cursor) else {
        return false;
    };
    header.opcode == OpCode::Control(Control::Pong)
        && header.is_final
        && !(header.rsv1 || header.rsv2 || header.rsv3)
        && header.mask.is_some()
        && length <= 125
        && cursor.position() + length == bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::{SinkExt, StreamExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A wire, and the client at its other end.
    async fn pair() -> (Wire, WebSocketStream<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let wire = Wire::new(Metered::new(accepted.unwrap().0, 8_192, 0), &[], 4_096);
        let client = WebSocketStream::from_raw_socket(client.unwrap(), Role::Client, None).await;
        (wire, client)
    }

    async fn heard(wire: &mut Wire) -> Option<Result<Message, Error>> {
        poll_fn(|context| wire.poll_heard(context)).await
    }

    /// Has the client answer the ping that it got.
    async fn hear_pong(wire: &mut Wire, client: &mut WebSocketStream<TcpStream>) {
        client.flush().await.unwrap();
        let pong = heard(wire).await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong(Bytes::new()));
    }

    async fn send(wire: &mut Wire, text: Text, ping: Ping) {
        wire.send(text, ping).unwrap();
        poll_fn(|context| wire.poll_sent(context)).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_is_told_the_same_whether_it_talks_or_not() {
        let (mut wire, mut client) = pair().await;
        let long = "x".repeat(300);
        for talks in [false, true] {
            if talks {
                client.send(Message::text("hello")).await.unwrap();
                let said = heard(&mut wire).await.unwrap().unwrap();
                assert_eq!(said, Message::text("hello"));
            }
            assert_eq!(matches!(wire.line, Line::Talking(_)), talks);
            send(&mut wire, Text::Shared("one".into()), Ping::No).await;
            send(&mut wire, Text::Own(long.clone()), Ping::Along).await;
            let ping = Message::Ping(Bytes::new());
            for expected in [Message::text("one"), Message::text(&long), ping.clone()] {
                assert_eq!(client.next().await.unwrap().unwrap(), expected);
            }
            hear_pong(&mut wire, &mut client).await;
            wire.ping().unwrap();
            poll_fn(|context| wire.poll_sent(context)).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), ping);
            hear_pong(&mut wire, &mut client).await;
        }
    }

    #[tokio::test]
    async fn the_last_word_is_said_by_the_whole_protocol() {
        let (mut wire, mut client) = pair().await;
        send(&mut wire, Text::Own("one".to_owned()), Ping::No).await;
        let mut websocket = wire.into_websocket().unwrap();
        websocket.send(Message::Close(None)).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("one"));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Close(None));
    }

    #[test]
    fn only_one_whole_pong_is_one() {
        const PONG: &[u8] = &[0x8a, 0x80, 1, 2, 3, 4];
        let check = |bytes: &[u8], expected| assert_eq!(is_one_pong(bytes), expected, "{bytes:x?}");
        check(PONG, true);
        check(&[0x8a, 0x82, 1, 2, 3, 4, 5, 6], true);
        check(&[0x8a, 0x82, 1, 2, 3, 4, 5], false);
        check(&PONG[..3], false);
        check(&[PONG, PONG].concat(), false);
        for first_byte in [0x0a, 0x89, 0x88, 0x81, 0x80, 0xca, 0x8b] {
            check(&[first_byte, 0x80, 1, 2, 3, 4], false);
        }
        check(&[0x8a, 0x00], false);
    }
}

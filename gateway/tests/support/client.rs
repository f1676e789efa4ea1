//! Clients: HTTP, one connection a request, and websockets.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use super::{contract, server::TestServer};

/// Longer than anything takes, so that a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// A password that may be used.
pub const PASSWORD: &str = "correct horse";

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts the status and gives the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Asserts that it is a failure as the contract has them.
    #[track_caller]
    pub fn expect_failure(self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!(
            (self.status, body["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        assert!(
            body["error"]
                .as_str()
                .is_some_and(|sentence| sentence.ends_with('.')),
            "{body}"
        );
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.header("content-type"), "application/json");
        body
    }
}

/// A request to be sent.
pub struct Call {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

pub fn get(path: &str) -> Call {
    call(Method::GET, path)
}

pub fn post(path: &str) -> Call {
    call(Method::POST, path)
}

pub fn call(method: Method, path: &str) -> Call {
    Call {
        method,
        path: path.to_owned(),
        headers: Vec::new(),
        body: Bytes::new(),
    }
}

impl Call {
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub async fn send(self, server: &TestServer) -> Answer {
        self.send_to(server.address).await
    }

    pub async fn send_to(self, address: SocketAddr) -> Answer {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (method, path) = (self.method, self.path);
        let mut request = Request::builder()
            .method(&method)
            .uri(&path)
            .header(header::HOST, address.to_string());
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body)).unwrap();
        let answer = timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap();
        let (parts, body) = answer.into_parts();
        let body = timeout(PATIENCE, body.collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        let answer = Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        };
        contract::check(&method, &path, &answer);
        answer
    }
}

/// Signs `email` up, and gives the token.
pub async fn sign_up(server: &TestServer, email: &str) -> String {
    let body = json!({"email": email, "password": PASSWORD});
    let body = post("/api/auth/signup")
        .json(&body)
        .send(server)
        .await
        .expect(201);
    body["token"].as_str().unwrap().to_owned()
}

/// An open websocket.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

impl Socket {
    /// Opens one at `path`, with further headers.
    pub async fn open(
        server: &TestServer,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{}{path}", server.address)
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(server.address).await.unwrap();
        match client_async(request, stream).await {
            Ok((stream, _)) => {
                contract::websocket_opened();
                Ok(Self { stream })
            }
            Err(error) => {
                if let tungstenite::Error::Http(refusal) = &error {
                    let answer = Answer {
                        status: refusal.status().as_u16(),
                        headers: refusal.headers().clone(),
                        body: refusal.body().clone().unwrap_or_default().into(),
                    };
                    contract::check(&Method::GET, "/ws", &answer);
                }
                Err(error)
            }
        }
    }

    /// Opens one with `token` in the address, as old clients do.
    pub async fn with_token(server: &TestServer, token: &str) -> Self {
        Self::open(server, &format!("/?token={token}"), &[])
            .await
            .unwrap()
    }

    /// The next message of the server.
    pub async fn next(&mut self) -> Value {
        match self.frame().await {
            Message::Text(text) => {
                let message = serde_json::from_str(&text).unwrap();
                contract::check_message(&message);
                message
            }
            other => panic!("no message but {other:?}"),
        }
    }

    /// The next message of the type `wanted`; others are skipped.
    pub async fn next_of(&mut self, wanted: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == wanted {
                return message;
            }
        }
    }

    /// What the first message is: its type, or the code and reason that the server closes with.
    pub async fn first(&mut self) -> String {
        match self.frame().await {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                message["type"].as_str().unwrap().to_owned()
            }
            Message::Close(Some(frame)) => format!("{} {}", u16::from(frame.code), frame.reason),
            other => panic!("no message but {other:?}"),
        }
    }

    /// The code and reason that the server closes with; messages before are skipped.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.frame().await {
                let frame = frame.unwrap();
                return (frame.code.into(), frame.reason.as_str().to_owned());
            }
        }
    }

    /// The code and reason of the close frame with which a socket ends that either side has closed; 1005
    /// if it has no code.
    pub async fn closed_by_either(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.frame().await {
                return frame.map_or((1005, String::new()), |frame| {
                    (frame.code.into(), frame.reason.as_str().to_owned())
                });
            }
        }
    }

    /// The server's next frame, with pings answered and left out.
    async fn frame(&mut self) -> Message {
        loop {
            let frame = timeout(PATIENCE, self.stream.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            if !matches!(frame, Message::Ping(_)) {
                return frame;
            }
        }
    }

    pub const fn stream(&mut self) -> &mut WebSocketStream<TcpStream> {
        &mut self.stream
    }
}

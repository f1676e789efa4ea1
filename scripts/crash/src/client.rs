//! One user's way to the server: calls over HTTP, each with what is known of its outcome.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use schema::{ErrorBody, ErrorCode};
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, sync::watch, time::timeout};

use crate::{history::Recorder, moment::Moment};

/// How long a call may take. The server answers sooner, unless it is suspended or gone.
const PATIENCE: Duration = Duration::from_secs(8);

/// Where the server is; nothing while it is down.
pub type Address = watch::Receiver<Option<SocketAddr>>;

/// What is known of a call.
#[derive(Debug)]
pub enum Answer<T> {
    /// A success.
    Done(T),
    /// A failure that says that nothing was done.
    Failed(ErrorCode),
    /// It may have been done.
    Unknown(String),
    /// It never went out.
    NotSent,
}

/// A call with its instants.
#[derive(Debug)]
pub struct Exchange<T> {
    /// Right before it was sent.
    pub sent: Moment,
    /// Right after the reply, or when it was given up.
    pub ended: Moment,
    /// What is known of it.
    pub answer: Answer<T>,
}

/// What a call is.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path with its query.
    pub path: &'a str,
    /// The bearer token; none where it is empty.
    pub token: &'a str,
    /// The idempotency key; none where it is empty.
    pub key: &'a str,
    /// The body.
    pub body: &'a str,
}

impl<'a> Call<'a> {
    /// `GET path` as the token's user.
    pub const fn get(path: &'a str, token: &'a str) -> Self {
        Self {
            method: &Method::GET,
            path,
            token,
            key: "",
            body: "",
        }
    }

    /// `POST path` as the token's user, under `key`.
    pub const fn post(path: &'a str, token: &'a str, key: &'a str) -> Self {
        Self {
            method: &Method::POST,
            path,
            token,
            key,
            body: "",
        }
    }
}

/// A user's kept-alive connection, made anew where the server has moved or hung up.
pub struct Client {
    address: Address,
    connection: Option<(SocketAddr, SendRequest<Full<Bytes>>)>,
    recorder: Recorder,
}

impl Client {
    /// A client of the server at `address`.
    pub fn new(address: Address, recorder: Recorder) -> Self {
        Self {
            address,
            connection: None,
            recorder,
        }
    }

    /// Returns when there is a server.
    pub async fn server_is_up(&mut self) {
        // The sender lives as long as the run.
        let _ = self.address.wait_for(Option::is_some).await;
    }

    /// Makes a call.
    pub async fn call<T: DeserializeOwned>(&mut self, call: Call<'_>) -> Exchange<T> {
        let mut sent = self.recorder.now();
        let answer = match self.connected().await {
            Some(server) => {
                sent = self.recorder.now();
                self.exchange(server, call).await
            }
            None => Answer::NotSent,
        };
        if !matches!(answer, Answer::Done(_) | Answer::Failed(_)) {
            self.connection = None;
        }
        Exchange {
            sent,
            ended: self.recorder.now(),
            answer,
        }
    }

    /// Connects, unless it is.
    async fn connected(&mut self) -> Option<SocketAddr> {
        let server = (*self.address.borrow())?;
        if let Some((peer, connection)) = &mut self.connection
            && *peer == server
            && connection.ready().await.is_ok()
        {
            return Some(server);
        }
        let stream = timeout(PATIENCE, TcpStream::connect(server)).await;
        let stream = stream.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(driver);
        self.connection = Some((server, connection));
        Some(server)
    }

    async fn exchange<T: DeserializeOwned>(
        &mut self,
        server: SocketAddr,
        call: Call<'_>,
    ) -> Answer<T> {
        let Some((_, connection)) = &mut self.connection else {
            return Answer::NotSent;
        };
        let Ok(request) = request(server, call) else {
            return Answer::NotSent;
        };
        let exchanged = timeout(PATIENCE, async {
            let reply = connection.send_request(request).await?;
            let (head, body) = reply.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        });
        let (head, body) = match exchanged.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Answer::Unknown(error.to_string()),
            Err(_) => return Answer::Unknown("no reply".to_owned()),
        };
        self.read(call, head.status, &head.headers, &body)
    }

    /// Understands a reply, and complains of one that the contract doesn't have.
    fn read<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Answer<T> {
        let complain = |what: &str| {
            let body = String::from_utf8_lossy(body);
            self.recorder
                .complain(format!("{} gave {status}, {what}: {body}", call.path));
        };
        if matches!(status, StatusCode::OK | StatusCode::CREATED) {
            return match serde_json::from_slice(body) {
                Ok(value) => Answer::Done(value),
                Err(error) => {
                    complain(&format!("which can't be read ({error})"));
                    Answer::Unknown(error.to_string())
                }
            };
        }
        let Ok(failure) = serde_json::from_slice::<ErrorBody>(body) else {
            complain("which is no failure of ours");
            return Answer::Unknown(status.to_string());
        };
        if failure.code.status() != status.as_u16() {
            complain("which is not its code's status");
        }
        if matches!(status.as_u16(), 429 | 503) && !headers.contains_key(RETRY_AFTER) {
            complain("without Retry-After");
        }
        match failure.code {
            ErrorCode::OutcomeUnknown => Answer::Unknown("outcome_unknown".to_owned()),
            ErrorCode::Internal => {
                complain("a fault of the server's own");
                Answer::Unknown("internal".to_owned())
            }
            code => Answer::Failed(code),
        }
    }
}

fn request(server: SocketAddr, call: Call<'_>) -> hyper::http::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header(HOST, server.to_string())
        .header(CONTENT_TYPE, "application/json");
    if !call.token.is_empty() {
        request = request.header(AUTHORIZATION, format!("Bearer {}", call.token));
    }
    if !call.key.is_empty() {
        request = request.header("Idempotency-Key", call.key);
    }
    request.body(Full::from(call.body.to_owned()))
}

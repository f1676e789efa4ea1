//! The two ways to the server: calls over HTTP, and a websocket.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::WebSocketConfig};

/// How long the server may take over a call or a handshake.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many calls are on their way at once.
const CALLERS: usize = 16;

/// One kept-alive HTTP connection.
pub struct Caller {
    server: String,
    connection: SendRequest<Full<Bytes>>,
}

impl Caller {
    /// Connects.
    pub async fn connect(server: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(server)
            .await
            .with_context(|| format!("can't connect to {server}"))?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Self {
            server: server.to_owned(),
            connection,
        })
    }

    /// `POST`s nothing to `path` as the token's user and reads the reply.
    pub async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        token: &str,
    ) -> anyhow::Result<T> {
        self.call(Method::POST, path, token).await
    }

    /// `GET`s `path`, as nobody, as text.
    pub async fn text(&mut self, path: &str) -> anyhow::Result<String> {
        let request = Request::get(path)
            .header(HOST, &self.server)
            .body(Full::default())?;
        let body = self.send(path, request).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        token: &str,
    ) -> anyhow::Result<T> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.server)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::default())?;
        let body = self.send(path, request).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("{path} gave {}", String::from_utf8_lossy(&body)))
    }

    /// Sends the request, and reads the body of a success.
    async fn send(&mut self, path: &str, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        self.connection.ready().await?;
        let reply = tokio::time::timeout(PATIENCE, self.connection.send_request(request)).await??;
        let status = reply.status();
        let body = reply.into_body().collect().await?.to_bytes();
        if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
            bail!("{path} gave {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }
}

/// Connects from an address of this machine's.
pub async fn dial(server: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(server).await
}

/// Opens a websocket for the token's user.
pub async fn open_socket(server: &str, token: &str) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(server)
        .await
        .with_context(|| format!("can't connect to {server}"))?;
    upgrade(server, token, stream).await
}

/// Opens a websocket for the token's user, from an address of this machine's.
pub async fn open_socket_from(
    server: &str,
    token: &str,
    from: Ipv4Addr,
) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let address = tokio::net::lookup_host(server).await?.next();
    let address = address.with_context(|| format!("{server} has no address"))?;
    let stream = dial(address, from)
        .await
        .with_context(|| format!("can't connect to {server} from {from}"))?;
    upgrade(server, token, stream).await
}

async fn upgrade(
    server: &str,
    token: &str,
    stream: TcpStream,
) -> anyhow::Result<WebSocketStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(1_024)
        .write_buffer_size(0);
    let address = format!("ws://{server}/ws?token={token}");
    let handshake = tokio_tungstenite::client_async_with_config(address, stream, Some(config));
    let (socket, _) = tokio::time::timeout(PATIENCE, handshake).await??;
    Ok(socket)
}

/// Makes the same call for every user, some at a time; the replies are in the users' order.
pub async fn for_all<T: DeserializeOwned>(
    server: &str,
    tokens: &[String],
    path: &str,
) -> anyhow::Result<Vec<T>> {
    let share = tokens.len().div_ceil(CALLERS).max(1);
    let shares = tokens.chunks(share).map(|tokens| async move {
        let mut caller = Caller::connect(server).await?;
        let mut replies = Vec::with_capacity(tokens.len());
        for token in tokens {
            replies.push(caller.post(path, token).await?);
        }
        anyhow::Ok(replies)
    });
    let replies: Vec<_> = stream::iter(shares).buffered(CALLERS).collect().await;
    let replies: anyhow::Result<Vec<Vec<T>>> = replies.into_iter().collect();
    Ok(replies?.into_iter().flatten().collect())
}

//! The real program on a port of its own, with its data in a folder of its own.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::wait::until;

/// How many ports this program has looked at, so that no two servers look at the same one.
static PORTS_TRIED: AtomicU16 = AtomicU16::new(0);

/// A server, killed when this is dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    folder: PathBuf,
    settings: Vec<(&'static str, String)>,
    process: Child,
}

impl Server {
    /// Starts one that keeps its data in `folder`, and waits until it is ready.
    pub(crate) async fn start(folder: &Path, settings: &[(&'static str, &str)]) -> Self {
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let port = free_port();
        let process = spawn(port, folder, &settings);
        let server = Self {
            port,
            folder: folder.to_owned(),
            settings,
            process,
        };
        server.wait_until_ready().await;
        server
    }

    /// Kills it without warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, with the same port and data.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.port, &self.folder, &self.settings);
        self.wait_until_ready().await;
    }

    /// Does what an operator does from the command line, beside the running server.
    pub(crate) async fn operate(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minute-credit"));
        command
            .args(arguments)
            .env_remove("DATABASE_URL")
            .env_remove("REDIS_URL")
            .env("DATA_DIR", self.folder.join("data"));
        let ending = tokio::task::spawn_blocking(move || command.output());
        let output = ending.await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }

    /// Gives the user with this email credits, or takes them away.
    pub(crate) async fn change_credits(&self, email: &str, by: i64) {
        let verb = if by < 0 { "revoke" } else { "grant" };
        let amount = by.abs().to_string();
        let arguments = [
            "credits",
            verb,
            email,
            &amount,
            "--reason",
            "a test",
            "--operator",
            "tests",
        ];
        self.operate(&arguments).await;
    }

    /// The file in which it keeps its data.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.join("data").join("minute-credit.db")
    }

    /// The page's address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// What `GET path` says to the bearer of `token`.
    pub(crate) async fn get<Body: DeserializeOwned>(&self, path: &str, token: &str) -> Body {
        let (status, body) = self.request(path, token).await.unwrap();
        assert_eq!(
            status,
            StatusCode::OK,
            "{path}: {}",
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).unwrap()
    }

    async fn wait_until_ready(&self) {
        until("the server is ready", async || {
            matches!(self.request("/readyz", "").await, Ok((StatusCode::OK, _)))
        })
        .await;
    }

    async fn request(
        &self,
        path: &str,
        token: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(header::HOST, format!("127.0.0.1:{}", self.port))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        drop(sender);
        connection.await??;
        Ok((status, body))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn spawn(port: u16, folder: &Path, settings: &[(&'static str, String)]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("server.log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_minute-credit"))
        .arg("serve")
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .env("PORT", port.to_string())
        .env("DATA_DIR", folder.join("data"))
        .envs(settings.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A port that is free, below those that the system gives to clients: nobody takes it while the
/// server is killed and not yet back.
fn free_port() -> u16 {
    let first = 10_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = first + PORTS_TRIED.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

//! What the targets share: a real server in this process, and clients that say anything.
//!
//! Server and client take turns on one thread, so that an input does the same every time as far as
//! that can be.

use std::{collections::BTreeMap, fs, net::SocketAddr, sync::OnceLock, time::Duration};

use gateway::{server::Server, settings::Settings};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::timeout,
};

/// The word in an input that stands for a token that the server takes.
pub const TOKEN: &[u8] = b"TOKEN";

/// Longer than any answer may take, waiting for a body included.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an answer without an end says of itself.
const EVENT_STREAM: &[u8] = b"content-type: text/event-stream";

/// Settings that stand in no one's way, and give up soon on what a client leaves unfinished.
const SETTINGS: &str = r#"
[http]
port = 0
trusted_proxies = ["127.0.0.0/8"]
connections_per_address_max = 0
body_timeout_ms = 100
header_timeout_ms = 100
idle_timeout_ms = 200
[sockets]
per_address_max = 0
ping_every_ms = 100
[limits]
unpaid_sessions_per_hour = 0
refused_requests_per_address_per_minute = 0
[log]
level = "error"
"#;

/// A server that runs as long as the process.
pub struct Fixture {
    runtime: Runtime,
    address: SocketAddr,
    token: String,
    _home: TempDir,
}

impl Fixture {
    /// The server of this process.
    pub fn get() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(Self::start)
    }

    fn start() -> Self {
        let home = TempDir::new().expect("a temporary folder");
        let file = home.path().join("settings.toml");
        fs::write(&file, SETTINGS).expect("the settings are written");
        let data_dir = home.path().display().to_string();
        let environment = BTreeMap::from([("DATA_DIR".to_owned(), data_dir)]);
        let settings = Settings::from_sources(Some(&file), &environment).expect("sane settings");
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let server = runtime.block_on(Server::build(settings)).expect("a server");
        let address = server.address();
        runtime.spawn(server.run(std::future::pending()));
        let mut fixture = Self {
            runtime,
            address,
            token: String::new(),
            _home: home,
        };
        fixture.token = fixture.sign_up();
        fixture
    }

    fn sign_up(&self) -> String {
        let body = r#"{"email":"ada@example.com","password":"correct horse"}"#;
        let request = format!(
            "POST /api/auth/signup HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.exchange(&[request.as_bytes()]);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (_, rest) = answer.split_once(r#""token":""#).expect("a token");
        let (token, _) = rest.split_once('"').expect("a token's end");
        token.to_owned()
    }

    /// `input` with a genuine token in every place that asks for one.
    pub fn with_token(&self, input: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(input.len());
        let mut rest = input;
        while let Some(at) = rest.windows(TOKEN.len()).position(|word| word == TOKEN) {
            text.extend_from_slice(&rest[..at]);
            text.extend_from_slice(self.token.as_bytes());
            rest = &rest[at + TOKEN.len()..];
        }
        text.extend_from_slice(rest);
        text
    }

    /// Sends `parts` over a connection of their own, one write each, and gives everything that the
    /// server sends until it closes, which it must; of an event stream, which has no end, the
    /// beginning.
    pub fn exchange(&self, parts: &[&[u8]]) -> Vec<u8> {
        self.runtime.block_on(async {
            let talk = async {
                let mut stream = TcpStream::connect(self.address).await.expect("connected");
                stream.set_nodelay(true).ok();
                for part in parts {
                    // A server that has seen enough may have closed already.
                    if stream.write_all(part).await.is_err() {
                        break;
                    }
                }
                let mut answer = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut answer).await {
                    if answer.windows(EVENT_STREAM.len()).any(|at| at == EVENT_STREAM) {
                        break;
                    }
                }
                // Else the ports would run out.
                stream.set_zero_linger().ok();
                answer
            };
            timeout(PATIENCE, talk).await.expect("the server closes")
        })
    }
}

/// Panics if `answer` tells of a fault of the server's own.
pub fn check_answers(answer: &[u8]) {
    let is_fault = |at: &[u8]| at == b"HTTP/1.1 500 " || at == b"HTTP/1.0 500 ";
    let has_fault = answer.windows(13).any(is_fault);
    assert!(!has_fault, "{}", String::from_utf8_lossy(answer));
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "{}",
        String::from_utf8_lossy(answer)
    );
}

//! What lies between a browser and its server: it passes everything on, or nothing, or hangs up.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It arrives.
    Open,
    /// It is swallowed, without a word to either side. What is lost is sent on once the way is open again,
    /// as TCP does.
    BlackHole,
    /// Connections are closed, and new ones at once.
    Closed,
}

/// A proxy, which ends when this is dropped.
pub(crate) struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one before the server at `port`.
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let (way, watched) = watch::channel(Way::Open);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, port, watched.clone()));
            }
        });
        Self {
            port: own_port,
            way,
            accepting,
        }
    }

    /// The page's address through the proxy.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Changes what becomes of what is sent, from now on.
    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass_on(client: TcpStream, port: u16, way: watch::Receiver<Way>) {
    let mut closing = way.clone();
    let passing = async {
        let server = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let (client, server) = (client.into_split(), server.into_split());
        let up = pump(client.0, server.1, way.clone());
        let down = pump(server.0, client.1, way);
        tokio::select! {
            done = up => done,
            done = down => done,
        }
    };
    tokio::select! {
        _ = passing => {}
        _ = closing.wait_for(|way| *way == Way::Closed) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut way: watch::Receiver<Way>,
) -> Option<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let bytes = from
            .read(&mut buffer)
            .await
            .ok()
            .filter(|bytes| *bytes > 0)?;
        way.wait_for(|way| *way == Way::Open).await.ok()?;
        to.write_all(&buffer[..bytes]).await.ok()?;
    }
}

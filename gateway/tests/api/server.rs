//! A server in this process, on a port and in a folder of its own.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use engine::store::{self, Store};
use gateway::{
    server::{Server, ServerError},
    settings::Settings,
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

/// The key of every test server's tokens, so that tests can make tokens of their own.
pub const TOKEN_KEY: &str = "k4.local.cHFyc3R1dnd4eXp7fH1-f4CBgoOEhYaHiImKi4yNjo8";

pub struct TestServer {
    pub address: SocketAddr,
    dir: TempDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ServerError>>,
}

impl TestServer {
    /// A server with the default settings.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A server with other settings, given as `section.key`.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::in_dir(TempDir::new().unwrap(), settings).await
    }

    async fn in_dir(dir: TempDir, settings: &[(&str, &str)]) -> Self {
        let server = Server::build(Self::settings(&dir, settings)).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async {
            stopped.await.ok();
        }));
        Self {
            address,
            dir,
            stop,
            running,
        }
    }

    fn settings(dir: &TempDir, settings: &[(&str, &str)]) -> Settings {
        let mut environment: BTreeMap<String, String> = settings
            .iter()
            .map(|(key, value)| {
                let variable = key.to_uppercase().replace('.', "__");
                (format!("MINUTE_CREDIT__{variable}"), (*value).to_owned())
            })
            .collect();
        environment.insert("PORT".to_owned(), "0".to_owned());
        environment.insert("DATA_DIR".to_owned(), dir.path().display().to_string());
        environment.insert(
            "MINUTE_CREDIT__TOKENS__KEY".to_owned(),
            TOKEN_KEY.to_owned(),
        );
        Settings::from_sources(None, &environment).unwrap()
    }

    /// The server's database, as another process sees it.
    pub async fn store(&self) -> Arc<dyn Store> {
        store::open(&Self::settings(&self.dir, &[]).store)
            .await
            .unwrap()
    }

    /// Tells it to stop, without waiting for it.
    pub fn begin_stop(self) -> Stopping {
        self.stop.send(()).unwrap();
        Stopping {
            dir: self.dir,
            running: self.running,
        }
    }

    /// Stops it and starts it again on the same data, on another port.
    pub async fn restart(self, settings: &[(&str, &str)]) -> Self {
        let dir = self.begin_stop().finish().await;
        Self::in_dir(dir, settings).await
    }
}

/// A server that drains.
pub struct Stopping {
    dir: TempDir,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Stopping {
    /// Waits until it has ended well.
    pub async fn finish(self) -> TempDir {
        self.running.await.unwrap().unwrap();
        self.dir
    }
}

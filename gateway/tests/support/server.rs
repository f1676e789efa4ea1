//! A server in this process, on a port and with data of its own.

use std::{net::SocketAddr, sync::Arc};

use engine::store::{self, Store};
use gateway::{
    server::{Server, ServerError},
    settings::Settings,
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::home::Home;

/// The key of every test server's tokens, so that tests can make tokens of their own.
pub const TOKEN_KEY: &str = "k4.local.cHFyc3R1dnd4eXp7fH1-f4CBgoOEhYaHiImKi4yNjo8";

pub struct TestServer {
    pub address: SocketAddr,
    home: Arc<Home>,
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
        Self::at(Arc::new(Home::new().await), settings).await
    }

    /// Another process on the same database, as another node.
    pub async fn beside(&self, settings: &[(&str, &str)]) -> Self {
        let settings = [&[("node.name", "other")], settings].concat();
        Self::at(Arc::clone(&self.home), &settings).await
    }

    async fn at(home: Arc<Home>, settings: &[(&str, &str)]) -> Self {
        let server = Server::build(Self::settings(&home, settings))
            .await
            .unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async {
            stopped.await.ok();
        }));
        Self {
            address,
            home,
            stop,
            running,
        }
    }

    fn settings(home: &Home, settings: &[(&str, &str)]) -> Settings {
        let mut environment = home.environment();
        environment.insert("PORT".to_owned(), "0".to_owned());
        environment.extend(settings.iter().map(|(key, value)| {
            let variable = key.to_uppercase().replace('.', "__");
            (format!("MINUTE_CREDIT__{variable}"), (*value).to_owned())
        }));
        environment.insert(
            "MINUTE_CREDIT__TOKENS__KEY".to_owned(),
            TOKEN_KEY.to_owned(),
        );
        Settings::from_sources(None, &environment).unwrap()
    }

    /// The server's database, as another process sees it.
    pub async fn store(&self) -> Arc<dyn Store> {
        store::open(&Self::settings(&self.home, &[]).store)
            .await
            .unwrap()
    }

    /// Where its data is.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Tells it to stop, without waiting for it.
    pub fn begin_stop(self) -> Stopping {
        self.stop.send(()).unwrap();
        Stopping {
            home: self.home,
            running: self.running,
        }
    }

    /// Stops it and starts it again on the same data, on another port.
    pub async fn restart(self, settings: &[(&str, &str)]) -> Self {
        let home = self.begin_stop().finish().await;
        Self::at(home, settings).await
    }
}

/// A server that drains.
pub struct Stopping {
    home: Arc<Home>,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Stopping {
    /// Waits until it has ended well.
    pub async fn finish(self) -> Arc<Home> {
        self.running.await.unwrap().unwrap();
        self.home
    }
}

//! Somebody who watches a user's balance over a websocket, and comes back whenever it closes.

use std::{net::SocketAddr, time::Duration};

use futures_util::StreamExt;
use schema::websocket::ServerMessage;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{client::Address, history::Recorder, user::Account};

/// How long opening a websocket may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// The wait before a websocket is opened again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Watches until it is dropped.
pub async fn watch(account: Account, mut address: Address, recorder: Recorder) {
    loop {
        // The sender lives as long as the run.
        let Ok(server) = address
            .wait_for(Option::is_some)
            .await
            .map(|server| *server)
        else {
            return;
        };
        if let Some(server) = server {
            // Errors are what the run is about; what was heard until then counts.
            let _ = listen(server, &account, &recorder).await;
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Writes down what one websocket says, until it closes.
async fn listen(server: SocketAddr, account: &Account, recorder: &Recorder) -> anyhow::Result<()> {
    let url = format!("ws://{server}/ws?token={}", account.token);
    let opening = async {
        let stream = TcpStream::connect(server).await?;
        anyhow::Ok(tokio_tungstenite::client_async(url, stream).await?)
    };
    let (mut socket, _) = timeout(PATIENCE, opening).await??;
    let stream = recorder.opened(account.index);
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            match serde_json::from_str::<ServerMessage>(&text) {
                Ok(message) => recorder.heard(stream, message),
                Err(error) => recorder.complain(format!("a websocket said {text:?}: {error}")),
            }
        }
    }
    Ok(())
}

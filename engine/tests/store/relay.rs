//! A relay before a database server that can lead elsewhere, and cut connections at a chosen place.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use engine::store::StoreLocation;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Where connections are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nowhere,
    /// The server never gets BEGIN.
    AtBegin,
    /// The server gets COMMIT, and its reply is lost.
    AfterCommit,
    /// The server never gets COMMIT.
    BeforeCommit,
    /// After so many answers of a connection the server seems to say nothing more, and the connection
    /// stays open.
    Silence {
        answers: usize,
    },
}

/// It ends when it is dropped.
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

struct State {
    target: Mutex<SocketAddr>,
    cut: Mutex<Cut>,
    /// Counts how often all connections were cut.
    generation: watch::Sender<u64>,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            target: Mutex::new(target),
            cut: Mutex::new(Cut::Nowhere),
            generation: watch::channel(0).0,
        });
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(carry(client, Arc::clone(&state)));
                }
            }
        });
        Self {
            address,
            state,
            accepting,
        }
    }

    /// To the server at `location`, which is addressed through the relay then.
    pub async fn before(location: &StoreLocation) -> (Self, StoreLocation) {
        let StoreLocation::Postgres(address) = location else {
            panic!("a relay is for Postgres");
        };
        let (front, rest) = address.rsplit_once('@').unwrap();
        let (place, name) = rest.split_once('/').unwrap();
        let relay = Self::to(place.parse().unwrap()).await;
        let location = format!("{front}@{}/{name}", relay.address);
        (relay, StoreLocation::Postgres(location))
    }

    /// From now on connections are cut there.
    pub fn set_cut(&self, cut: Cut) {
        *self.state.cut.lock().unwrap() = cut;
    }

    /// New connections lead there; those that are open stay.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap() = target;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.generation.send_modify(|count| *count += 1);
    }
}

async fn carry(client: TcpStream, state: Arc<State>) {
    let mut generation = state.generation.subscribe();
    generation.mark_unchanged();
    let target = *state.target.lock().unwrap();
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut answers_before = 0;
    loop {
        tokio::select! {
            _ = generation.changed() => return,
            read = from_client.read(&mut asked) => {
                let Ok(count @ 1..) = read else { return };
                let asks = |word: &[u8]| asked[..count].windows(word.len()).any(|part| part == word);
                let commits = asks(b"COMMIT\0");
                let cut = *state.cut.lock().unwrap();
                let is_cut = match cut {
                    Cut::AtBegin => asks(b"BEGIN"),
                    Cut::BeforeCommit => commits,
                    Cut::Nowhere | Cut::AfterCommit | Cut::Silence { .. } => false,
                };
                if is_cut {
                    return;
                }
                if to_server.write_all(&asked[..count]).await.is_err() {
                    return;
                }
                if commits && cut == Cut::AfterCommit {
                    // The reply shows that it is done.
                    let _ = from_server.read(&mut answered).await;
                    return;
                }
            }
            read = from_server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { return };
                let cut = *state.cut.lock().unwrap();
                if matches!(cut, Cut::Silence { answers } if answers_before >= answers) {
                    continue;
                }
                answers_before += 1;
                if to_client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

//! A network between the server and its database that fails on command.
//!
//! Each connection is carried byte by byte, in the weather of the moment. Only what the words COMMIT
//! look like is known of what passes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// How much is read at a time.
const CHUNK: usize = 16 << 10;

/// What the network does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Fair,
    /// It carries everything late.
    Slow(Duration),
    /// It takes everything and carries nothing: a black hole. What went through it never recovers.
    BlackHole,
    /// It breaks off every connection, also those newly made.
    Down,
    /// It carries a COMMIT, waits for the database's word that it is done, and breaks off the
    /// connection instead of carrying that word back.
    CutsAfterCommit,
    /// It breaks off the connection instead of carrying a COMMIT.
    CutsBeforeCommit,
}

/// A proxy before one server. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    cuts: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before `upstream`, in fair weather.
    pub async fn start(upstream: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::Fair);
        let cuts = Arc::default();
        let task = tokio::spawn(accept(listener, upstream, seen, Arc::clone(&cuts)));
        Ok(Self {
            address,
            weather,
            cuts,
            task,
        })
    }

    /// A proxy before the server that a URL names, and the URL that leads through it.
    pub async fn before(url: &str) -> anyhow::Result<(Self, String)> {
        let (scheme, rest) = url.split_once("://").context("the URL has no scheme")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, host) = authority
            .rsplit_once('@')
            .map_or(("", authority), |(user, host)| (user, host));
        if host.is_empty() {
            bail!("the URL names no host");
        }
        let port = if scheme.starts_with("redis") {
            6379
        } else {
            5432
        };
        let upstream = if host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        let proxy = Self::start(upstream).await?;
        let at = if user.is_empty() { "" } else { "@" };
        let through = format!("{scheme}://{user}{at}{}{path}", proxy.address);
        Ok((proxy, through))
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// How many COMMITs were cut off so far, before or after they were done.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: String,
    weather: watch::Receiver<Weather>,
    cuts: Arc<AtomicU64>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let carried = Carried {
            weather: weather.clone(),
            cuts: Arc::clone(&cuts),
            has_lost_bytes: false,
            is_committing: false,
        };
        tokio::spawn(carried.run(client, upstream.clone()));
    }
}

/// What becomes of some bytes.
enum Fate {
    Carried,
    Lost,
    CutOff,
}

/// A connection that is carried.
struct Carried {
    weather: watch::Receiver<Weather>,
    cuts: Arc<AtomicU64>,
    /// Both sides would misunderstand each other from here on.
    has_lost_bytes: bool,
    /// A COMMIT is on its way, and its reply is to be cut off.
    is_committing: bool,
}

impl Carried {
    async fn run(mut self, mut client: TcpStream, upstream: String) {
        if *self.weather.borrow() == Weather::BlackHole {
            self.has_lost_bytes = true;
            swallow(&mut client).await;
            return;
        }
        if *self.weather.borrow() == Weather::Down {
            return reset(&client);
        }
        let Ok(mut server) = TcpStream::connect(&upstream).await else {
            return reset(&client);
        };
        let (mut up, mut down) = (vec![0; CHUNK], vec![0; CHUNK]);
        loop {
            let is_on = tokio::select! {
                read = client.read(&mut up) => match read {
                    Ok(length @ 1..) => {
                        let fate = self.upward(&up[..length]).await;
                        carry(fate, &mut server, &up[..length]).await
                    }
                    _ => false,
                },
                read = server.read(&mut down) => match read {
                    Ok(length @ 1..) => {
                        let fate = self.downward(&down[..length]).await;
                        carry(fate, &mut client, &down[..length]).await
                    }
                    _ => false,
                },
                changed = self.weather.changed() => {
                    changed.is_ok() && *self.weather.borrow_and_update() != Weather::Down
                }
            };
            if !is_on {
                reset(&client);
                reset(&server);
                return;
            }
        }
    }

    /// What becomes of bytes to the database.
    async fn upward(&mut self, bytes: &[u8]) -> Fate {
        let fate = self.pass().await;
        let is_commit = contains(bytes, b"COMMIT");
        let weather = *self.weather.borrow();
        match weather {
            Weather::CutsBeforeCommit if is_commit => {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                return Fate::CutOff;
            }
            Weather::CutsAfterCommit if is_commit => self.is_committing = true,
            _ => {}
        }
        fate
    }

    /// What becomes of bytes from the database.
    async fn downward(&mut self, bytes: &[u8]) -> Fate {
        // The database names what it has done: a ROLLBACK in place of the COMMIT is carried.
        if self.is_committing && contains(bytes, b"COMMIT") {
            self.cuts.fetch_add(1, Ordering::Relaxed);
            return Fate::CutOff;
        }
        self.is_committing = false;
        self.pass().await
    }

    async fn pass(&mut self) -> Fate {
        let weather = *self.weather.borrow();
        match weather {
            Weather::Slow(delay) => sleep(delay).await,
            Weather::BlackHole => self.has_lost_bytes = true,
            Weather::Down => return Fate::CutOff,
            _ => {}
        }
        if self.has_lost_bytes {
            Fate::Lost
        } else {
            Fate::Carried
        }
    }
}

/// Does with the bytes what is to become of them. Gives whether the connection goes on.
async fn carry(fate: Fate, to: &mut TcpStream, bytes: &[u8]) -> bool {
    match fate {
        Fate::Carried => to.write_all(bytes).await.is_ok(),
        Fate::Lost => true,
        Fate::CutOff => false,
    }
}

/// Takes whatever comes until the other side gives up.
async fn swallow(client: &mut TcpStream) {
    let mut bytes = vec![0; CHUNK];
    while matches!(client.read(&mut bytes).await, Ok(1..)) {}
}

/// Makes the connection end with a reset instead of an orderly end, when it is dropped.
fn reset(stream: &TcpStream) {
    // Of one that is broken already nothing is left to reset.
    let _ = stream.set_zero_linger();
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that answers each chunk with the same bytes, and counts them.
    async fn echo() -> (SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&heard);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut bytes = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                        count.fetch_add(length as u64, Ordering::SeqCst);
                        stream.write_all(&bytes[..length]).await.unwrap();
                    }
                });
            }
        });
        (address, heard)
    }

    async fn say(stream: &mut TcpStream, words: &[u8]) -> Option<Vec<u8>> {
        stream.write_all(words).await.ok()?;
        let mut bytes = [0; 64];
        match stream.read(&mut bytes).await {
            Ok(length @ 1..) => Some(bytes[..length].to_vec()),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_reply_to_a_commit_is_cut_off_after_it_was_done() {
        let (server, heard) = echo().await;
        let proxy = Proxy::start(server.to_string()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(say(&mut client, b"COMMIT").await.unwrap(), b"COMMIT");
        proxy.set(Weather::CutsAfterCommit);
        assert_eq!(say(&mut client, b"SELECT").await.unwrap(), b"SELECT");
        assert_eq!(say(&mut client, b"COMMIT").await, None);
        assert_eq!((proxy.cuts(), heard.load(Ordering::SeqCst)), (1, 18));
    }

    #[tokio::test]
    async fn a_commit_is_cut_off_before_it_arrives() {
        let (server, heard) = echo().await;
        let proxy = Proxy::start(server.to_string()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(say(&mut client, b"SELECT").await.unwrap(), b"SELECT");
        proxy.set(Weather::CutsBeforeCommit);
        assert_eq!(say(&mut client, b"COMMIT").await, None);
        assert_eq!((proxy.cuts(), heard.load(Ordering::SeqCst)), (1, 6));
    }

    #[tokio::test]
    async fn a_network_that_is_down_breaks_off_old_and_new_connections() {
        let (server, _) = echo().await;
        let proxy = Proxy::start(server.to_string()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        assert!(say(&mut client, b"SELECT").await.is_some());
        proxy.set(Weather::Down);
        assert_eq!(say(&mut client, b"SELECT").await, None);
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(say(&mut client, b"SELECT").await, None);
        proxy.set(Weather::Fair);
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        assert!(say(&mut client, b"SELECT").await.is_some());
    }

    #[tokio::test]
    async fn what_went_through_a_black_hole_never_recovers() {
        let (server, heard) = echo().await;
        let proxy = Proxy::start(server.to_string()).await.unwrap();
        let mut old = TcpStream::connect(proxy.address).await.unwrap();
        assert!(say(&mut old, b"SELECT").await.is_some());
        proxy.set(Weather::BlackHole);
        old.write_all(b"SELECT").await.unwrap();
        let mut bytes = [0; 64];
        let silent = tokio::time::timeout(Duration::from_millis(50), old.read(&mut bytes));
        assert!(silent.await.is_err());
        proxy.set(Weather::Fair);
        old.write_all(b"SELECT").await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(50), old.read(&mut bytes));
        assert!(silent.await.is_err());
        let mut new = TcpStream::connect(proxy.address).await.unwrap();
        assert!(say(&mut new, b"SELECT").await.is_some());
        assert_eq!(heard.load(Ordering::SeqCst), 12);
    }

    #[tokio::test]
    async fn a_url_leads_through_it() {
        let (server, _) = echo().await;
        let check = async |before: String, after: &str| {
            let (proxy, through) = Proxy::before(&before).await.unwrap();
            assert_eq!(through, after.replace("PROXY", &proxy.address.to_string()));
        };
        check(
            format!("postgres://a:b@{server}/name?x=y"),
            "postgres://a:b@PROXY/name?x=y",
        )
        .await;
        check(format!("redis://{server}"), "redis://PROXY").await;
        assert!(Proxy::before("postgres://a:b@/name").await.is_err());
    }
}

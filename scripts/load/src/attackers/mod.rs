//! `load attacker`: one attack on a running server, until its time is over.
//!
//! Each attacker is many tasks that do the same thing again and again, over plain connections from
//! loopback addresses of its own, so that limits by address count it apart from honest clients. What
//! comes back is thrown away; where the server hangs up, the task begins anew.

mod http;
mod sockets;
mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::ValueEnum;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{Target, users::Users};

/// What a stranger may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Log-ins with wrong passwords, as fast as they are answered
    Passwords,
    /// Requests' heads that come a byte a second
    SlowHeads,
    /// Requests' bodies that come a byte a second
    SlowBodies,
    /// Ten thousand websockets from one address, which then do nothing
    IdleSockets,
    /// Websockets that send pings without end
    Pings,
    /// Websockets that send one message in fragments without end
    Fragments,
    /// Websockets that send messages larger than allowed
    Oversized,
    /// Websockets and requests whose answers are never read
    NeverRead,
    /// Requests with tokens that are none
    BadTokens,
    /// Log-ins whose email no database takes
    NulLogIns,
    /// Log-ins whose JSON is broken
    WrongJson,
    /// Log-ins whose body is larger than allowed
    LargeBodies,
    /// Connections that are closed as soon as they are open
    Churn,
    /// Ten thousand websockets from one address that says it is many
    ForwardedFor,
}

/// How many files one process may open here, with some to spare.
const SOCKETS: usize = 10_000;

/// The body of a log-in with a NUL in its email.
const NUL_LOG_IN: &str = r#"{"email":"a\u0000@example.com","password":"correct horse"}"#;

/// A body that begins like JSON.
const WRONG_JSON: &str = r#"{"email":"a@example.com","password":"#;

/// A body of this many bytes is more than `http.body_bytes_max` allows.
const LARGE_BODY_BYTES: usize = 256 << 10;

/// The receive buffer of who never reads, in bytes.
const SMALL_BUFFER_BYTES: u32 = 4096;

/// The arguments of `load attacker`.
#[derive(clap::Args)]
pub struct AttackerArguments {
    #[command(flatten)]
    target: Target,
    /// Which attack.
    #[arg(value_enum)]
    attack: Attack,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// What an attacker's tasks share.
struct Means {
    server: SocketAddr,
    users: Users,
    /// How often something was done.
    done: AtomicU64,
}

impl Attack {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How many tasks it takes.
    const fn tasks(self) -> usize {
        match self {
            Self::Passwords
            | Self::Churn
            | Self::BadTokens
            | Self::NulLogIns
            | Self::WrongJson
            | Self::LargeBodies => 64,
            Self::SlowHeads | Self::SlowBodies => 2_000,
            Self::IdleSockets | Self::ForwardedFor => SOCKETS,
            Self::Pings | Self::Fragments | Self::Oversized => 100,
            Self::NeverRead => 400,
        }
    }

    /// From how many addresses it comes.
    const fn addresses(self) -> usize {
        match self {
            Self::IdleSockets | Self::ForwardedFor => 1,
            _ => 20,
        }
    }
}

/// Runs the command.
#[tokio::main]
pub async fn run(arguments: &AttackerArguments) -> anyhow::Result<ExitCode> {
    let means = Arc::new(Means {
        server: arguments.target.address()?,
        users: arguments.target.users()?,
        done: AtomicU64::new(0),
    });
    let attack = arguments.attack;
    let mut tasks = JoinSet::new();
    for number in 0..attack.tasks() {
        let means = Arc::clone(&means);
        tasks.spawn(async move { attack_again_and_again(attack, &means, number).await });
    }
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    println!("{}", means.done.load(Ordering::Relaxed));
    Ok(ExitCode::SUCCESS)
}

async fn attack_again_and_again(attack: Attack, means: &Means, number: usize) {
    let from = Ipv4Addr::new(
        127,
        0,
        3,
        u8::try_from(1 + number % attack.addresses()).unwrap_or(1),
    );
    loop {
        // However it fails, the server hung up or did not let us in: both are what it should do.
        if let Ok(stream) = dial(attack, means.server, from).await {
            let _hung_up = once(attack, means, number, stream).await;
        }
        // An attacker who is turned away at once tries some times a second, with each task.
        tokio::time::sleep(Duration::from_millis(match attack {
            Attack::Churn
            | Attack::Passwords
            | Attack::BadTokens
            | Attack::NulLogIns
            | Attack::WrongJson
            | Attack::LargeBodies => 1,
            Attack::IdleSockets | Attack::ForwardedFor => 60_000,
            _ => 200,
        }))
        .await;
    }
}

/// Who never reads has a small buffer here: the server's buffers are to fill up, not this machine.
async fn dial(attack: Attack, server: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if attack == Attack::NeverRead {
        socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
    }
    socket.bind((from, 0).into())?;
    socket.connect(server).await
}

async fn once(
    attack: Attack,
    means: &Means,
    number: usize,
    stream: TcpStream,
) -> std::io::Result<()> {
    match attack {
        Attack::Passwords => http::passwords(means, number, stream).await,
        Attack::SlowHeads => http::slow_head(means, stream).await,
        Attack::SlowBodies => http::slow_body(means, stream).await,
        Attack::BadTokens => http::bad_tokens(means, stream).await,
        Attack::NulLogIns => http::log_ins(means, stream, NUL_LOG_IN).await,
        Attack::WrongJson => http::log_ins(means, stream, WRONG_JSON).await,
        Attack::LargeBodies => http::log_ins(means, stream, &"x".repeat(LARGE_BODY_BYTES)).await,
        Attack::Churn => http::churn(means, number, stream).await,
        Attack::NeverRead if number.is_multiple_of(2) => http::never_read(means, stream).await,
        Attack::NeverRead => sockets::never_read(means, number, stream).await,
        Attack::IdleSockets => sockets::idle(means, number, stream, "").await,
        Attack::ForwardedFor => {
            let (high, low) = (number / 250 % 250, number % 250);
            let header = format!("x-forwarded-for: 198.18.{high}.{low}\r\n");
            sockets::idle(means, number, stream, &header).await
        }
        Attack::Pings => sockets::pings(means, number, stream).await,
        Attack::Fragments => sockets::fragments(means, number, stream).await,
        Attack::Oversized => sockets::oversized(means, number, stream).await,
    }
}

impl Means {
    fn token(&self, number: usize) -> &str {
        self.users.token(number % self.users.len())
    }

    fn count(&self) -> u64 {
        self.done.fetch_add(1, Ordering::Relaxed)
    }
}

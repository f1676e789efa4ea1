//! The limits that clients can run into, by name: each time is counted, and told in the log.

use std::sync::{Mutex, PoisonError};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use schema::ErrorCode;
use tokio::time::{Duration, Instant};

/// How often the log tells of one limit at most.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Something that there may not be more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections in all: `http.connections_max`.
    Connections,
    /// Connections from one address: `http.connections_per_address_max`.
    ConnectionsPerAddress,
    /// Requests that are being answered: `http.requests_in_flight_max`.
    RequestsInFlight,
    /// The time for a request's body: `http.body_timeout_ms`.
    BodyTimeout,
    /// The size of a request's body: `http.body_bytes_max`.
    BodyTooLarge,
    /// The time that a client may take to receive: `http.send_timeout_ms`, `sockets.send_timeout_ms`.
    SendTimeout,
    /// Sockets of one user: `sockets.per_user_max`.
    SocketsPerUser,
    /// Sockets from one address: `sockets.per_address_max`.
    SocketsPerAddress,
    /// Events that wait for one socket: `sockets.events_max`.
    SlowConsumer,
    /// The size of a message from a client: `sockets.message_bytes_max`.
    MessageTooLarge,
    /// How much one client sends over a socket: `sockets.bytes_per_minute_max`.
    SocketBytes,
    /// How often one client sends something over a socket: `sockets.messages_per_minute_max`.
    SocketMessages,
    /// Attempts to log in to one account.
    LogInsPerAccount,
    /// Attempts to log in from one address.
    LogInsPerAddress,
    /// Signups from one address.
    SignupsPerAddress,
    /// Refused requests of one address: `limits.refused_requests_per_address_per_minute`.
    RefusedRequests,
    /// Passwords that wait to be hashed: `passwords.waiting_max`.
    Passwords,
    /// Sessions that were stopped before they cost anything: `limits.unpaid_sessions_per_hour`.
    UnpaidSessions,
}

impl Limit {
    const ALL: [Self; 18] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::RequestsInFlight,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::SendTimeout,
        Self::SocketsPerUser,
        Self::SocketsPerAddress,
        Self::SlowConsumer,
        Self::MessageTooLarge,
        Self::SocketBytes,
        Self::SocketMessages,
        Self::LogInsPerAccount,
        Self::LogInsPerAddress,
        Self::SignupsPerAddress,
        Self::RefusedRequests,
        Self::Passwords,
        Self::UnpaidSessions,
    ];

    /// The limit that a failure with `code` tells of, if there is just one.
    pub const fn of(code: ErrorCode) -> Option<Self> {
        match code {
            ErrorCode::BodyTooLarge => Some(Self::BodyTooLarge),
            ErrorCode::RequestTimeout => Some(Self::BodyTimeout),
            ErrorCode::TooManyUnpaidSessions => Some(Self::UnpaidSessions),
            _ => None,
        }
    }

    /// The name in metrics and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::RequestsInFlight => "requests_in_flight",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::SendTimeout => "send_timeout",
            Self::SocketsPerUser => "sockets_per_user",
            Self::SocketsPerAddress => "sockets_per_address",
            Self::SlowConsumer => "slow_consumer",
            Self::MessageTooLarge => "message_too_large",
            Self::SocketBytes => "socket_bytes",
            Self::SocketMessages => "socket_messages",
            Self::LogInsPerAccount => "log_ins_per_account",
            Self::LogInsPerAddress => "log_ins_per_address",
            Self::SignupsPerAddress => "signups_per_address",
            Self::RefusedRequests => "refused_requests",
            Self::Passwords => "passwords",
            Self::UnpaidSessions => "unpaid_sessions",
        }
    }
}

/// Counts how often each limit was reached.
pub struct Limits {
    reached: [Reached; Limit::ALL.len()],
}

#[derive(Default)]
struct Reached {
    times: Counter,
    told: Mutex<Told>,
}

/// When the log told of it last, and how often it happened since.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    since: u64,
}

impl Limits {
    /// The counters, all at zero.
    pub fn new(registry: &mut Registry) -> Self {
        let family =
            prometheus_client::metrics::family::Family::<[(&str, &str); 1], Counter>::default();
        registry.register(
            "limited",
            "How often a limit was reached and somebody was refused, by limit",
            family.clone(),
        );
        Self {
            reached: Limit::ALL.map(|limit| Reached {
                times: family.get_or_create_owned(&[("limit", limit.name())]),
                told: Mutex::default(),
            }),
        }
    }

    /// Somebody ran into `limit`.
    pub fn hit(&self, limit: Limit) {
        let Some(reached) = self.reached.get(limit as usize) else {
            return;
        };
        reached.times.inc();
        let times = {
            let mut told = reached.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.since += 1;
            if told.at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
                return;
            }
            told.at = Some(Instant::now());
            std::mem::take(&mut told.since)
        };
        tracing::warn!(limit = limit.name(), times, "a limit was reached");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_counter_of_its_own() {
        let mut registry = Registry::default();
        let limits = Limits::new(&mut registry);
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            for _ in 0..=number {
                limits.hit(limit);
            }
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            let line = format!(
                "limited_total{{limit=\"{}\"}} {}\n",
                limit.name(),
                number + 1
            );
            assert!(text.contains(&line), "{line} is missing in {text}");
        }
    }
}

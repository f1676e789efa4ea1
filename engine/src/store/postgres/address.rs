//! The address of a Postgres, in every form of URI that libpq takes.
//!
//! `postgres://[USER[:PASSWORD]@][HOST[:PORT][,…]][/NAME][?PARAMETER=VALUE[&…]]`, see
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>. sqlx's own parser
//! knows one host only, no IPv6 address and no percent sign in it, and passes over what it doesn't know.
//! Here a parameter works, or is refused by its name. No message holds a value: it could be a part of a
//! password.

use std::{fmt::Write as _, str::FromStr as _, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::PgConnectOptions;

/// Why an address can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

/// Which servers will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Wanted {
    /// Those that take writes.
    Writable,
    /// Any.
    Any,
}

/// One of the servers of an address.
#[derive(Clone, Debug)]
pub(in super::super) struct Host {
    /// Where it is, for people.
    pub(in super::super) name: String,
    /// How to connect to it.
    pub(in super::super) options: PgConnectOptions,
}

/// The address of a Postgres.
#[derive(Clone, Debug)]
pub struct PostgresAddress {
    hosts: Vec<Host>,
    wanted: Wanted,
    connect_timeout: Option<Duration>,
    database: Option<String>,
}

/// What a URI says, before defaults.
#[derive(Default)]
struct Parts {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<String>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    wanted: Option<Wanted>,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
    fallback_application_name: Option<String>,
    /// What sqlx takes as it is.
    options: Vec<(&'static str, String)>,
    is_system_trusted: bool,
}

const PORT_MEANING: &str = "a port must be a number from 1 to 65535 (in a password, the characters / ? # @ : and % \
                            are written as %2F %3F %23 %40 %3A and %25)";

impl PostgresAddress {
    /// Reads an address. White space around it doesn't count.
    pub fn parse(uri: &str) -> Result<Self, InvalidAddress> {
        let uri = uri.trim();
        let rest = uri
            .strip_prefix("postgres://")
            .or_else(|| uri.strip_prefix("postgresql://"))
            .ok_or_else(|| wrong("it must begin with postgres://"))?;
        // The path begins at the first slash, unless parameters begin before it.
        let (place, parameters) = match (rest.find('?'), rest.find('@')) {
            // A question mark in a password, before the host.
            (Some(mark), Some(at)) if mark < at && !rest[..at].contains('/') => {
                match rest[at..].find('?') {
                    Some(next) => (&rest[..at + next], &rest[at + next + 1..]),
                    None => (rest, ""),
                }
            }
            (Some(mark), _) => (&rest[..mark], &rest[mark + 1..]),
            (None, _) => (rest, ""),
        };
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let mut parts = Parts::default();
        parts.read_authority(authority)?;
        if !path.is_empty() {
            parts.database = Some(decoded(path, "the name of the database")?);
        }
        for parameter in parameters.split('&').filter(|one| !one.is_empty()) {
            let (name, value) = parameter
                .split_once('=')
                .ok_or_else(|| wrong("a parameter after the ? has no ="))?;
            let name = decoded(name, "the name of a parameter")?;
            let value = decoded(value, &format!("the parameter {}", shown(&name)))?;
            parts.read_parameter(&name, value)?;
        }
        parts.into_address()
    }

    /// The servers, in the order in which they are tried.
    pub(in super::super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Which of them will do.
    pub(in super::super) const fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// How long to wait for one of them, if the address says so.
    pub(in super::super) const fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// The servers and the database, without user and password.
    pub fn describe(&self) -> String {
        let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        let mut text = names.join(",");
        if let Some(database) = &self.database {
            let _infallible = write!(text, "/{database}");
        }
        text
    }
}

impl Parts {
    /// Reads `USER:PASSWORD@HOST:PORT,…`.
    fn read_authority(&mut self, authority: &str) -> Result<(), InvalidAddress> {
        let hosts = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => {
                let (user, password) = match credentials.split_once(':') {
                    Some((user, password)) => (user, Some(password)),
                    None => (credentials, None),
                };
                self.user = some(decoded(user, "the user's name")?);
                self.password = match password {
                    Some(password) => some(decoded(password, "the password")?),
                    None => None,
                };
                hosts
            }
            None => authority,
        };
        if hosts.is_empty() {
            return Ok(());
        }
        for host in hosts.split(',') {
            let (host, port) = split_host(host)?;
            self.hosts.push(decoded(host, "a host")?);
            self.ports.push(decoded(port, "a port")?);
        }
        Ok(())
    }

    fn read_parameter(&mut self, name: &str, value: String) -> Result<(), InvalidAddress> {
        let list = |value: &str| value.split(',').map(ToOwned::to_owned).collect();
        match name {
            "host" => self.hosts = list(&value),
            "hostaddr" => self.addresses = list(&value),
            "port" => self.ports = list(&value),
            "dbname" => self.database = some(value),
            "user" => self.user = some(value),
            "password" => self.password = some(value),
            "application_name" => self.application_name = some(value),
            "fallback_application_name" => self.fallback_application_name = some(value),
            "connect_timeout" => {
                let seconds: i64 = value
                    .trim()
                    .parse()
                    .map_err(|_| wrong("connect_timeout must be a whole number of seconds"))?;
                // Zero and less say that there is none; then ours holds.
                self.connect_timeout = u64::try_from(seconds)
                    .ok()
                    .filter(|seconds| *seconds > 0)
                    .map(Duration::from_secs);
            }
            "target_session_attrs" => {
                self.wanted = Some(match value.as_str() {
                    "any" => Wanted::Any,
                    "read-write" | "primary" => Wanted::Writable,
                    _ => {
                        return Err(wrong(
                            "target_session_attrs must be read-write, primary or any: this program writes",
                        ));
                    }
                });
            }
            "ssl" if value == "true" => self.options.push(("sslmode", "require".to_owned())),
            "sslmode" | "ssl-mode" => {
                const MODES: [&str; 6] = [
                    "disable",
                    "allow",
                    "prefer",
                    "require",
                    "verify-ca",
                    "verify-full",
                ];
                if !MODES.contains(&value.as_str()) {
                    return Err(wrong(format!(
                        "sslmode must be one of {}",
                        MODES.join(", ")
                    )));
                }
                self.options.push(("sslmode", value));
            }
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => {
                if value == "system" {
                    self.is_system_trusted = true;
                } else {
                    self.options.push(("sslrootcert", value));
                }
            }
            "sslcert" | "ssl-cert" => self.options.push(("sslcert", value)),
            "sslkey" | "ssl-key" => self.options.push(("sslkey", value)),
            "options" => self.options.push(("options", value)),
            "statement-cache-capacity" => {
                if value.parse::<usize>().is_err() {
                    return Err(wrong("statement-cache-capacity must be a whole number"));
                }
                self.options.push(("statement-cache-capacity", value));
            }
            _ => return check_without_effect(name, &value),
        }
        Ok(())
    }

    fn into_address(mut self) -> Result<PostgresAddress, InvalidAddress> {
        let verifies = |parts: &Self| {
            let mode = parts
                .options
                .iter()
                .rev()
                .find(|(name, _)| *name == "sslmode");
            mode.is_some_and(|(_, mode)| mode == "verify-full")
        };
        if self.is_system_trusted && !self.options.iter().any(|(name, _)| *name == "sslmode") {
            self.options.push(("sslmode", "verify-full".to_owned()));
        }
        if !self.addresses.is_empty() {
            if !self.hosts.is_empty() && self.hosts.len() != self.addresses.len() {
                return Err(wrong(
                    "host and hostaddr must name the same number of servers",
                ));
            }
            if verifies(&self) && !self.hosts.is_empty() {
                return Err(wrong(
                    "hostaddr can't be used with sslmode=verify-full: the certificate is for the host's name",
                ));
            }
            self.hosts = std::mem::take(&mut self.addresses);
        }
        if self.hosts.is_empty() {
            self.hosts.push(String::new());
        }
        if self.ports.len() == 1 {
            self.ports = vec![self.ports[0].clone(); self.hosts.len()];
        }
        if !self.ports.is_empty() && self.ports.len() != self.hosts.len() {
            return Err(wrong(
                "there must be one port for all hosts, or one for each",
            ));
        }
        let mut hosts = Vec::with_capacity(self.hosts.len());
        for (place, host) in self.hosts.iter().enumerate() {
            hosts.push(self.host(host, self.ports.get(place).map_or("", String::as_str))?);
        }
        let wanted = self.wanted.unwrap_or(if hosts.len() > 1 {
            Wanted::Writable
        } else {
            Wanted::Any
        });
        Ok(PostgresAddress {
            hosts,
            wanted,
            connect_timeout: self.connect_timeout,
            database: self.database,
        })
    }

    /// How to connect to one host: as an address of a form that sqlx takes, so that it reads the
    /// environment and `~/.pgpass` for what is not said.
    fn host(&self, host: &str, port: &str) -> Result<Host, InvalidAddress> {
        if host.starts_with('@') {
            return Err(wrong("host: abstract sockets (@…) can't be used"));
        }
        let port = match port {
            "" => None,
            digits => Some(
                digits
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| wrong(PORT_MEANING))?,
            ),
        };
        let mut uri = "postgres:///?".to_owned();
        let mut put = |name: &str, value: &str| {
            let _infallible = write!(
                uri,
                "{name}={}&",
                utf8_percent_encode(value, NON_ALPHANUMERIC)
            );
        };
        if !host.is_empty() {
            put("host", host);
        }
        if let Some(port) = port {
            put("port", &port.to_string());
        }
        for (name, value) in [
            ("user", &self.user),
            ("password", &self.password),
            ("dbname", &self.database),
        ] {
            if let Some(value) = value {
                put(name, value);
            }
        }
        for (name, value) in &self.options {
            put(name, value);
        }
        // Its words may hold a value, and so are left out.
        let mut options =
            PgConnectOptions::from_str(&uri).map_err(|_| wrong("it can't be read"))?;
        let name = self.application_name.as_deref();
        if let Some(name) = name.or(self.fallback_application_name.as_deref()) {
            options = options.application_name(name);
        } else if options.get_application_name().is_none() {
            options = options.application_name("minute-credit");
        }
        let place = options.get_socket().map_or_else(
            || options.get_host().to_owned(),
            |socket| socket.display().to_string(),
        );
        let name = if place.contains(':') {
            format!("[{place}]:{}", options.get_port())
        } else {
            format!("{place}:{}", options.get_port())
        };
        Ok(Host { name, options })
    }
}

/// Takes a parameter of libpq's whose value asks for what is done anyway, and refuses all others.
fn check_without_effect(name: &str, value: &str) -> Result<(), InvalidAddress> {
    let done_anyway: &[&str] = match name {
        "channel_binding" | "gssencmode" => &["disable", "prefer"],
        "client_encoding" => &["UTF8", "utf8", "UTF-8", "utf-8", "auto"],
        "load_balance_hosts" => &["disable"],
        "sslnegotiation" => &["postgres"],
        "sslcompression" | "requiressl" | "gssdelegation" => &["0"],
        "sslsni" | "keepalives" => &["1"],
        "sslcertmode" => &["allow"],
        "ssl_min_protocol_version" => &["TLSv1", "TLSv1.1", "TLSv1.2"],
        "replication" => &["false", "off", "no", "0"],
        "hostaddr"
        | "keepalives_idle"
        | "keepalives_interval"
        | "keepalives_count"
        | "tcp_user_timeout"
        | "passfile"
        | "require_auth"
        | "sslpassword"
        | "sslcrl"
        | "sslcrldir"
        | "ssl_max_protocol_version"
        | "requirepeer"
        | "krbsrvname"
        | "gsslib"
        | "service"
        | "servicefile" => &[],
        _ => {
            return Err(wrong(format!("there is no parameter {}", shown(name))));
        }
    };
    if done_anyway.contains(&value) {
        return Ok(());
    }
    Err(wrong(if done_anyway.is_empty() {
        format!("the parameter {name} can't be used with this program")
    } else {
        let values = done_anyway.join(" or ");
        format!("the parameter {name} can only be {values} with this program")
    }))
}

/// The host and the port of `HOST:PORT`, `[IPV6]:PORT` or one of them.
fn split_host(text: &str) -> Result<(&str, &str), InvalidAddress> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| wrong("an IPv6 address lacks its ]"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(wrong("what stands in [ ] must be an IPv6 address"));
        }
        return match (rest, rest.strip_prefix(':')) {
            ("", _) => Ok((host, "")),
            (_, Some(port)) => Ok((host, port)),
            _ => Err(wrong(
                "after the ] of an IPv6 address comes a port or nothing",
            )),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(wrong(format!(
            "an IPv6 address must stand in [ ], and {PORT_MEANING}"
        ))),
        Some((host, port)) => Ok((host, port)),
        None => Ok((text, "")),
    }
}

/// `text` with its percent-encoded bytes decoded.
fn decoded(text: &str, what: &str) -> Result<String, InvalidAddress> {
    let bad = || {
        wrong(format!(
            "{what} has a % that is not followed by two hexadecimal digits; write it as %25"
        ))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push(high * 16 + low);
    }
    if bytes.contains(&0) {
        return Err(wrong(format!("{what} has a %00, which can't be")));
    }
    String::from_utf8(bytes).map_err(|_| wrong(format!("{what} is not UTF-8")))
}

/// The name of a parameter, if it can be one: what stands there may be a part of a password.
fn shown(name: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '[' | ']' | '.');
    if !name.is_empty() && name.len() <= 40 && name.chars().all(is_name) {
        format!("{name:?}")
    } else {
        "of that name".to_owned()
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn wrong(message: impl Into<String>) -> InvalidAddress {
    InvalidAddress(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an address leads to: hosts, user, database, mode of TLS, and the rest that was said.
    fn told(address: &PostgresAddress) -> String {
        let mut lines = Vec::new();
        for host in address.hosts() {
            let options = &host.options;
            lines.push(format!(
                "{} {} {} {:?} {}{}",
                host.name,
                options.get_username(),
                options.get_database().unwrap_or("-"),
                options.get_ssl_mode(),
                options.get_application_name().unwrap_or("-"),
                options
                    .get_options()
                    .map_or_else(String::new, |options| format!(" {options}")),
            ));
        }
        lines.push(format!("{:?}", address.wanted()));
        lines.extend(
            address
                .connect_timeout()
                .map(|timeout| format!("{timeout:?}")),
        );
        lines.join("; ")
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    fn every_form_of_libpq_is_read() {
        let check = |uri: &str, expected: &str| {
            let address =
                PostgresAddress::parse(uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
            assert_eq!(told(&address), expected, "{uri}");
        };
        check(
            "postgres://me:pw@db.example:6543/credit",
            "db.example:6543 me credit Prefer minute-credit; Any",
        );
        check(
            " \tpostgresql://me@db/credit\n",
            "db:5432 me credit Prefer minute-credit; Any",
        );
        check("postgres://me@db", "db:5432 me - Prefer minute-credit; Any");
        check(
            "postgres://me@db/",
            "db:5432 me - Prefer minute-credit; Any",
        );
        check(
            "postgres://me@db:/x",
            "db:5432 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@[::1]/x",
            "[::1]:5432 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@[2001:db8::1]:5433/x",
            "[2001:db8::1]:5433 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@/x?host=/var/run/postgresql",
            "/var/run/postgresql:5432 me x Prefer minute-credit; Any",
        );
        check(
            "postgres:///x?host=/run/pg&user=me&port=5433",
            "/run/pg:5433 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@%2Fvar%2Frun%2Fpostgresql/x",
            "/var/run/postgresql:5432 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://%6De:p%40s%2Fw@db/a%20b",
            "db:5432 me a b Prefer minute-credit; Any",
        );
        check(
            "postgres://me:p@ss@db/x",
            "db:5432 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://me:p?ss#w@db/x?sslmode=require",
            "db:5432 me x Require minute-credit; Any",
        );
        check(
            "postgres://me@ignored/ignored?host=db&dbname=x&user=you",
            "db:5432 you x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@ignored/x?hostaddr=10.0.0.1",
            "10.0.0.1:5432 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@db/x?user=a+b",
            "db:5432 a+b x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@db/x?application_name=mine&options=-c%20geqo%3Doff&connect_timeout=7&sslmode=verify-full",
            "db:5432 me x VerifyFull mine -c geqo=off; Any; 7s",
        );
        check(
            "postgres://me@db/x?fallback_application_name=mine",
            "db:5432 me x Prefer mine; Any",
        );
        check(
            "postgres://me@db/x?connect_timeout=0",
            "db:5432 me x Prefer minute-credit; Any",
        );
        check(
            "postgres://me@db/x?ssl=true&gssencmode=disable&channel_binding=prefer&client_encoding=UTF8",
            "db:5432 me x Require minute-credit; Any",
        );
        check(
            "postgres://me@db/x?sslrootcert=system",
            "db:5432 me x VerifyFull minute-credit; Any",
        );
        check(
            "postgres://me@db/x?target_session_attrs=read-write",
            "db:5432 me x Prefer minute-credit; Writable",
        );
        check(
            "postgres://me@db/x?target_session_attrs=primary",
            "db:5432 me x Prefer minute-credit; Writable",
        );
        check(
            "postgres://me@a,b:5433,[::1]/x",
            "a:5432 me x Prefer minute-credit; b:5433 me x Prefer minute-credit; \
             [::1]:5432 me x Prefer minute-credit; Writable",
        );
        check(
            "postgres://me@/x?host=a,/run/b&port=5433",
            "a:5433 me x Prefer minute-credit; /run/b:5433 me x Prefer minute-credit; Writable",
        );
        check(
            "postgres://me@a,b/x?target_session_attrs=any",
            "a:5432 me x Prefer minute-credit; b:5432 me x Prefer minute-credit; Any",
        );
    }

    #[test]
    fn what_can_not_be_used_is_named_and_no_password_is() {
        let check = |uri: &str, expected: &str| {
            let error = PostgresAddress::parse(uri).unwrap_err().to_string();
            assert!(error.contains(expected), "{uri}: {error}");
            assert!(!error.contains("secret"), "{uri}: {error}");
        };
        check("mysql://me:secret@db/x", "postgres://");
        check("postgres://me:secret@db:65536/x", "port");
        check("postgres://me:secret@db:0/x", "port");
        check("postgres://me:secret/of@db/x", "%2F");
        check("postgres://me:100%secret@db/x", "%25");
        check("postgres://me:secret%00@db/x", "%00");
        check("postgres://me:secret%FF@db/x", "UTF-8");
        check("postgres://me:secret@::1/x", "[ ]");
        check("postgres://me:secret@[::1/x", "]");
        check("postgres://me:secret@[db]/x", "IPv6");
        check("postgres://me:secret@[::1]5432/x", "]");
        check(
            "postgres://me:secret@a,b,c/x?port=1,2",
            "one port for all hosts",
        );
        check("postgres://me@db/x?password=secret&sslmode", "no =");
        check("postgres://me:secret@db/x?sslmode=secret", "sslmode");
        check(
            "postgres://me:secret@db/x?connect_timeout=secret",
            "connect_timeout",
        );
        check(
            "postgres://me:secret@db/x?target_session_attrs=standby",
            "target_session_attrs",
        );
        check(
            "postgres://me:secret@db/x?target_session_attrs=prefer-standby",
            "target_session_attrs",
        );
        check(
            "postgres://me:secret@db/x?target_session_attrs=read-only",
            "target_session_attrs",
        );
        check("postgres://me:secret@db/x?colour=secret", "\"colour\"");
        check(
            "postgres://me:secret@db/x?statement-cache-capacity=secret",
            "statement-cache-capacity",
        );
        check(
            "postgres://me:secret@a/x?hostaddr=10.0.0.1&sslmode=verify-full",
            "hostaddr",
        );
        check(
            "postgres://me:secret@a/x?hostaddr=10.0.0.1,10.0.0.2",
            "hostaddr",
        );
        check("postgres://me:secret@/x?host=@abstract", "host");
        for name in [
            "channel_binding",
            "gssencmode",
            "client_encoding",
            "load_balance_hosts",
            "sslnegotiation",
            "sslcompression",
            "requiressl",
            "gssdelegation",
            "sslsni",
            "keepalives",
            "keepalives_idle",
            "keepalives_interval",
            "keepalives_count",
            "tcp_user_timeout",
            "passfile",
            "require_auth",
            "sslpassword",
            "sslcrl",
            "sslcrldir",
            "ssl_min_protocol_version",
            "ssl_max_protocol_version",
            "requirepeer",
            "krbsrvname",
            "gsslib",
            "service",
            "servicefile",
            "replication",
            "sslcertmode",
        ] {
            check(&format!("postgres://me:secret@db/x?{name}=secret"), name);
        }
    }

    #[test]
    fn an_address_is_described_without_user_and_password() {
        let check = |uri: &str, expected: &str| {
            assert_eq!(
                PostgresAddress::parse(uri).unwrap().describe(),
                expected,
                "{uri}"
            );
        };
        check(
            "postgres://me:secret@a:5433,b/credit?sslmode=require",
            "a:5433,b:5432/credit",
        );
        check(
            "postgres://me:se@cret@[::1]/credit?options=-c%20a=b@c&password=secret",
            "[::1]:5432/credit",
        );
    }
}

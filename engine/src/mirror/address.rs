//! The address of a Redis, `REDIS_URL`: which forms there are, what is wrong with another, and what of it
//! people may see.
//!
//! The library takes whatever it is given, and leaves out silently what it doesn't know: TLS for one. So
//! an address is read here, and whatever can't be kept is refused. No message repeats any part of an
//! address that might be a password.

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr, sync::Arc};

use fred::{
    prelude::Config,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
    rustls_native_certs::load_native_certs,
    types::config::{ServerConfig, TlsConfig, TlsConnector},
};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// The port of a Redis if none is given.
const PORT: u16 = 6379;

/// The address of a Redis. It may hold a password, so it has no `Debug` that tells all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    place: Place,
    /// The user, if it is not the default one.
    username: Option<String>,
    password: Option<String>,
    database: Option<u8>,
}

/// Where a Redis listens.
#[derive(Clone, PartialEq, Eq)]
enum Place {
    Tcp { host: String, port: u16, tls: Tls },
    Socket(PathBuf),
}

/// Whether what is said to a Redis is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// It is, and the server's certificate is checked.
    Required,
    /// It is not.
    None,
}

/// Why a text is not an address that the mirror can use. The messages go on after "redis.url".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisUrl {
    /// There is no scheme.
    #[error("must be redis://HOST:PORT, rediss://HOST:PORT for TLS, or redis+unix:///PATH")]
    NoScheme,
    /// There is a scheme of something else.
    #[error(
        "begins with {0}://, which the mirror does not know: it must be redis://, rediss:// for TLS, or redis+unix://"
    )]
    Scheme(String),
    /// It can't be taken apart.
    #[error("can't be read ({0}); signs such as / # ? @ : % in a password must be percent-encoded")]
    Malformed(String),
    /// There is a query, which nobody would heed.
    #[error("must have no query (what comes after the ?)")]
    Query,
    /// There is a database that no Redis has.
    #[error("must end with the number of a database from 0 to 255, as in redis://HOST:PORT/0")]
    Database,
    /// There is a user without a password.
    #[error(
        "names a user and no password: it must be redis://USER:PASSWORD@HOST, or redis://:PASSWORD@HOST"
    )]
    NoPassword,
    /// A socket has no path.
    #[error("must name the path of a socket, as in redis+unix:///run/redis/redis.sock")]
    NoPath,
}

/// Why no TLS is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTls {
    /// Nobody is trusted.
    #[error(
        "the system has no certificates to trust: install ca-certificates, or name a file by SSL_CERT_FILE"
    )]
    NoRoots,
    /// The library refused.
    #[error("TLS can't be set up: {0}")]
    Refused(String),
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        use InvalidRedisUrl as E;
        let (scheme, _) = text.split_once("://").ok_or(E::NoScheme)?;
        let tls = match scheme {
            "redis" | "valkey" => Some(Tls::None),
            "rediss" | "valkeys" => Some(Tls::Required),
            "redis+unix" | "valkey+unix" | "unix" => None,
            other => return Err(E::Scheme(other.to_owned())),
        };
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(E::Malformed("it has white space".to_owned()));
        }
        let url = Url::parse(text).map_err(|error| E::Malformed(error.to_string()))?;
        if url.fragment().is_some() {
            return Err(E::Malformed("it has a #".to_owned()));
        }
        let username = Some(decoded(url.username())?).filter(|name| !name.is_empty());
        let password = decoded(url.password().unwrap_or_default())?;
        let password = Some(password).filter(|password| !password.is_empty());
        if username.is_some() && password.is_none() {
            return Err(E::NoPassword);
        }
        let (place, database) = match tls {
            Some(tls) => tcp(&url, tls)?,
            None => socket(&url)?,
        };
        Ok(Self {
            place,
            username,
            password,
            database,
        })
    }
}

impl RedisUrl {
    /// What the library needs to know.
    pub(crate) fn config(&self) -> Result<Config, NoTls> {
        let (server, tls) = match &self.place {
            Place::Tcp { host, port, tls } => {
                let tls = match tls {
                    Tls::Required => Some(TlsConfig::from(connector()?)),
                    Tls::None => None,
                };
                (ServerConfig::new_centralized(host.clone(), *port), tls)
            }
            Place::Socket(path) => (ServerConfig::new_unix_socket(path.clone()), None),
        };
        Ok(Config {
            server,
            username: self.username.clone(),
            password: self.password.clone(),
            database: self.database,
            tls,
            // A command that can't be sent at once fails, instead of waiting in memory.
            fail_fast: true,
            ..Config::default()
        })
    }
}

/// The place, without user and password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { host, port, tls } => {
                let scheme = match tls {
                    Tls::Required => "rediss",
                    Tls::None => "redis",
                };
                if host.contains(':') {
                    write!(out, "{scheme}://[{host}]:{port}")?;
                } else {
                    write!(out, "{scheme}://{host}:{port}")?;
                }
            }
            Place::Socket(path) => write!(out, "redis+unix://{}", path.display())?,
        }
        match (self.database, &self.place) {
            (Some(database), Place::Tcp { .. }) => write!(out, "/{database}"),
            (Some(database), Place::Socket(_)) => write!(out, "?db={database}"),
            (None, _) => Ok(()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

fn tcp(url: &Url, tls: Tls) -> Result<(Place, Option<u8>), InvalidRedisUrl> {
    use InvalidRedisUrl as E;
    if url.query().is_some() {
        return Err(E::Query);
    }
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => decoded(name)?,
        Some(Host::Ipv4(ip)) => ip.to_string(),
        // Without the brackets, which belong to the address and not to the host.
        Some(Host::Ipv6(ip)) => ip.to_string(),
        _ => return Err(E::Malformed("it has no host".to_owned())),
    };
    let database = match url.path().strip_prefix('/').unwrap_or_default() {
        "" => None,
        number => Some(database(number)?),
    };
    let port = url.port().unwrap_or(PORT);
    Ok((Place::Tcp { host, port, tls }, database))
}

/// A socket's address has its database in the query, `?db=2`, since the path is the socket's.
fn socket(url: &Url) -> Result<(Place, Option<u8>), InvalidRedisUrl> {
    use InvalidRedisUrl as E;
    if url
        .host_str()
        .is_some_and(|host| !host.is_empty() && host != "localhost")
    {
        return Err(E::NoPath);
    }
    let path = decoded(url.path())?;
    if path.trim_matches('/').is_empty() {
        return Err(E::NoPath);
    }
    let database = match url.query() {
        None => None,
        Some(query) => {
            let number = query.strip_prefix("db=").ok_or(E::Query)?;
            Some(database(number)?)
        }
    };
    Ok((Place::Socket(PathBuf::from(path)), database))
}

fn database(number: &str) -> Result<u8, InvalidRedisUrl> {
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| is_number);
    number.ok_or(InvalidRedisUrl::Database)
}

/// `text` without its percent signs.
fn decoded(text: &str) -> Result<String, InvalidRedisUrl> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| InvalidRedisUrl::Malformed("it is not UTF-8".to_owned()))
}

/// TLS as to Postgres: by rustls with ring, trusting whom the system trusts.
fn connector() -> Result<TlsConnector, NoTls> {
    let mut roots = RootCertStore::empty();
    // One certificate that can't be read is no reason to distrust the others.
    roots.add_parsable_certificates(load_native_certs().certs);
    if roots.is_empty() {
        return Err(NoTls::NoRoots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| NoTls::Refused(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of an address: its place, user, password and database, or what is wrong.
    fn read(text: &str) -> Result<(String, Option<String>, Option<String>), InvalidRedisUrl> {
        let url: RedisUrl = text.parse()?;
        Ok((url.to_string(), url.username, url.password))
    }

    #[test]
    fn addresses_are_read_whole() {
        let check = |text: &str, place: &str, username: &str, password: &str| {
            let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let expected = (place.to_owned(), given(username), given(password));
            assert_eq!(read(text), Ok(expected), "{text}");
        };
        check("redis://cache", "redis://cache:6379", "", "");
        check("redis://cache/", "redis://cache:6379", "", "");
        check("redis://cache:7000/15", "redis://cache:7000/15", "", "");
        check("valkey://cache", "redis://cache:6379", "", "");
        check("rediss://cache", "rediss://cache:6379", "", "");
        check("valkeys://cache", "rediss://cache:6379", "", "");
        check("redis://10.0.0.1", "redis://10.0.0.1:6379", "", "");
        check("rediss://[::1]:7000/2", "rediss://[::1]:7000/2", "", "");
        check("redis://:secret@c", "redis://c:6379", "", "secret");
        check("redis://me:secret@c", "redis://c:6379", "me", "secret");
        check(
            "redis://me:%2F%23%3f%40%3A%25%20%C3%A9@c",
            "redis://c:6379",
            "me",
            "/#?@:% é",
        );
        check(
            "redis://me:a!$&'()*+,;=b@c",
            "redis://c:6379",
            "me",
            "a!$&'()*+,;=b",
        );
        check(
            "redis+unix:///run/r.sock",
            "redis+unix:///run/r.sock",
            "",
            "",
        );
        check(
            "unix:///run/r.sock?db=3",
            "redis+unix:///run/r.sock?db=3",
            "",
            "",
        );
        check(
            "redis+unix://:secret@localhost/run/r.sock",
            "redis+unix:///run/r.sock",
            "",
            "secret",
        );
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_no_password_is_told() {
        let check = |text: &str, expected: &str| {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("s3cr"), "{error}");
        };
        check("", "must be redis://HOST:PORT");
        check("cache:6379", "must be redis://HOST:PORT");
        check("http://cache", "begins with http://");
        check(
            "redis-sentinel://c/?sentinelServiceName=x",
            "begins with redis-sentinel://",
        );
        check(
            "rediss-cluster://:s3cr3t@c",
            "begins with rediss-cluster://",
        );
        check("redis+ssl://:s3cr3t@c", "begins with redis+ssl://");
        check("REDIS://cache", "begins with REDIS://");
        check("redis://", "has no host");
        check("redis://:s3cr3t@", "can't be read");
        check("redis://:s3cr/et@cache", "percent-encoded");
        check("redis://:s3cr#et@cache", "percent-encoded");
        check("redis://me#s3cr:et@cache", "percent-encoded");
        check("redis://:1?s3cr@cache", "percent-encoded");
        check("redis://:%ff@cache", "UTF-8");
        check("redis://s3cr3t@cache", "no password");
        check("redis://cache:65536", "can't be read");
        check("redis://ca che", "white space");
        check("redis://cache\n:6379", "white space");
        check("redis://cache/one", "from 0 to 255");
        check("redis://cache/256", "from 0 to 255");
        check("redis://cache/-1", "from 0 to 255");
        check("redis://cache/+1", "from 0 to 255");
        check("redis://cache/0/1", "from 0 to 255");
        check("redis://cache?db=1", "no query");
        check("rediss://cache?ssl_cert_reqs=none", "no query");
        check("redis+unix://", "path of a socket");
        check("redis+unix://elsewhere/run/r.sock", "path of a socket");
        check("redis+unix:///run/r.sock?password=s3cr3t", "no query");
    }

    #[test]
    fn tls_is_there_if_it_is_asked_for() {
        let config = |text: &str| text.parse::<RedisUrl>().unwrap().config().unwrap();
        assert!(config("rediss://cache").tls.is_some());
        assert!(config("redis://cache").tls.is_none());
        assert!(config("redis://cache").fail_fast);
    }
}

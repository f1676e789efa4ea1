//! Settings: [`DEFAULTS`], then a file, then the environment, checked into types.
//!
//! Whatever is wrong is one error that names the key, what it must be, and who says otherwise.

mod layers;
mod reader;

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use billing::{ChargedAt, Tariff};
use engine::{
    EngineSettings, InvalidRedisUrl,
    facts::{NodeName, ResumePolicy},
    lanes::Lanes,
    retention::RetentionSettings,
    store::{StoreLocation, StoreSettings},
};
use hyper::Uri;
use ipnet::IpNet;
use schema::{Credits, MAX_SAFE_INTEGER, Millis};

use crate::{key_ring::KeyRing, log_ins::LogInSettings, origins::Origin};
pub use layers::DEFAULTS;
use reader::Reader;

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The settings file can't be read.
    #[error("can't read the settings file {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A source is not TOML.
    #[error("{origin} is not TOML: {problem}")]
    Malformed {
        /// Who says so.
        origin: String,
        /// Where and what.
        problem: String,
    },
    /// There is no such setting.
    #[error("there is no setting {key} (from {origin}): {nearest}")]
    Unknown {
        /// The key as written.
        key: String,
        /// Who says so.
        origin: String,
        /// What was perhaps meant.
        nearest: String,
    },
    /// A variable of ours is not a text.
    #[error("the environment variable {variable} is not UTF-8")]
    NotText {
        /// Its name.
        variable: String,
    },
    /// A setting has a value that it can't have.
    #[error("{key} {problem} (from {origin})")]
    Wrong {
        /// The key.
        key: &'static str,
        /// What it must be, and what it is.
        problem: String,
        /// Who says so.
        origin: String,
    },
}

/// The data folder can't be made.
#[derive(Debug, thiserror::Error)]
#[error("can't make the folder {path} (DATA_DIR can name another place)")]
pub struct DataDirError {
    /// The folder.
    path: PathBuf,
    /// What went wrong.
    #[source]
    source: std::io::Error,
}

/// All settings, checked.
pub struct Settings {
    /// The HTTP server.
    pub http: HttpSettings,
    /// The websockets.
    pub sockets: SocketSettings,
    /// Who may see the metrics.
    pub metrics_networks: Vec<IpNet>,
    /// The tokens.
    pub tokens: TokenSettings,
    /// The hashing of passwords.
    pub passwords: PasswordSettings,
    /// How many wrong passwords there may be.
    pub log_ins: LogInSettings,
    /// How many may sign up from one address in an hour; 0 for any number.
    pub signups_per_address_per_hour: u32,
    /// How many requests of one address may be refused in a minute before their answers are held back;
    /// 0 for any number.
    pub refused_requests_per_address_per_minute: u32,
    /// The credits that come with signing up.
    pub signup_credits: Credits,
    /// The database.
    pub store: StoreSettings,
    /// The engine.
    pub engine: EngineSettings,
    /// The log.
    pub log: LogSettings,
    /// The traces.
    pub telemetry: TelemetrySettings,
    /// The folder of the embedded database and of the token key, if one of them is to be in it.
    pub data_dir: Option<PathBuf>,
}

/// What the command line itself says of settings. It wins over every other source.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to listen, in place of `http.host`.
    pub host: Option<String>,
    /// The port to listen on, in place of `http.port`.
    pub port: Option<String>,
}

/// How the HTTP server listens and what it bears.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Where to listen.
    pub address: SocketAddr,
    /// The origin of the page, where proxies don't tell it.
    pub public_origin: Option<Origin>,
    /// The origins besides our own whose pages may come.
    pub allowed_origins: Vec<Origin>,
    /// The proxies that are believed who the client is.
    pub trusted_proxies: Vec<IpNet>,
    /// How many connections may be open at once.
    pub connections_max: usize,
    /// How many of them one client may have; 0 for any number.
    pub connections_per_address_max: usize,
    /// How many requests may be answered at once.
    pub requests_in_flight_max: usize,
    /// The largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long a request's head may take.
    pub header_timeout: Duration,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub send_timeout: Duration,
    /// How long browsers are told to come by TLS only, if they came by TLS; zero: they are told nothing.
    pub hsts: Duration,
    /// How long to serve on, unready, before the end begins.
    pub drain_delay: Duration,
    /// How long the end may take.
    pub drain_timeout: Duration,
}

/// What websockets may do.
#[derive(Clone, Copy, Debug)]
pub struct SocketSettings {
    /// How many one user may have.
    pub per_user_max: usize,
    /// How many one client may have; 0 for any number.
    pub per_address_max: usize,
    /// How many events of a user are kept for who comes back.
    pub replay_events_max: usize,
    /// How long they are kept.
    pub replay_for: Duration,
    /// How many bytes a client may send in a minute.
    pub bytes_per_minute_max: usize,
    /// How many messages a client may send in a minute, pings and pongs included.
    pub messages_per_minute_max: usize,
    /// How many events may wait for a slow one.
    pub events_max: usize,
    /// How long sending one message may take.
    pub send_timeout: Duration,
    /// How often a ping is sent.
    pub ping_every: Duration,
    /// The largest message from a client, in bytes.
    pub message_bytes_max: usize,
}

/// How tokens are made.
#[derive(Clone)]
pub struct TokenSettings {
    /// How long one is valid.
    pub lifetime: Millis,
    /// Where the keys are.
    pub key: KeySource,
}

/// Where the keys of the tokens are.
#[derive(Clone)]
pub enum KeySource {
    /// In this file, which is made if absent.
    File(PathBuf),
    /// These are they.
    Given(KeyRing),
}

/// How much hashing there may be.
#[derive(Clone, Copy, Debug)]
pub struct PasswordSettings {
    /// How many passwords at the same time.
    pub hashes_at_once: usize,
    /// How many more may wait.
    pub waiting_max: usize,
}

/// Where traces go.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// The collector, as scheme, host and port.
    pub otlp_endpoint: Option<String>,
    /// How many in a hundred requests are traced.
    pub sample_percent: u8,
    /// The name that the process has among others of its kind.
    pub node: String,
}

/// How the log looks.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Its form.
    pub format: LogFormat,
    /// What is logged, as a directive of `tracing_subscriber`.
    pub level: String,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// The settings of this process: the defaults, `file`, the environment and `options`.
    pub fn load(file: Option<&Path>, options: &Options) -> Result<Self, SettingsError> {
        let environment = environment()?;
        Self::read(&Reader::new(layers::merged(file, &environment, options)?))
    }

    /// The settings from the defaults, `file` and the given variables.
    pub fn from_sources(
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SettingsError> {
        let options = Options::default();
        Self::read(&Reader::new(layers::merged(file, environment, &options)?))
    }

    /// Makes the folder of the embedded database and of the token key if one of them is to be in it.
    /// A folder that somebody names in an address is never made: that may be a slip of the pen.
    pub fn make_data_dir(&self) -> Result<(), DataDirError> {
        let Some(path) = &self.data_dir else {
            return Ok(());
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DataDirError {
                path: path.clone(),
                source,
            })
    }

    fn read(reader: &Reader) -> Result<Self, SettingsError> {
        let data_dir = PathBuf::from(reader.text("data.dir")?);
        let (tokens, store) = (tokens(reader, &data_dir)?, store(reader, &data_dir)?);
        let keeps_key = matches!(&tokens.key, KeySource::File(path) if path.starts_with(&data_dir));
        let keeps_database =
            matches!(&store.location, StoreLocation::Sqlite(path) if path.starts_with(&data_dir));
        Ok(Self {
            http: http(reader)?,
            sockets: sockets(reader)?,
            metrics_networks: reader.networks("metrics.networks")?,
            tokens,
            passwords: PasswordSettings {
                hashes_at_once: reader.count("passwords.hashes_at_once", 1, 1_024)?,
                waiting_max: reader.count("passwords.waiting_max", 0, 100_000)?,
            },
            log_ins: LogInSettings {
                from_address: times(reader, "limits.wrong_passwords_per_address_per_hour")?,
                to_account: times(reader, "limits.wrong_passwords_per_account_per_hour")?,
                from_address_to_account: times(
                    reader,
                    "limits.wrong_passwords_per_account_and_address_per_hour",
                )?,
            },
            signups_per_address_per_hour: times(reader, "limits.signups_per_address_per_hour")?,
            refused_requests_per_address_per_minute: times(
                reader,
                "limits.refused_requests_per_address_per_minute",
            )?,
            signup_credits: credits(reader, "signup.credits", 0)?,
            store,
            engine: engine(reader)?,
            log: log(reader)?,
            telemetry: telemetry(reader)?,
            data_dir: (keeps_key || keeps_database).then_some(data_dir),
        })
    }
}

/// The variables of this process that are texts. One of ours has to be.
fn environment() -> Result<BTreeMap<String, String>, SettingsError> {
    let mut environment = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Ok(variable) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => {
                environment.insert(variable, value);
            }
            Err(_) if layers::is_ours(&variable) => {
                return Err(SettingsError::NotText { variable });
            }
            Err(_) => {}
        }
    }
    Ok(environment)
}

/// The form of the log as far as it is known before the settings are, so that it can be told in that
/// form what is wrong with them.
pub fn log_format_before(file: Option<&Path>) -> LogFormat {
    let format = |value: &str| {
        if value == "json" {
            LogFormat::Json
        } else {
            LogFormat::Human
        }
    };
    let variable = std::env::var("MINUTE_CREDIT__LOG__FORMAT").unwrap_or_default();
    match layers::trimmed(&variable) {
        "" => {}
        given => return format(given),
    }
    let only_file = layers::merged(file, &BTreeMap::new(), &Options::default()).map(Reader::new);
    let given = only_file.and_then(|reader| reader.text("log.format"));
    given.map_or(LogFormat::Human, |given| format(&given))
}

fn http(reader: &Reader) -> Result<HttpSettings, SettingsError> {
    let host: IpAddr = match reader.text("http.host")?.as_str() {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.trim_matches(['[', ']']).parse().map_err(|_| {
            reader.wrong("http.host", "must be an IP address such as 127.0.0.1 or ::")
        })?,
    };
    let port = reader.whole("http.port", 0, 65_535)?;
    let port = u16::try_from(port).map_err(|_| reader.wrong("http.port", "must be a port"))?;
    let origins = reader
        .texts("http.allowed_origins")?
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>();
    let public_origin = reader.optional_text("http.public_url")?.map(|url| {
        Origin::of_url(&url).map_err(|error| {
            let must = format!("must be an address such as https://credit.example.com: {error}");
            reader.wrong("http.public_url", &must)
        })
    });
    Ok(HttpSettings {
        address: SocketAddr::new(host, port),
        public_origin: public_origin.transpose()?,
        allowed_origins: origins.map_err(|error| {
            reader.wrong(
                "http.allowed_origins",
                &format!("must be a list of origins: {error}"),
            )
        })?,
        trusted_proxies: reader.networks("http.trusted_proxies")?,
        connections_max: reader.count("http.connections_max", 1, 1_000_000)?,
        connections_per_address_max: reader.count(
            "http.connections_per_address_max",
            0,
            1_000_000,
        )?,
        requests_in_flight_max: reader.count("http.requests_in_flight_max", 1, 1_000_000)?,
        body_bytes_max: reader.count("http.body_bytes_max", 2_048, 16 << 20)?,
        idle_timeout: reader.duration("http.idle_timeout_ms", 100)?,
        header_timeout: reader.duration("http.header_timeout_ms", 100)?,
        body_timeout: reader.duration("http.body_timeout_ms", 100)?,
        send_timeout: reader.duration("http.send_timeout_ms", 100)?,
        hsts: Duration::from_hours(reader.whole("http.hsts_days", 0, 36_500)?.unsigned_abs() * 24),
        drain_delay: reader.duration("http.drain_delay_ms", 0)?,
        drain_timeout: reader.duration("http.drain_timeout_ms", 0)?,
    })
}

fn sockets(reader: &Reader) -> Result<SocketSettings, SettingsError> {
    let events_max = reader.count("sockets.events_max", 1, 10_000)?;
    let replay_events_max = reader.count("sockets.replay_events_max", 0, 10_000)?;
    if replay_events_max > events_max {
        return Err(reader.wrong(
            "sockets.replay_events_max",
            "must not exceed sockets.events_max",
        ));
    }
    Ok(SocketSettings {
        per_user_max: reader.count("sockets.per_user_max", 1, 10_000)?,
        per_address_max: reader.count("sockets.per_address_max", 0, 1_000_000)?,
        events_max,
        replay_events_max,
        replay_for: reader.duration("sockets.replay_ms", 0)?,
        messages_per_minute_max: reader.count("sockets.messages_per_minute_max", 10, 1_000_000)?,
        bytes_per_minute_max: reader.count("sockets.bytes_per_minute_max", 1_024, 1 << 30)?,
        send_timeout: reader.duration("sockets.send_timeout_ms", 100)?,
        ping_every: reader.duration("sockets.ping_every_ms", 100)?,
        message_bytes_max: reader.count("sockets.message_bytes_max", 125, 1 << 20)?,
    })
}

fn tokens(reader: &Reader, data_dir: &Path) -> Result<TokenSettings, SettingsError> {
    let lifetime = reader.whole("tokens.lifetime_hours", 1, 24 * 365)? * 3_600_000;
    let file = reader
        .optional_text("tokens.key_file")?
        .map_or_else(|| data_dir.join("token.key"), PathBuf::from);
    let key = match reader.optional_text("tokens.key")? {
        None => KeySource::File(file),
        Some(text) => KeySource::Given(KeyRing::parse(&text).map_err(|error| {
            let must =
                format!("must be PASERK keys, k4.local.…, with spaces between them: {error}");
            reader.wrong("tokens.key", &must)
        })?),
    };
    let lifetime = Millis::new(lifetime)
        .map_err(|error| reader.wrong("tokens.lifetime_hours", &error.to_string()))?;
    Ok(TokenSettings { lifetime, key })
}

fn store(reader: &Reader, data_dir: &Path) -> Result<StoreSettings, SettingsError> {
    let location = match reader.optional_text("database.url")? {
        None => StoreLocation::Sqlite(data_dir.join("minute-credit.db")),
        Some(url) => location(&url).ok_or_else(|| {
            reader.wrong(
                "database.url",
                "must be postgres://USER:PASSWORD@HOST/NAME or sqlite://PATH",
            )
        })?,
    };
    let connections = reader.whole("database.connections_max", 1, 1_000)?;
    let writers = reader.whole("database.writers", 1, u8::MAX.into())?;
    Ok(StoreSettings {
        location,
        connections_max: u32::try_from(connections)
            .map_err(|_| reader.wrong("database.connections_max", "is too large"))?,
        writers: u8::try_from(writers)
            .ok()
            .and_then(Lanes::new)
            .ok_or_else(|| reader.wrong("database.writers", "must be from 1 to 255"))?,
        connect_timeout: reader.duration("database.connect_timeout_ms", 10)?,
        call_timeout: reader.duration("database.call_timeout_ms", 10)?,
    })
}

/// The database that `url` names, if it names one.
fn location(url: &str) -> Option<StoreLocation> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Some(StoreLocation::Postgres(url.to_owned()));
    }
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    (!path.is_empty()).then(|| StoreLocation::Sqlite(PathBuf::from(path)))
}

fn engine(reader: &Reader) -> Result<EngineSettings, SettingsError> {
    let low_balance = reader.whole("session.low_balance_seconds", 0, 86_400)? * 1_000;
    let redis_url = match reader.optional_text("redis.url")? {
        None => None,
        Some(url) => Some(
            url.parse()
                .map_err(|error: InvalidRedisUrl| reader.wrong("redis.url", &error.to_string()))?,
        ),
    };
    Ok(EngineSettings {
        node: NodeName::new(&reader.text("node.name")?).map_err(|_| {
            reader.wrong(
                "node.name",
                "must be 1 to 64 letters, digits, dots, dashes or _",
            )
        })?,
        tariff: tariff(reader)?,
        settle_every: millis(reader, "settlement.every_ms", 1_000)?,
        low_balance: Millis::new(low_balance)
            .map_err(|error| reader.wrong("session.low_balance_seconds", &error.to_string()))?,
        resume: resume_policy(reader)?,
        outage_grace: reader.duration("outage.grace_ms", 1_000)?,
        call_timeout: reader.duration("limits.call_timeout_ms", 10)?,
        calls_max: reader.count("limits.calls_max", 1, 1_000_000)?,
        unpaid_sessions_per_hour_max: reader.count(
            "limits.unpaid_sessions_per_hour",
            0,
            100_000,
        )?,
        retention: RetentionSettings {
            unpaid_sessions: days(reader, "retention.unpaid_sessions_days")?,
            runs: days(reader, "retention.runs_days")?,
        },
        redis_url,
    })
}

fn resume_policy(reader: &Reader) -> Result<ResumePolicy, SettingsError> {
    let within = ResumePolicy::Within(millis(reader, "recovery.resume_within_ms", 0)?);
    reader.choice(
        "recovery.sessions",
        "\"resume\" or \"stop\"",
        |word| match word {
            "resume" => Some(within),
            "stop" => Some(ResumePolicy::Never),
            _ => None,
        },
    )
}

fn tariff(reader: &Reader) -> Result<Tariff, SettingsError> {
    let charged_at = reader.choice(
        "tariff.charged_at",
        "\"end\" or \"start\"",
        ChargedAt::from_name,
    )?;
    let price = credits(reader, "tariff.credits", 1)?;
    let interval = millis(reader, "tariff.interval_ms", 1)?;
    Tariff::new(price, interval, charged_at)
        .map_err(|error| reader.wrong("tariff.credits", &error.to_string()))
}

fn telemetry(reader: &Reader) -> Result<TelemetrySettings, SettingsError> {
    let key = "telemetry.otlp_endpoint";
    let endpoint = reader.optional_text(key)?;
    let is_sane = |endpoint: &String| {
        let uri = endpoint.parse::<Uri>();
        uri.is_ok_and(|uri| {
            uri.scheme_str() == Some("http") && uri.host().is_some() && uri.path() == "/"
        })
    };
    if let Some(endpoint) = &endpoint
        && !is_sane(endpoint)
    {
        return Err(reader.wrong(key, "must be http://HOST:PORT"));
    }
    let percent = reader.whole("telemetry.sample_percent", 0, 100)?;
    Ok(TelemetrySettings {
        otlp_endpoint: endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
        sample_percent: u8::try_from(percent)
            .map_err(|_| reader.wrong("telemetry.sample_percent", "is too large"))?,
        node: reader.text("node.name")?,
    })
}

fn log(reader: &Reader) -> Result<LogSettings, SettingsError> {
    let format = reader.choice("log.format", "\"human\" or \"json\"", |word| match word {
        "human" => Some(LogFormat::Human),
        "json" => Some(LogFormat::Json),
        _ => None,
    })?;
    let level = reader.text("log.level")?;
    level
        .parse::<tracing_subscriber::filter::Targets>()
        .map_err(|_| reader.wrong("log.level", "must be a level or a list of directives"))?;
    Ok(LogSettings { format, level })
}

/// How often something may happen; 0 is any number of times.
fn times(reader: &Reader, key: &'static str) -> Result<u32, SettingsError> {
    let times = reader.whole(key, 0, 1_000_000)?;
    u32::try_from(times).map_err(|_| reader.wrong(key, "is too large"))
}

/// A number of days; 0 is for ever.
fn days(reader: &Reader, key: &'static str) -> Result<Option<Millis>, SettingsError> {
    const DAY_MS: i64 = 24 * 3_600_000;
    let days = reader.whole(key, 0, 36_500)?;
    let length =
        Millis::new(days * DAY_MS).map_err(|error| reader.wrong(key, &error.to_string()))?;
    Ok(Some(length).filter(|_| days > 0))
}

fn credits(reader: &Reader, key: &'static str, min: i64) -> Result<Credits, SettingsError> {
    Credits::new(reader.whole(key, min, MAX_SAFE_INTEGER)?)
        .map_err(|error| reader.wrong(key, &error.to_string()))
}

fn millis(reader: &Reader, key: &'static str, min: i64) -> Result<Millis, SettingsError> {
    Millis::new(reader.whole(key, min, MAX_SAFE_INTEGER)?)
        .map_err(|error| reader.wrong(key, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn load(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_sources(None, &variables(pairs))
    }

    #[test]
    fn every_default_is_valid_and_read() {
        let reader =
            Reader::new(layers::merged(None, &BTreeMap::new(), &Options::default()).unwrap());
        let settings = Settings::read(&reader).unwrap();
        assert_eq!(settings.http.address.to_string(), "127.0.0.1:8000");
        assert_eq!(settings.engine.tariff.interval().get(), 6_000);
        assert_eq!(
            settings.store.location,
            StoreLocation::Sqlite("data/minute-credit.db".into())
        );
        let read: Vec<_> = reader.keys_read().into_iter().collect();
        assert_eq!(
            read,
            layers::known_keys(),
            "a key without a reader, or a reader without a key"
        );
    }

    #[test]
    fn later_sources_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.toml");
        std::fs::write(&file, "[http]\nport = 1\n[tariff]\ncredits = 7\n[log]\n").unwrap();
        let environment = variables(&[
            ("MINUTE_CREDIT__HTTP__PORT", "2"),
            ("PORT", "3"),
            ("MINUTE_CREDIT__NODE__NAME", "5"),
            (
                "MINUTE_CREDIT__HTTP__ALLOWED_ORIGINS",
                r#"["http://localhost:3000"]"#,
            ),
            ("REDIS_URL", ""),
            ("DATA_DIR", "/srv/x"),
        ]);
        let settings = Settings::from_sources(Some(&file), &environment).unwrap();
        assert_eq!(settings.http.address.port(), 3);
        assert_eq!(settings.engine.tariff.price().get(), 7);
        assert_eq!(settings.engine.node.as_str(), "5");
        assert_eq!(settings.http.allowed_origins.len(), 1);
        assert_eq!(settings.engine.redis_url, None);
        assert_eq!(
            settings.store.location,
            StoreLocation::Sqlite("/srv/x/minute-credit.db".into())
        );
    }

    #[test]
    fn databases_are_told_by_their_address() {
        let check = |url: &str, expected: StoreLocation| {
            assert_eq!(
                load(&[("DATABASE_URL", url)]).unwrap().store.location,
                expected
            );
        };
        check(
            "postgres://a@b/c",
            StoreLocation::Postgres("postgres://a@b/c".to_owned()),
        );
        check(
            "postgresql://a@b/c",
            StoreLocation::Postgres("postgresql://a@b/c".to_owned()),
        );
        check("sqlite://x/y.db", StoreLocation::Sqlite("x/y.db".into()));
        check("sqlite:///x/y.db", StoreLocation::Sqlite("/x/y.db".into()));
    }

    #[test]
    fn white_space_around_a_value_is_not_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("windows.toml");
        let text = "\u{feff}[http]\r\nhost = \" 0.0.0.0\\t\"\r\n\r\n[tariff]\r\ncredits = 7\r\n";
        std::fs::write(&file, text).unwrap();
        let environment = variables(&[
            ("PORT", " 9000\r\n"),
            ("DATABASE_URL", "\tsqlite://x.db\n"),
            ("REDIS_URL", "\u{feff}redis://cache\u{a0}\n"),
            ("DATA_DIR", " \r\n"),
            ("MINUTE_CREDIT__LOG__FORMAT", " json "),
            (
                "MINUTE_CREDIT__HTTP__ALLOWED_ORIGINS",
                " [\" http://localhost:3000\"]\n",
            ),
            ("MINUTE_CREDIT__HTTP__HOST", ""),
        ]);
        let settings = Settings::from_sources(Some(&file), &environment).unwrap();
        assert_eq!(settings.http.address.to_string(), "0.0.0.0:9000");
        assert_eq!(settings.engine.tariff.price().get(), 7);
        assert_eq!(settings.http.allowed_origins.len(), 1);
        assert_eq!(settings.log.format, LogFormat::Json);
        let redis = settings.engine.redis_url.unwrap().to_string();
        assert_eq!(redis, "redis://cache:6379");
        assert_eq!(
            settings.store.location,
            StoreLocation::Sqlite("x.db".into())
        );
        assert_eq!(settings.data_dir, Some("data".into()));
    }

    /// A message that quotes what it complains of would show a password.
    #[test]
    fn no_secret_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.toml");
        let check = |variable: &str, value: &str| {
            let error = load(&[(variable, value)])
                .err()
                .map(|error| error.to_string());
            let error = error.unwrap_or_else(|| panic!("{variable}={value} is fine"));
            assert!(!error.contains("s3cr"), "{error}");
        };
        check("DATABASE_URL", "mysql://root:s3cr3t@host/db");
        check("DATABASE_URL", "'postgres://root:s3cr3t@host/db'");
        check("DATABASE_URL", "root:s3cr3t@host/db");
        check("REDIS_URL", "redis://:s3cr/3t@host");
        check("REDIS_URL", "\"redis://:s3cr3t@host\"");
        check("REDIS_URL", "redis-sentinel://:s3cr3t@host");
        check("REDIS_URL", "default:s3cr3t@host");
        check("MINUTE_CREDIT__TOKENS__KEY", "s3cr3t");
        check(
            "MINUTE_CREDIT__TELEMETRY__OTLP_ENDPOINT",
            "https://me:s3cr3t@host",
        );
        check("MINUTE_CREDIT__DATABASE", "postgres://root:s3cr3t@host/db");

        let check = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let error = Settings::from_sources(Some(&file), &BTreeMap::new());
            let error = error.err().unwrap().to_string();
            assert!(
                !error.contains("s3cr") && error.contains("mine.toml"),
                "{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        };
        check("[database]\nurl = \"postgres://root:s3cr3t@host/db\n");
        check("[database]\nurl = postgres://root:s3cr3t@host/db\n");
        check("[database]\nulr = \"postgres://root:s3cr3t@host/db\"\n");
        check("[database]\nurl = [\"postgres://root:s3cr3t@host/db\"]\n");
        check("[redis]\nurl = \"redis://s3cr3t@host\"\nurl = \"redis://s3cr3t@host\"\n");
    }

    #[test]
    fn the_data_folder_is_made_only_if_something_is_to_be_in_it() {
        let check = |pairs: &[(&str, &str)], expected: Option<&str>| {
            let settings = load(pairs).unwrap();
            assert_eq!(settings.data_dir, expected.map(PathBuf::from), "{pairs:?}");
        };
        let key = KeyRing::generate().unwrap().to_text().unwrap();
        let key = ("MINUTE_CREDIT__TOKENS__KEY", key.as_str());
        check(&[], Some("data"));
        check(&[("DATA_DIR", "/srv/x")], Some("/srv/x"));
        check(&[("DATABASE_URL", "postgres://db/credit")], Some("data"));
        check(&[key], Some("data"));
        check(&[key, ("DATABASE_URL", "postgres://db/credit")], None);
        check(&[key, ("DATABASE_URL", "sqlite://elsewhere/x.db")], None);
        check(&[key, ("DATABASE_URL", "sqlite://data/x.db")], Some("data"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |variable: &str, value: &str, expected: &str| {
            let error = load(&[(variable, value)])
                .err()
                .map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(expected));
        };
        check(
            "PORT",
            "70000",
            "http.port must be a whole number from 0 to 65535, not 70000 (from the environment variable PORT)",
        );
        check(
            "MINUTE_CREDIT__TARIFF__INTERVAL_MS",
            "0",
            "tariff.interval_ms must be a whole number from 1 to 9007199254740991, not 0 \
             (from the environment variable MINUTE_CREDIT__TARIFF__INTERVAL_MS)",
        );
        check(
            "MINUTE_CREDIT__TARIFF__INTERVAL",
            "200",
            "there is no setting tariff.interval (from the environment variable MINUTE_CREDIT__TARIFF__INTERVAL): \
             perhaps one of tariff.charged_at, tariff.credits, tariff.interval_ms",
        );
        check(
            "MINUTE_CREDIT__TARIFF__CREDITS",
            "1.5",
            "tariff.credits must be a whole number from 1 to 9007199254740991, not 1.5 \
             (from the environment variable MINUTE_CREDIT__TARIFF__CREDITS)",
        );
        check(
            "MINUTE_CREDIT__TARIFF",
            "1",
            "there is no setting tariff (from the environment variable MINUTE_CREDIT__TARIFF): \
             perhaps one of tariff.charged_at, tariff.credits, tariff.interval_ms",
        );
        check(
            "DATABASE_URL",
            "mysql://root:secret@host/db",
            "database.url must be postgres://USER:PASSWORD@HOST/NAME or sqlite://PATH \
             (from the environment variable DATABASE_URL)",
        );
        check(
            "MINUTE_CREDIT__RECOVERY__SESSIONS",
            "maybe",
            "recovery.sessions must be \"resume\" or \"stop\", not \"maybe\" \
             (from the environment variable MINUTE_CREDIT__RECOVERY__SESSIONS)",
        );
        check(
            "MINUTE_CREDIT__HTTP__ALLOWED_ORIGINS",
            "http://localhost:3000",
            "http.allowed_origins must be a list of texts, as in [\"a\", \"b\"], not \"http://localhost:3000\" \
             (from the environment variable MINUTE_CREDIT__HTTP__ALLOWED_ORIGINS)",
        );
    }
}

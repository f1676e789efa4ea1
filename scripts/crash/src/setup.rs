//! What a run needs before it can begin: a folder, the program's settings, and what stands between
//! the program and its data.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::{
    nemesis::Networks,
    options::{Faults, Options, Store, WallClocks},
    program::Program,
    proxy::Proxy,
};

/// What signing up brings.
pub const SIGNUP_CREDITS: i64 = 20;
/// The price of an interval.
pub const PRICE: i64 = 1;
/// How often a live session is settled: often, so that crashes hit settlements too.
const SETTLE_EVERY_MS: u32 = 1_000;

/// Where a run's data is.
#[derive(Clone, Debug)]
pub enum Data {
    /// In this file.
    Sqlite(PathBuf),
    /// In the database at this address.
    Postgres(String),
}

/// Where a run keeps its files.
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// Deletes it, unless it is kept.
    temporary: Option<TempDir>,
}

impl Folder {
    /// The folder `wanted`, or a temporary one.
    pub fn make(wanted: Option<&PathBuf>) -> anyhow::Result<Self> {
        let (path, temporary) = if let Some(wanted) = wanted {
            std::fs::create_dir_all(wanted)
                .with_context(|| format!("can't make {}", wanted.display()))?;
            (wanted.clone(), None)
        } else {
            let made = tempfile::Builder::new()
                .prefix("minute-credit-crash.")
                .tempdir()?;
            (made.path().to_owned(), Some(made))
        };
        Ok(Self {
            path: path.canonicalize()?,
            temporary,
        })
    }

    /// Keeps it even if it is a temporary one.
    pub fn keep(self) -> PathBuf {
        self.temporary.map(TempDir::keep);
        self.path
    }
}

/// How the program is run.
pub struct Setup {
    /// The program, by networks that may fail.
    pub program: Program,
    /// The program, by networks that never do.
    pub auditor: Program,
    /// Where the data is.
    pub data: Data,
    /// The networks that may fail, if there are any.
    pub networks: Option<Networks>,
}

/// The program with the run's settings, and what stands between it and its data.
pub async fn set_up(options: &Options, dir: &Path, name: &str) -> anyhow::Result<Setup> {
    let binary = options
        .program
        .canonicalize()
        .with_context(|| format!("there is no {}: build it first", options.program.display()))?;
    let program = Program::new(&binary, dir)
        .with("PORT", "0")
        .with("DATA_DIR", dir.join("data").display().to_string())
        .with("MINUTE_CREDIT__NODE__NAME", name)
        .with("MINUTE_CREDIT__SIGNUP__CREDITS", SIGNUP_CREDITS.to_string())
        .with("MINUTE_CREDIT__LIMITS__SIGNUPS_PER_ADDRESS_PER_HOUR", "0")
        .with("MINUTE_CREDIT__TARIFF__CREDITS", PRICE.to_string())
        .with(
            "MINUTE_CREDIT__TARIFF__INTERVAL_MS",
            options.interval_ms.to_string(),
        )
        .with(
            "MINUTE_CREDIT__SETTLEMENT__EVERY_MS",
            SETTLE_EVERY_MS.to_string(),
        );
    let program = match options.clocks {
        WallClocks::Right => program,
        // A clock that is hours ahead is no downtime of hours: sessions are to go on, and tokens to be good.
        WallClocks::Skewed => program
            .with("MINUTE_CREDIT__RECOVERY__RESUME_WITHIN_MS", "1000000000")
            .with("MINUTE_CREDIT__TOKENS__LIFETIME_HOURS", "240"),
    };
    // Nothing is wrong with a database whose audit takes long.
    let auditor = program
        .clone()
        .with("MINUTE_CREDIT__DATABASE__CALL_TIMEOUT_MS", "60000");
    let program = match options.faults {
        Faults::Kill => program,
        // Shorter than the longest outages, so that there are unknown outcomes.
        Faults::Cut | Faults::DiskFull | Faults::All => program
            .with("MINUTE_CREDIT__DATABASE__CALL_TIMEOUT_MS", "1500")
            // A connection takes a debug build a tenth of a second of its core: with many to make at
            // once, after they were all cut, a busy machine would be late for each of them.
            .with("MINUTE_CREDIT__DATABASE__CONNECTIONS_MAX", "4")
            .with("MINUTE_CREDIT__DATABASE__CONNECT_TIMEOUT_MS", "3000")
            .with("MINUTE_CREDIT__LIMITS__CALL_TIMEOUT_MS", "2000"),
    };
    match options.store {
        Store::Sqlite => {
            if options.faults == Faults::Cut {
                bail!("--faults cut needs --store postgres");
            }
            Ok(Setup {
                auditor,
                program,
                data: Data::Sqlite(dir.join("data").join("minute-credit.db")),
                networks: None,
            })
        }
        Store::Postgres => {
            if options.faults == Faults::DiskFull {
                bail!("--faults disk-full needs --store sqlite");
            }
            set_up_postgres(options, program, auditor).await
        }
    }
}

async fn set_up_postgres(
    options: &Options,
    program: Program,
    auditor: Program,
) -> anyhow::Result<Setup> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL must name a Postgres")?;
    let redis = std::env::var("REDIS_URL").ok();
    let auditor = auditor.with("DATABASE_URL", &url);
    let data = Data::Postgres(url.clone());
    if options.faults == Faults::Kill {
        let mut program = program.with("DATABASE_URL", &url);
        if let Some(redis) = redis {
            program = program.with("REDIS_URL", redis);
        }
        return Ok(Setup {
            program,
            auditor,
            data,
            networks: None,
        });
    }
    let (postgres, through) = Proxy::before(&url).await?;
    let mut program = program.with("DATABASE_URL", through);
    let redis = match redis {
        Some(redis) => {
            let (proxy, through) = Proxy::before(&redis).await?;
            program = program.with("REDIS_URL", through);
            Some(proxy)
        }
        None => None,
    };
    Ok(Setup {
        program,
        auditor,
        data,
        networks: Some(Networks { postgres, redis }),
    })
}

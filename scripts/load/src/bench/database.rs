//! An empty Postgres database for one run, beside the one that `DATABASE_URL` names, which is left
//! alone. Made and dropped with `psql`, so that the load generator needs no client of its own.

use std::process::Command;

use anyhow::Context;

use super::place::output_of;

/// A database, and the Redis to use with it. It is dropped with this.
pub struct Database {
    server: String,
    name: String,
    redis: String,
}

impl Database {
    /// Makes one. Redis is emptied: it holds copies only, but those of another run's users.
    pub fn create() -> anyhow::Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| {
                format!("{name} must say where it is; scripts/bench starts private ones")
            })
        };
        let (server, redis) = (variable("DATABASE_URL")?, variable("REDIS_URL")?);
        let name = format!("minute_credit_bench_{}", std::process::id());
        let database = Self {
            server,
            name,
            redis,
        };
        database.drop_if_there()?;
        database.sql(&format!("CREATE DATABASE {}", database.name))?;
        output_of(Command::new("redis-cli").args([
            "--no-auth-warning",
            "-u",
            &database.redis,
            "FLUSHDB",
        ]))
        .context("Redis could not be emptied")?;
        Ok(database)
    }

    /// Where it is.
    pub fn address(&self) -> String {
        // The last slash is before the database's name; what follows a question mark are options.
        let (address, options) = match self.server.split_once('?') {
            Some((address, options)) => (address, format!("?{options}")),
            None => (&self.server[..], String::new()),
        };
        let server = address
            .rsplit_once('/')
            .map_or(address, |(server, _)| server);
        format!("{server}/{}{options}", self.name)
    }

    /// Where Redis is.
    pub fn redis(&self) -> &str {
        &self.redis
    }

    /// Which Postgres it is and how it is set.
    pub fn describe(server: &str) -> anyhow::Result<String> {
        let query = "SELECT 'Postgres ' || split_part(current_setting('server_version'), ' ', 1) \
            || ', synchronous_commit ' || current_setting('synchronous_commit') \
            || ', fsync ' || current_setting('fsync') \
            || ', shared_buffers ' || current_setting('shared_buffers')";
        Ok(psql(server, query)?.trim().to_owned())
    }

    fn drop_if_there(&self) -> anyhow::Result<()> {
        self.sql(&format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            self.name
        ))
    }

    fn sql(&self, sql: &str) -> anyhow::Result<()> {
        psql(&self.server, sql).map(drop)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // One that stays is dropped by the next run of the same name.
        let _ = self.drop_if_there();
    }
}

fn psql(server: &str, sql: &str) -> anyhow::Result<String> {
    let arguments = [
        "-X",
        "-q",
        "-t",
        "-A",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        sql,
        "-d",
    ];
    // What Postgres notes about absent databases is not of interest.
    let mut command = Command::new("psql");
    command
        .args(arguments)
        .arg(server)
        .env("PGOPTIONS", "-c client_min_messages=warning");
    output_of(&mut command).context("psql failed")
}

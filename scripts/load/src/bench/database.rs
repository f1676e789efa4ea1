//! A Postgres database for one run, beside the one that `DATABASE_URL` names, which is left alone: empty,
//! or a copy of a filled one. Made and dropped with `psql`, so that the load generator needs no client
//! of its own; for the same reason SQLite's file is looked into with `sqlite3`.

use std::{path::Path, process::Command};

use anyhow::Context;

use super::{figures::number, place::output_of};

/// The tables that a past fills.
const FILLED: [&str; 3] = ["users", "sessions", "ledger"];
/// How many statements are named in a report.
const STATEMENTS_NAMED: usize = 12;

/// A database, and the Redis to use with it. It is dropped with this.
pub struct Database {
    server: String,
    name: String,
    redis: String,
    is_kept: bool,
}

/// What the server's statements of one database came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statements {
    /// How many were sent.
    pub calls: u64,
    /// How long they took in all, in milliseconds, with those that they had the server run.
    pub took_ms: f64,
    /// Those that took longest, each with its calls and milliseconds, also those that others had the
    /// server run.
    pub longest: Vec<(String, u64, f64)>,
}

impl Database {
    /// Makes one for a run: a copy of a template, or an empty one. Redis is emptied: it holds copies
    /// only, but those of another run's users.
    pub fn create(template: Option<&str>) -> anyhow::Result<Self> {
        let database = Self::named(format!("minute_credit_bench_{}", std::process::id()))?;
        database.drop_if_there()?;
        match template {
            None => database.sql(&format!("CREATE DATABASE {}", database.name))?,
            Some(template) => {
                let is_logged = is_copy_logged_by_default(&database.server)?;
                database.sql(&copy_statement(&database.name, template, is_logged))?;
                database.let_autovacuum_in()?;
            }
        }
        output_of(Command::new("redis-cli").args([
            "--no-auth-warning",
            "-u",
            &database.redis,
            "FLUSHDB",
        ]))
        .context("Redis could not be emptied")?;
        Ok(database)
    }

    /// Makes an empty one that will be copied.
    pub fn create_template(name: &str) -> anyhow::Result<Self> {
        let database = Self::named(name.to_owned())?;
        database.drop_if_there()?;
        database.sql(&format!("CREATE DATABASE {name}"))?;
        Ok(database)
    }

    fn named(name: String) -> anyhow::Result<Self> {
        Ok(Self {
            server: variable("DATABASE_URL")?,
            name,
            redis: variable("REDIS_URL")?,
            is_kept: false,
        })
    }

    /// Leaves it in place.
    pub fn keep(mut self) {
        self.is_kept = true;
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

    /// The migrations that a program noted in it, with their checksums.
    pub fn migrations(&self) -> anyhow::Result<String> {
        let sql = "SELECT version, encode(checksum, 'hex') FROM _sqlx_migrations ORDER BY version";
        psql(&self.address(), sql)
    }

    /// Vacuums and analyses it, as a server that had a quiet hour would have.
    pub fn vacuum(&self) -> anyhow::Result<()> {
        psql(&self.address(), "VACUUM (ANALYZE)").map(drop)
    }

    /// Keeps autovacuum out of the tables that are about to be filled: whether it came by before a copy
    /// was made would be chance.
    pub fn keep_autovacuum_away(&self) -> anyhow::Result<()> {
        self.alter_filled("SET (autovacuum_enabled = off)")
    }

    fn let_autovacuum_in(&self) -> anyhow::Result<()> {
        self.alter_filled("RESET (autovacuum_enabled)")
    }

    fn alter_filled(&self, how: &str) -> anyhow::Result<()> {
        let alter = FILLED.map(|table| format!("ALTER TABLE {table} {how};"));
        psql(&self.address(), &alter.concat()).map(drop)
    }

    /// Begins to count the statements of this database.
    pub fn count_statements(&self) -> anyhow::Result<()> {
        psql(
            &self.address(),
            "CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()",
        )
        .context("Postgres counts no statements; scripts/services start --statements lets it")?;
        Ok(())
    }

    /// What its statements came to since.
    pub fn statements(&self) -> anyhow::Result<Statements> {
        // The statement comes last, since it may hold anything.
        let said = psql(
            &self.address(),
            r"SELECT toplevel, calls, total_exec_time, regexp_replace(query, '\s+', ' ', 'g') FROM pg_stat_statements
              WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND query NOT LIKE '%pg_stat_statements%' ORDER BY total_exec_time DESC",
        )?;
        statements_in(&said)
    }

    /// Which Postgres it is and how it is set.
    pub fn describe(server: &str) -> anyhow::Result<String> {
        let query = "SELECT 'Postgres ' || split_part(current_setting('server_version'), ' ', 1) \
            || ', synchronous_commit ' || current_setting('synchronous_commit') \
            || ', fsync ' || current_setting('fsync') \
            || ', shared_buffers ' || current_setting('shared_buffers') \
            || ', max_wal_size ' || current_setting('max_wal_size')";
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
        if !self.is_kept {
            // One that stays is dropped by the next run of the same name.
            let _ = self.drop_if_there();
        }
    }
}

impl Statements {
    /// How many there were for each of so many operations, and how long they took, in milliseconds.
    pub fn for_each(&self, operations: u64) -> (f64, f64) {
        let operations = number(operations).max(1.0);
        (number(self.calls) / operations, self.took_ms / operations)
    }

    /// The longest ones in words, for so many operations.
    pub fn in_words(&self, operations: u64) -> Vec<String> {
        let operations = number(operations).max(1.0);
        let words = |(text, calls, took_ms): &(String, u64, f64)| {
            let (calls, micros) = (number(*calls) / operations, took_ms * 1_000.0 / operations);
            format!("an operation has {calls:.3} calls, {micros:.1} µs of: {text}")
        };
        self.longest.iter().map(words).collect()
    }
}

/// The migrations that a program noted in a database of SQLite's, with their checksums.
pub fn migrations_in_file(file: &Path) -> anyhow::Result<String> {
    let sql = "SELECT version, hex(checksum) FROM _sqlx_migrations ORDER BY version";
    output_of(Command::new("sqlite3").arg(file).arg(sql)).context("sqlite3 failed")
}

/// Whether there is a database of this name.
pub fn has_template(name: &str) -> anyhow::Result<bool> {
    let sql = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
    Ok(!psql(&variable("DATABASE_URL")?, &sql)?.trim().is_empty())
}

/// Drops a database that was kept.
pub fn drop_template(name: &str) -> anyhow::Result<()> {
    let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    psql(&variable("DATABASE_URL")?, &sql).map(drop)
}

/// Since Postgres 15 a copy goes through the log, page by page, unless it is told otherwise.
fn is_copy_logged_by_default(server: &str) -> anyhow::Result<bool> {
    let version = psql(server, "SHOW server_version_num")?;
    let version: u32 = version.trim().parse().context("no version of Postgres")?;
    Ok(version >= 150_000)
}

fn copy_statement(name: &str, template: &str, is_logged_by_default: bool) -> String {
    let strategy = if is_logged_by_default {
        " STRATEGY file_copy"
    } else {
        ""
    };
    format!("CREATE DATABASE {name} TEMPLATE {template}{strategy}")
}

fn statements_in(said: &str) -> anyhow::Result<Statements> {
    let mut statements = Statements::default();
    for line in said.lines().filter(|line| !line.is_empty()) {
        let mut parts = line.splitn(4, '|');
        let mut part = || {
            parts
                .next()
                .with_context(|| format!("no statement: {line}"))
        };
        // Postgres writes a boolean as t or f.
        let is_top_level = part()? == "t";
        let (calls, took_ms, text) = (part()?.parse()?, part()?.parse()?, part()?);
        // The time of a statement within a function is part of the time of its call.
        let prefix = if is_top_level {
            statements.calls += calls;
            statements.took_ms += took_ms;
            ""
        } else {
            "(within another) "
        };
        if statements.longest.len() < STATEMENTS_NAMED {
            let text = prefix.chars().chain(text.chars().take(100)).collect();
            statements.longest.push((text, calls, took_ms));
        }
    }
    Ok(statements)
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} must say where it is; scripts/bench starts private ones"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_for_each_operation() {
        let said = "t|300|60.5|UPDATE a SET b = $1 | c\nt|100|1.5|COMMIT\nf|50|1.0|SELECT 1\n";
        let statements = statements_in(said).unwrap();
        assert_eq!(statements.calls, 400);
        assert_eq!(statements.longest[0].0, "UPDATE a SET b = $1 | c");
        let (calls, took_ms) = statements.for_each(200);
        assert!((calls - 2.0).abs() < 1e-9 && (took_ms - 0.31).abs() < 1e-9);
        assert_eq!(
            statements.in_words(100)[1],
            "an operation has 1.000 calls, 15.0 µs of: COMMIT"
        );
        assert_eq!(statements.longest[2].0, "(within another) SELECT 1");
        assert_eq!(statements_in("").unwrap(), Statements::default());
        assert!(statements_in("t|1|x|y").is_err());
    }

    #[test]
    fn a_template_is_copied_as_files() {
        assert_eq!(
            copy_statement("a", "b", false),
            "CREATE DATABASE a TEMPLATE b"
        );
        assert!(copy_statement("a", "b", true).ends_with("b STRATEGY file_copy"));
    }
}

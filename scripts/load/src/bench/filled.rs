//! Databases with a past, which `minute-credit fixture --history` makes: filled once, then copied for
//! every run.
//!
//! A filled one is a folder with the token key, the users' tokens and, on SQLite, the database itself;
//! on Postgres the database is a template beside the others. It is of one size and one schema, so that
//! programs with the same migrations share it, and is filled anew when the tokens grow old.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::{
    database::{self, Database},
    place::{Bench, StoreKind, output_of, program_command},
    workload::shared::CREDITS,
};
use crate::users::Users;

/// The file that says that all the rest is there.
const COMPLETE: &str = "complete";
/// How old a filled database may be. The tokens in it are good for a little longer.
const AGE_MAX: Duration = Duration::from_hours(24 * 20);
const TOKEN_LIFETIME: (&str, &str) = ("MINUTE_CREDIT__TOKENS__LIFETIME_HOURS", "720");

/// How much of a past there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// How many users there are, of whom a work load plays some.
    pub population: usize,
    /// How many sessions they have had.
    pub sessions: usize,
}

/// Where filled databases are kept, for the runs of one call or for those of later ones too.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    temporary: Option<TempDir>,
}

/// A filled database.
#[derive(Debug)]
pub struct Filled {
    folder: PathBuf,
    /// The template, on Postgres.
    template: Option<String>,
    population: usize,
}

impl Home {
    /// The folder to keep them in, or one that goes with this.
    pub fn new(kept_in: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(folder) = kept_in {
            fs::create_dir_all(folder)
                .with_context(|| format!("can't make {}", folder.display()))?;
            return Ok(Self {
                folder: folder.canonicalize()?,
                temporary: None,
            });
        }
        let temporary = TempDir::with_prefix("minute-credit-filled.")?;
        Ok(Self {
            folder: temporary.path().to_owned(),
            temporary: Some(temporary),
        })
    }

    /// The filled database of this size, which is made now if there is none.
    pub fn get(&self, bench: &Bench, store: StoreKind, past: Past) -> anyhow::Result<Filled> {
        let name = format!(
            "{}_{}_{}_{:016x}",
            match store {
                StoreKind::Sqlite => "sqlite",
                StoreKind::Postgres => "postgres",
            },
            past.population,
            past.sessions,
            fingerprint(&migrations(bench, store)?)
        );
        let filled = Filled {
            folder: self.folder.join(&name),
            template: (store == StoreKind::Postgres)
                .then(|| format!("minute_credit_filled_{name}").replace("_postgres", "")),
            population: past.population,
        };
        if !filled.is_complete()? {
            filled.fill(bench, past)?;
        }
        Ok(filled)
    }
}

/// Templates of a folder that goes would be found by nobody.
impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary.is_none() {
            return;
        }
        let folders = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for folder in folders {
            if let Ok(template) = fs::read_to_string(folder.path().join(COMPLETE))
                && !template.is_empty()
            {
                // One that stays is told by its name.
                let _ = database::drop_template(&template);
            }
        }
    }
}

impl Filled {
    /// The template to copy, on Postgres.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Copies the token key, and on SQLite the database, to where a server keeps its data.
    pub fn copy_to(&self, data: &Path) -> anyhow::Result<()> {
        let copy = output_of(
            Command::new("cp")
                .args(["-r", "--reflink=auto"])
                .arg(self.folder.join("data"))
                .arg(data),
        );
        copy.context("the filled database could not be copied")?;
        Ok(())
    }

    /// The tokens of so many of its users, spread evenly among all.
    pub fn users(&self, count: usize) -> anyhow::Result<Users> {
        let path = self.folder.join("tokens");
        let file = fs::File::open(&path).with_context(|| format!("no {}", path.display()))?;
        let text = evenly(BufReader::new(file), self.population, count)?;
        let users = Users::new(text)?;
        ensure!(
            users.len() == count,
            "only {} tokens are there",
            users.len()
        );
        Ok(users)
    }

    fn is_complete(&self) -> anyhow::Result<bool> {
        let Ok(marked) = fs::metadata(self.folder.join(COMPLETE)) else {
            return Ok(false);
        };
        let is_young = marked.modified()?.elapsed().is_ok_and(|age| age < AGE_MAX);
        let is_there = match &self.template {
            Some(template) => database::has_template(template)?,
            None => true,
        };
        Ok(is_young && is_there)
    }

    fn fill(&self, bench: &Bench, past: Past) -> anyhow::Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        fs::create_dir_all(&self.folder)?;
        let (users, sessions) = (past.population, past.sessions);
        eprintln!("         filling a database with {users} users and {sessions} sessions");
        let begin = Instant::now();
        let database = match &self.template {
            Some(template) => Some(Database::create_template(template)?),
            None => None,
        };
        let command = |name: &str| {
            let mut command = program_command(&bench.program, name, &self.folder);
            command.env(TOKEN_LIFETIME.0, TOKEN_LIFETIME.1);
            if let Some(database) = &database {
                command.env("DATABASE_URL", database.address());
            }
            command
        };
        output_of(&mut command("migrate")).context("the schema could not be made")?;
        if let Some(database) = &database {
            database.keep_autovacuum_away()?;
        }
        let mut fixture = command("fixture");
        fixture
            .args(["--users", &users.to_string()])
            .args(["--credits", &CREDITS.to_string()])
            .args(["--tokens", "tokens"]);
        if sessions > 0 {
            fixture.args(["--history", &sessions.to_string()]);
        }
        output_of(&mut fixture).context("the database could not be filled")?;
        fs::write(
            self.folder.join(COMPLETE),
            self.template.as_deref().unwrap_or_default(),
        )?;
        if let Some(database) = database {
            database.keep();
        }
        eprintln!("         filled after {} s", begin.elapsed().as_secs());
        Ok(())
    }
}

/// The program's migrations with their checksums, as it notes them in an empty database.
fn migrations(bench: &Bench, store: StoreKind) -> anyhow::Result<String> {
    let folder = TempDir::with_prefix("minute-credit-schema.")?;
    let mut migrate = program_command(&bench.program, "migrate", folder.path());
    let noted = match store {
        StoreKind::Sqlite => {
            output_of(&mut migrate).context("the schema could not be made")?;
            database::migrations_in_file(&folder.path().join("data/minute-credit.db"))?
        }
        StoreKind::Postgres => {
            let name = format!("minute_credit_schema_{}", std::process::id());
            let database = Database::create_template(&name)?;
            migrate.env("DATABASE_URL", database.address());
            output_of(&mut migrate).context("the schema could not be made")?;
            database.migrations()?
        }
    };
    ensure!(
        !noted.trim().is_empty(),
        "the program noted no migrations of its schema"
    );
    Ok(noted)
}

/// A short name for a text.
fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// So many of the lines, evenly, of which there are `all`: the whole file may be far too long to keep.
fn evenly(lines: impl BufRead, all: usize, count: usize) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut taken = 0;
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        if taken < count && number == taken * all / count {
            text.push_str(&line);
            text.push('\n');
            taken += 1;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_evenly() {
        let check = |count: usize, expected: &str| {
            let lines = "a\nb\nc\nd\ne\nf\n";
            assert_eq!(evenly(lines.as_bytes(), 6, count).unwrap(), expected);
        };
        check(0, "");
        check(1, "a\n");
        check(2, "a\nd\n");
        check(4, "a\nb\nd\ne\n");
        check(6, "a\nb\nc\nd\ne\nf\n");
    }

    #[test]
    fn schemas_are_told_apart() {
        assert_eq!(fingerprint("1|a\n2|b\n"), fingerprint("1|a\n2|b\n"));
        assert_ne!(fingerprint("1|a\n2|b\n"), fingerprint("1|a\n2|c\n"));
        assert_ne!(fingerprint("1|a\n2|b\n"), fingerprint("1|a\n"));
    }

    #[test]
    fn a_kept_home_stays_and_another_goes() {
        let outer = tempfile::tempdir().unwrap();
        let kept = outer.path().join("kept");
        drop(Home::new(Some(&kept)).unwrap());
        assert!(kept.exists());
        let home = Home::new(None).unwrap();
        let folder = home.folder.clone();
        assert!(folder.exists());
        drop(home);
        assert!(!folder.exists());
    }
}

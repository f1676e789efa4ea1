//! The schema that the migrations make: what objects there are, and what each constraint says, so that
//! rows can be held against it even where the database has lost the constraint.
//!
//! SQLite tells it itself: the migrations are run on a database in memory. Postgres would need the right
//! to create a schema, and an audit only reads: there it is a list that is compiled in, and a test keeps
//! it equal to what the migrations make.

mod postgres;
mod sqlite;
mod text;

use sqlx::migrate::Migration;

use super::super::{StoreError, connection::Connection};

/// Something that the migrations make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    /// The table that it belongs to; empty if it belongs to none.
    pub(super) table: String,
    /// What it is: "table", "column", "constraint", "index", "trigger", "function" or "rule".
    pub(super) kind: String,
    /// The name that the database knows it by, within its table.
    pub(super) name: String,
    /// What it says, in the words of the database.
    pub(super) definition: String,
}

/// An object that the database has.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Present {
    pub(super) table: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) definition: String,
    /// Why it does nothing although it is there, such as "is disabled".
    pub(super) fault: Option<String>,
}

/// A column that refers to another table's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) column: String,
    pub(super) to_table: String,
    pub(super) to_column: String,
}

/// Columns of which no two rows have the same values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unique {
    /// The index that sees to it.
    pub(super) name: String,
    /// The columns or expressions, separated by commas.
    pub(super) columns: String,
    /// Which rows it holds for; `None` if for all.
    pub(super) only_where: Option<String>,
}

/// What the rows of a table must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    pub(super) primary_key: Vec<String>,
    pub(super) not_null: Vec<String>,
    /// The conditions of CHECK constraints.
    pub(super) checks: Vec<String>,
    pub(super) references: Vec<Reference>,
    pub(super) uniques: Vec<Unique>,
}

/// The whole schema.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    pub(super) objects: Vec<Object>,
    pub(super) tables: Vec<Table>,
    /// The version and checksum of each migration.
    pub(super) migrations: Vec<(i64, Vec<u8>)>,
}

impl Expected {
    /// The schema of a database like the one at the end of `connection`.
    pub(super) async fn of(connection: &Connection) -> Result<&'static Self, StoreError> {
        match connection {
            Connection::Postgres(_) => postgres::expected(),
            Connection::Sqlite(_) => sqlite::expected().await,
        }
    }

    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// The objects that the database has now.
pub(super) async fn present(connection: &mut Connection) -> Result<Vec<Present>, StoreError> {
    match connection {
        Connection::Postgres(_) => connection.rows(postgres::PRESENT, &[]).await,
        Connection::Sqlite(_) => connection.rows(sqlite::PRESENT, &[]).await,
    }
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the expected schema can't be read: {what}"))
}

fn versions(migrations: Vec<Migration>) -> Vec<(i64, Vec<u8>)> {
    let version = |migration: Migration| (migration.version, migration.checksum.into_owned());
    migrations.into_iter().map(version).collect()
}

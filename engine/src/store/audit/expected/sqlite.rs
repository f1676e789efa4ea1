//! The schema that the migrations make in SQLite, read from a database in memory.

use sqlx::{Connection as _, sqlite::SqliteConnection};
use tokio::sync::OnceCell;

use super::{Expected, Object, Reference, Table, Unique, corrupt, text};
use crate::store::{StoreError, migrations, sqlite};

/// The database's objects. What SQLite makes by itself for a table has no text.
pub(super) const PRESENT: &str = r"SELECT tbl_name AS 'table', type AS kind, name, sql AS definition, NULL AS fault
    FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
        AND name <> '_sqlx_migrations' ORDER BY tbl_name, type, name";

/// A column as `pragma_table_info` gives it.
#[derive(sqlx::FromRow)]
struct ColumnRow {
    name: String,
    is_not_null: bool,
    key_place: i64,
}

/// An index as `pragma_index_list` gives it.
#[derive(sqlx::FromRow)]
struct IndexRow {
    name: String,
    columns: String,
    sql: Option<String>,
}

/// The schema, made once.
pub(super) async fn expected() -> Result<&'static Expected, StoreError> {
    static EXPECTED: OnceCell<Expected> = OnceCell::const_new();
    EXPECTED.get_or_try_init(read).await
}

async fn read() -> Result<Expected, StoreError> {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await?;
    migrations::migrator(sqlite::own_migrations())
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|error| corrupt(&error.to_string()))?;
    let objects: Vec<(String, String, String, String)> = sqlx::query_as(
        r"SELECT tbl_name, type, name, sql FROM sqlite_schema
        WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name <> '_sqlx_migrations'",
    )
    .fetch_all(&mut connection)
    .await?;
    let mut tables = Vec::new();
    for (table, kind, _, sql) in &objects {
        if kind == "table" {
            tables.push(read_table(&mut connection, table, sql).await?);
        }
    }
    connection.close().await?;
    let object = |(table, kind, name, definition)| Object {
        table,
        kind,
        name,
        definition,
    };
    Ok(Expected {
        objects: objects.into_iter().map(object).collect(),
        tables,
        migrations: super::versions(sqlite::own_migrations()),
    })
}

async fn read_table(
    connection: &mut SqliteConnection,
    name: &str,
    sql: &str,
) -> Result<Table, StoreError> {
    let columns: Vec<ColumnRow> = sqlx::query_as(
        r#"SELECT name, "notnull" AS is_not_null, pk AS key_place FROM pragma_table_info($1)"#,
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await?;
    let references: Vec<(String, String, String)> =
        sqlx::query_as(r#"SELECT "from", "table", "to" FROM pragma_foreign_key_list($1)"#)
            .bind(name)
            .fetch_all(&mut *connection)
            .await?;
    let indexes: Vec<IndexRow> = sqlx::query_as(
        "SELECT list.name, (SELECT group_concat(info.name, ', ') FROM pragma_index_info(list.name) AS info) AS columns,
            (SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = list.name) AS sql
         FROM pragma_index_list($1) AS list WHERE list.\"unique\"",
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await?;
    let uniques = indexes.into_iter().map(|index| {
        let parts = index.sql.as_deref().and_then(text::index_parts);
        let (columns, only_where) = parts.unwrap_or((index.columns, None));
        Unique {
            name: index.name,
            columns,
            only_where,
        }
    });
    let reference = |(column, to_table, to_column)| Reference {
        column,
        to_table,
        to_column,
    };
    let mut primary_key: Vec<&ColumnRow> = columns
        .iter()
        .filter(|column| column.key_place > 0)
        .collect();
    primary_key.sort_unstable_by_key(|column| column.key_place);
    let names = |columns: &[&ColumnRow]| columns.iter().map(|column| column.name.clone()).collect();
    let not_null: Vec<&ColumnRow> = columns.iter().filter(|column| column.is_not_null).collect();
    Ok(Table {
        name: name.to_owned(),
        columns: columns.iter().map(|column| column.name.clone()).collect(),
        primary_key: names(&primary_key),
        not_null: names(&not_null),
        checks: text::checks(sql),
        references: references.into_iter().map(reference).collect(),
        uniques: uniques.collect(),
    })
}

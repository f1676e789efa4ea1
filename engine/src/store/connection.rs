//! One connection to either database, and the little that lets one function run on both.
//!
//! A statement is a text, the same for both where they agree ([`Sql`]); its values are bound by
//! position. A batch of rows ([`Value::Rows`]) goes as one array for each column to Postgres, for
//! UNNEST, and as one JSON array to SQLite, for `json_each`.

use sqlx::{
    Arguments as _, AssertSqlSafe, FromRow, Sqlite,
    error::BoxDynError,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{StoreError, postgres::Lease};

/// A statement's text.
#[derive(Clone, Copy)]
pub(super) struct Sql {
    /// In the words of Postgres.
    pub(super) postgres: &'static str,
    /// In the words of SQLite.
    pub(super) sqlite: &'static str,
}

impl From<&'static str> for Sql {
    fn from(both: &'static str) -> Self {
        Self {
            postgres: both,
            sqlite: both,
        }
    }
}

/// A value in the place of `$1`, `$2` and so on.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A number.
    Int(Option<i64>),
    /// A text.
    Text(Option<String>),
    /// Numbers: an array in Postgres, a JSON array in SQLite.
    Ints(Vec<i64>),
    /// Rows, by columns of the same length: an array for each column in Postgres, all in one JSON
    /// array of arrays in SQLite.
    Rows(Vec<Column>),
}

/// A column of a batch of rows.
#[derive(Clone, Debug)]
pub(super) enum Column {
    /// Numbers.
    Ints(Vec<i64>),
    /// Numbers, or nothing.
    OptionalInts(Vec<Option<i64>>),
    /// Names, or nothing.
    Names(Vec<Option<&'static str>>),
    /// Texts.
    Texts(Vec<String>),
    /// Texts, or nothing.
    OptionalTexts(Vec<Option<String>>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(Some(number))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(Some(number.into()))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Int(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

/// A row that both databases can give.
pub(super) trait Row:
    for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin
{
}
impl<T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin> Row for T {}

/// How the statements of a call belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// There is one statement, and it only reads.
    OneRead,
    /// There is one statement, which writes all that it writes or nothing.
    OneWrite,
    /// They only read, and see one state of the database.
    Snapshot,
    /// They write, all or none.
    Write,
}

impl Unit {
    /// Whether the one statement is a transaction by itself.
    pub(super) const fn is_one_statement(self) -> bool {
        matches!(self, Self::OneRead | Self::OneWrite)
    }

    /// Whether it writes.
    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::OneWrite | Self::Write)
    }
}

/// A connection on loan from its pool.
pub(super) enum Connection {
    /// To Postgres.
    Postgres(Lease),
    /// To SQLite.
    Sqlite(PoolConnection<Sqlite>),
}

impl Connection {
    /// The rows that the statement gives.
    pub(super) async fn rows<T: Row>(
        &mut self,
        sql: impl Into<Sql> + Send,
        values: &[Value],
    ) -> Result<Vec<T>, StoreError> {
        let sql = sql.into();
        let rows = match self {
            Self::Postgres(connection) => {
                let arguments = postgres_arguments(values).map_err(sqlx::Error::Encode)?;
                sqlx::query_as_with(sql.postgres, arguments)
                    .fetch_all(&mut **connection)
                    .await
            }
            Self::Sqlite(connection) => {
                let arguments = sqlite_arguments(values).map_err(sqlx::Error::Encode)?;
                sqlx::query_as_with(sql.sqlite, arguments)
                    .fetch_all(&mut **connection)
                    .await
            }
        };
        Ok(rows?)
    }

    /// The rows that a statement gives whose text is put together while the program runs. It may hold
    /// nothing that came from outside: there are no values to bind.
    pub(super) async fn composed_rows<T: Row>(
        &mut self,
        sql: String,
    ) -> Result<Vec<T>, StoreError> {
        let rows = match self {
            Self::Postgres(connection) => {
                sqlx::query_as(AssertSqlSafe(sql))
                    .fetch_all(&mut **connection)
                    .await
            }
            Self::Sqlite(connection) => {
                sqlx::query_as(AssertSqlSafe(sql))
                    .fetch_all(&mut **connection)
                    .await
            }
        };
        Ok(rows?)
    }

    /// The only row that the statement gives, or nothing.
    pub(super) async fn row<T: Row>(
        &mut self,
        sql: impl Into<Sql> + Send,
        values: &[Value],
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, values).await?.pop())
    }

    /// Runs the statement and tells how many rows it changed.
    pub(super) async fn execute(
        &mut self,
        sql: impl Into<Sql> + Send,
        values: &[Value],
    ) -> Result<u64, StoreError> {
        let sql = sql.into();
        Ok(match self {
            Self::Postgres(connection) => {
                let arguments = postgres_arguments(values).map_err(sqlx::Error::Encode)?;
                sqlx::query_with(sql.postgres, arguments)
                    .execute(&mut **connection)
                    .await?
                    .rows_affected()
            }
            Self::Sqlite(connection) => {
                let arguments = sqlite_arguments(values).map_err(sqlx::Error::Encode)?;
                sqlx::query_with(sql.sqlite, arguments)
                    .execute(&mut **connection)
                    .await?
                    .rows_affected()
            }
        })
    }

    /// Holds a lock by this name until the transaction is over. An SQLite transaction that writes
    /// excludes every other anyway.
    pub(super) async fn lock(&mut self, name: &str) -> Result<(), StoreError> {
        if matches!(self, Self::Postgres(_)) {
            self.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('minute-credit ' || $1, 0))",
                &[name.into()],
            )
            .await?;
        }
        Ok(())
    }

    /// Lets the statements of this transaction take as long as they need, and go through whole tables:
    /// the server else ends them when a call would be given up, and looks for rows by index only.
    pub(super) async fn allow_long_statements(&mut self) -> Result<(), StoreError> {
        if matches!(self, Self::Postgres(_)) {
            self.simple(
                "SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on;
                 SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
                 SET LOCAL enable_bitmapscan = on"
                    .into(),
            )
            .await?;
        }
        Ok(())
    }

    /// Begins what `unit` needs.
    pub(super) async fn begin(&mut self, unit: Unit) -> Result<(), StoreError> {
        let sql = match unit {
            Unit::OneRead | Unit::OneWrite => return Ok(()),
            Unit::Snapshot => Sql {
                postgres: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                sqlite: "BEGIN DEFERRED",
            },
            Unit::Write => Sql {
                postgres: "BEGIN ISOLATION LEVEL READ COMMITTED",
                sqlite: "BEGIN IMMEDIATE",
            },
        };
        self.simple(sql).await
    }

    /// Makes durable what was written.
    pub(super) async fn commit(&mut self, unit: Unit) -> Result<(), StoreError> {
        if unit.is_one_statement() {
            Ok(())
        } else {
            self.simple("COMMIT".into()).await
        }
    }

    /// Undoes what was written.
    pub(super) async fn roll_back(&mut self, unit: Unit) -> Result<(), StoreError> {
        if unit.is_one_statement() {
            Ok(())
        } else {
            self.simple("ROLLBACK".into()).await
        }
    }

    /// Cuts the connection off and forgets it, so that nobody gets it in an unknown state.
    pub(super) fn sever(self) {
        match self {
            Self::Postgres(connection) => drop(Lease::take(connection)),
            Self::Sqlite(connection) => drop(connection.detach()),
        }
    }

    async fn simple(&mut self, sql: Sql) -> Result<(), StoreError> {
        match self {
            Self::Postgres(connection) => {
                sqlx::raw_sql(sql.postgres)
                    .execute(&mut **connection)
                    .await?;
            }
            Self::Sqlite(connection) => {
                sqlx::raw_sql(sql.sqlite).execute(&mut **connection).await?;
            }
        }
        Ok(())
    }
}

/// Fails for a text with a NUL, which Postgres can't hold: it would give the connection an error. SQLite
/// could, and must not differ.
fn check_texts(values: &[Value]) -> Result<(), BoxDynError> {
    let has_nul = |text: &str| text.contains('\0');
    let is_wrong = values.iter().any(|value| match value {
        Value::Text(text) => text.as_deref().is_some_and(has_nul),
        Value::Rows(columns) => columns.iter().any(|column| match column {
            Column::Texts(texts) => texts.iter().any(|text| has_nul(text)),
            Column::OptionalTexts(texts) => texts.iter().flatten().any(|text| has_nul(text)),
            Column::Ints(_) | Column::OptionalInts(_) | Column::Names(_) => false,
        }),
        Value::Int(_) | Value::Ints(_) => false,
    });
    if is_wrong {
        return Err("a text has a NUL character".into());
    }
    Ok(())
}

fn postgres_arguments(values: &[Value]) -> Result<PgArguments, BoxDynError> {
    check_texts(values)?;
    let mut arguments = PgArguments::default();
    for value in values {
        match value {
            Value::Int(number) => arguments.add(*number)?,
            Value::Text(text) => arguments.add(text)?,
            Value::Ints(numbers) => arguments.add(numbers)?,
            Value::Rows(columns) => {
                for column in columns {
                    match column {
                        Column::Ints(numbers) => arguments.add(numbers)?,
                        Column::OptionalInts(numbers) => arguments.add(numbers)?,
                        Column::Names(names) => arguments.add(names)?,
                        Column::Texts(texts) => arguments.add(texts)?,
                        Column::OptionalTexts(texts) => arguments.add(texts)?,
                    }
                }
            }
        }
    }
    Ok(arguments)
}

fn sqlite_arguments(values: &[Value]) -> Result<SqliteArguments, BoxDynError> {
    check_texts(values)?;
    let mut arguments = SqliteArguments::default();
    for value in values {
        match value {
            Value::Int(number) => arguments.add(*number)?,
            Value::Text(text) => arguments.add(text.clone())?,
            Value::Ints(numbers) => arguments.add(serde_json::to_string(numbers)?)?,
            Value::Rows(columns) => arguments.add(serde_json::to_string(&rows_of(columns))?)?,
        }
    }
    Ok(arguments)
}

/// The rows that `columns` stand for.
fn rows_of(columns: &[Column]) -> Vec<Vec<serde_json::Value>> {
    let length = columns.first().map_or(0, Column::len);
    assert!(
        columns.iter().all(|column| column.len() == length),
        "the columns of a batch have one length"
    );
    (0..length)
        .map(|row| columns.iter().map(|column| column.cell(row)).collect())
        .collect()
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Ints(numbers) => numbers.len(),
            Self::OptionalInts(numbers) => numbers.len(),
            Self::Names(names) => names.len(),
            Self::Texts(texts) => texts.len(),
            Self::OptionalTexts(texts) => texts.len(),
        }
    }

    fn cell(&self, row: usize) -> serde_json::Value {
        match self {
            Self::Ints(numbers) => numbers.get(row).copied().into(),
            Self::OptionalInts(numbers) => numbers.get(row).copied().flatten().into(),
            Self::Names(names) => names.get(row).copied().flatten().into(),
            Self::Texts(texts) => texts.get(row).cloned().into(),
            Self::OptionalTexts(texts) => texts.get(row).cloned().flatten().into(),
        }
    }
}

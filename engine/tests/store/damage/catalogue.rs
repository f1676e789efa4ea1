//! A hand that writes to the database behind the program's back: it knows the tables from the database
//! itself, so that new columns are tried too.

use sqlx::{
    AssertSqlSafe, Connection as _, Row as _,
    postgres::PgConnection,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};

use crate::support::TestDatabase;
use engine::store::StoreLocation;

/// The values that columns with names for something have.
const NAMES: &[(&str, &[&str])] = &[
    (
        "end_reason",
        &["user", "depleted", "admin", "engine", "budget"],
    ),
    (
        "kind",
        &["signup_grant", "usage", "grant", "revoke", "refund", "gift"],
    ),
    ("operation", &["start", "stop", "pause"]),
    ("tariff_charged_at", &["start", "end", "never"]),
];

/// A table of ours.
#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
}

/// A column of a table.
#[derive(Debug)]
pub struct Column {
    pub name: String,
    kind: String,
    is_key: bool,
    is_postgres: bool,
}

/// A row of a table.
#[derive(Debug)]
pub struct Row {
    /// A condition that is true of it alone.
    pub key: String,
    /// Its values as texts, in the order of the columns; bytes in hexadecimal digits.
    pub values: Vec<Option<String>>,
}

/// A connection of somebody else's.
pub enum Behind {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Behind {
    pub async fn open(database: &TestDatabase) -> Self {
        match &database.settings.location {
            StoreLocation::Postgres(address) => {
                let mut connection = PgConnection::connect(address).await.unwrap();
                let sql = "SET session_replication_role = replica; SET synchronous_commit = off";
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
                Self::Postgres(connection)
            }
            StoreLocation::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .foreign_keys(false)
                    .pragma("ignore_check_constraints", "ON")
                    .pragma("synchronous", "OFF");
                Self::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
            }
        }
    }

    pub async fn execute(&mut self, sql: &str) {
        let done = self.run(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Whether the database took it.
    pub async fn try_execute(&mut self, sql: &str) -> bool {
        self.run(sql).await.is_ok()
    }

    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(connection) => sqlx::raw_sql(sql).execute(connection).await.map(drop),
            Self::Sqlite(connection) => sqlx::raw_sql(sql).execute(connection).await.map(drop),
        }
    }

    /// Rows of texts.
    async fn texts(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(connection) => {
                let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
                let texts = rows
                    .iter()
                    .map(|row| (0..row.len()).map(|at| row.get(at)).collect());
                texts.collect()
            }
            Self::Sqlite(connection) => {
                let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
                let texts = rows
                    .iter()
                    .map(|row| (0..row.len()).map(|at| row.get(at)).collect());
                texts.collect()
            }
        }
    }

    const fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// All tables but the migrator's.
    pub async fn tables(&mut self) -> Vec<Table> {
        let sql = if self.is_postgres() {
            "SELECT relname::TEXT, attname::TEXT, format_type(atttypid, NULL), (EXISTS (SELECT 1 FROM pg_index
                WHERE indrelid = attrelid AND indisprimary AND attnum = ANY(indkey)))::TEXT
             FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
             WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname <> '_sqlx_migrations'
             ORDER BY relname, attnum"
        } else {
            "SELECT t.name, c.name, lower(c.type), CASE WHEN c.pk > 0 THEN 'true' ELSE 'false' END
             FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
             WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name <> '_sqlx_migrations'
             ORDER BY t.name, c.cid"
        };
        let is_postgres = self.is_postgres();
        let mut tables: Vec<Table> = Vec::new();
        for row in self.texts(sql).await {
            let mut row = row.into_iter().flatten();
            let mut next = || row.next().unwrap();
            let (table, name, kind, is_key) = (next(), next(), next(), next() == "true");
            let column = Column {
                name,
                kind,
                is_key,
                is_postgres,
            };
            match tables.last_mut().filter(|last| last.name == table) {
                Some(last) => last.columns.push(column),
                None => tables.push(Table {
                    name: table,
                    columns: vec![column],
                }),
            }
        }
        tables
    }

    /// Takes away what would refuse a change.
    pub async fn loosen(&mut self, tables: &[Table]) {
        if self.is_postgres() {
            self.execute(
                "DO $$ DECLARE one RECORD; BEGIN
                    FOR one IN SELECT conrelid::regclass AS relation, conname FROM pg_constraint
                        WHERE connamespace = current_schema()::regnamespace AND conrelid <> '_sqlx_migrations'::regclass
                        ORDER BY contype = 'p'
                    LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.relation, one.conname); END LOOP;
                    FOR one IN SELECT indexrelid::regclass AS index FROM pg_index
                        JOIN pg_class ON pg_class.oid = indrelid
                        WHERE relnamespace = current_schema()::regnamespace AND relname <> '_sqlx_migrations'
                    LOOP EXECUTE format('DROP INDEX %s', one.index); END LOOP;
                    FOR one IN SELECT attrelid::regclass AS relation, attname, attidentity FROM pg_attribute
                        JOIN pg_class ON pg_class.oid = attrelid AND relkind = 'r'
                        WHERE relnamespace = current_schema()::regnamespace AND relname <> '_sqlx_migrations'
                            AND attnum > 0 AND attnotnull
                    LOOP
                        IF one.attidentity = '' THEN
                            EXECUTE format('ALTER TABLE %s ALTER %I DROP NOT NULL', one.relation, one.attname);
                        ELSE
                            EXECUTE format('ALTER TABLE %s ALTER %I SET GENERATED BY DEFAULT', one.relation, one.attname);
                        END IF;
                    END LOOP;
                 END $$",
            )
            .await;
            return;
        }
        for guard in self
            .texts("SELECT type, name FROM sqlite_schema WHERE type IN ('trigger', 'index') AND sql IS NOT NULL")
            .await
        {
            if let [Some(kind), Some(name)] = guard.as_slice() {
                self.execute(&format!("DROP {kind} {name}")).await;
            }
        }
        // INDEXED BY is no part of an audit, so the indexes may go.
        let names: Vec<String> = tables
            .iter()
            .map(|table| format!("'{}'", table.name))
            .collect();
        self.rewrite(&format!(
            "UPDATE sqlite_schema SET sql = replace(replace(replace(sql, 'IS NOT NULL', 'IS~NULL'), 'NOT NULL', ''),
                'IS~NULL', 'IS NOT NULL') WHERE name IN ({})",
            names.join(", ")
        ))
        .await;
    }

    /// Changes what the file says of its tables.
    async fn rewrite(&mut self, sql: &str) {
        let version = self
            .texts("SELECT CAST(schema_version AS TEXT) FROM pragma_schema_version")
            .await;
        let version: i64 = version[0][0].as_ref().unwrap().parse().unwrap();
        self.execute(&format!(
            "PRAGMA writable_schema = ON; {sql}; PRAGMA schema_version = {}; PRAGMA writable_schema = RESET",
            version + 1
        ))
        .await;
    }

    /// Keeps a copy of the table.
    pub async fn keep(&mut self, table: &Table) {
        let name = &table.name;
        self.execute(&format!(
            "CREATE TEMP TABLE kept_{name} AS SELECT * FROM {name}"
        ))
        .await;
    }

    /// Makes the table what it was.
    pub async fn restore(&mut self, table: &Table) {
        let name = &table.name;
        self.execute(&format!(
            "BEGIN; DELETE FROM {name}; INSERT INTO {name} SELECT * FROM kept_{name}; COMMIT"
        ))
        .await;
    }

    pub async fn rows(&mut self, table: &Table) -> Vec<Row> {
        let columns: Vec<String> = table.columns.iter().map(Column::as_text).collect();
        let sql = format!(
            "SELECT {} FROM {} ORDER BY 1, 2",
            columns.join(", "),
            table.name
        );
        let rows = self.texts(&sql).await;
        rows.into_iter()
            .map(|values| Row {
                key: table.key_of(&values),
                values,
            })
            .collect()
    }

    /// Statements that each take a guard away, with the name by which the audit is to tell it.
    pub async fn losses(&mut self) -> Vec<(String, String)> {
        let sql = if self.is_postgres() {
            // Whatever depends on something comes before it.
            "SELECT name, sql FROM (
                SELECT 1 AS turn, 'trigger ' || tgname AS name, format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname) AS sql
                FROM pg_trigger WHERE NOT tgisinternal
                UNION ALL SELECT 2, 'trigger ' || tgname, format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)
                FROM pg_trigger WHERE NOT tgisinternal
                UNION ALL SELECT CASE contype WHEN 'p' THEN 5 ELSE 3 END, 'constraint ' || conname,
                    format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
                FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND conrelid <> 0
                    AND conrelid <> to_regclass('_sqlx_migrations')
                UNION ALL SELECT 4, 'index ' || relname, format('DROP INDEX %s', indexrelid::regclass)
                FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                WHERE relnamespace = current_schema()::regnamespace
                    AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid)
                UNION ALL SELECT 6, 'column ' || attname, format('ALTER TABLE %s ALTER %I DROP NOT NULL', attrelid::regclass, attname)
                FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid AND relkind = 'r'
                WHERE relnamespace = current_schema()::regnamespace AND relname <> '_sqlx_migrations'
                    AND attnum > 0 AND attnotnull AND attidentity = ''
                UNION ALL SELECT 7, 'table ' || relname, format('ALTER TABLE %s SET UNLOGGED', oid::regclass)
                FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = 'wallet_notices'
                UNION ALL SELECT 8, 'function refuse_ledger_change',
                    'CREATE OR REPLACE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$'
                UNION ALL SELECT 9, 'trigger swallow', 'CREATE TRIGGER swallow BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change()'
                UNION ALL SELECT 9, 'rule swallow', 'CREATE RULE swallow AS ON INSERT TO ledger DO INSTEAD NOTHING'
                UNION ALL SELECT 9, 'index only_one', 'CREATE UNIQUE INDEX only_one ON sessions (user_id)'
             ) AS losses ORDER BY turn, name"
        } else {
            "SELECT type || ' ' || name, 'DROP ' || type || ' ' || name FROM sqlite_schema
             WHERE type IN ('trigger', 'index') AND sql IS NOT NULL
             UNION ALL SELECT 'table ' || name, 'ALTER TABLE ' || name || ' ADD COLUMN more INTEGER' FROM sqlite_schema
             WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name <> '_sqlx_migrations'
             UNION ALL SELECT 'trigger swallow', 'CREATE TRIGGER swallow BEFORE INSERT ON ledger BEGIN SELECT RAISE(IGNORE); END'
             UNION ALL SELECT 'index only_one', 'CREATE UNIQUE INDEX only_one ON sessions (user_id)'"
        };
        let losses = self.texts(sql).await;
        let loss = |row: Vec<Option<String>>| {
            let mut row = row.into_iter().flatten();
            (row.next().unwrap(), row.next().unwrap())
        };
        losses.into_iter().map(loss).collect()
    }
}

impl Table {
    /// A condition that is true of the row with these values alone.
    fn key_of(&self, values: &[Option<String>]) -> String {
        let parts: Vec<String> = self
            .columns
            .iter()
            .zip(values)
            .filter(|(column, _)| column.is_key)
            .map(|(column, value)| {
                format!("{} = {}", column.name, column.literal(value.as_deref()))
            })
            .collect();
        parts.join(" AND ")
    }

    /// A statement that doubles the row, under another key if the table has one number for a key.
    pub fn double(&self, row: &Row) -> String {
        let keys: Vec<&Column> = self.columns.iter().filter(|column| column.is_key).collect();
        let is_counted = matches!(keys.as_slice(), [key] if key.is_number());
        let name = &self.name;
        let values: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                if is_counted && column.is_key {
                    format!("(SELECT max({0}) + 1 FROM {name})", column.name)
                } else {
                    column.name.clone()
                }
            })
            .collect();
        format!(
            "INSERT INTO {name} SELECT {} FROM {name} WHERE {}",
            values.join(", "),
            row.key
        )
    }
}

impl Column {
    fn is_number(&self) -> bool {
        matches!(self.kind.as_str(), "integer" | "bigint") && !self.is_flag()
    }

    fn is_flag(&self) -> bool {
        self.kind == "boolean" || matches!(self.name.as_str(), "is_current" | "resumes")
    }

    fn is_bytes(&self) -> bool {
        matches!(self.kind.as_str(), "bytea" | "blob")
    }

    fn as_text(&self) -> String {
        let name = &self.name;
        match (self.is_bytes(), self.is_postgres) {
            (true, true) => format!("encode({name}, 'hex')"),
            (true, false) => format!("lower(hex({name}))"),
            (false, _) => format!("CAST({name} AS TEXT)"),
        }
    }

    /// The value in SQL.
    pub fn literal(&self, value: Option<&str>) -> String {
        let Some(value) = value else {
            return "NULL".to_owned();
        };
        if self.is_bytes() {
            return if self.is_postgres {
                format!("'\\x{value}'")
            } else {
                format!("x'{value}'")
            };
        }
        if self.is_number() || self.is_flag() {
            return value.to_owned();
        }
        format!("'{}'", value.replace('\'', "''"))
    }

    /// Plausible changes of a value, each with its name; `other` is a value of another row.
    pub fn changes(&self, old: Option<&str>, other: Option<&str>) -> Vec<(String, Option<String>)> {
        let mut changes: Vec<(String, Option<String>)> = Vec::new();
        let mut add = |name: &str, new: Option<String>| changes.push((name.to_owned(), new));
        add("NULL", Some("NULL".to_owned()));
        add(
            "another row's",
            other.map(|other| self.literal(Some(other))),
        );
        if self.is_flag() {
            let is_true = matches!(old, Some("true" | "1"));
            let flipped = if self.is_postgres {
                (!is_true).to_string()
            } else {
                i64::from(!is_true).to_string()
            };
            add("flipped", Some(flipped));
        } else if self.is_number() {
            let old = old.and_then(|old| old.parse::<i64>().ok());
            let number = |new: Option<i64>| new.map(|new| new.to_string());
            add("+1", number(old.map(|old| old + 1)));
            add("-1", number(old.map(|old| old - 1)));
            add("-5000", number(old.map(|old| old - 5_000)));
            add("negated", number(old.map(|old| -old)));
            add("0", number(Some(0)));
            add("1", number(Some(1)));
            add(
                "2^53",
                (self.kind == "bigint" || !self.is_postgres).then(|| "9007199254740992".to_owned()),
            );
            let years = 10 * 366 * 24 * 3_600_000;
            let later = old
                .filter(|old| *old > 1_000_000_000_000)
                .map(|old| old + years);
            add("ten years later", number(later));
            let earlier = old
                .filter(|old| *old > 1_000_000_000_000)
                .map(|old| old - years);
            add("ten years earlier", number(earlier));
        } else if self.is_bytes() {
            let shorter = old.and_then(|old| old.get(2..).map(|text| self.literal(Some(text))));
            add("truncated", shorter);
            let turned = old.map(|old| self.literal(Some(&old.chars().rev().collect::<String>())));
            add("turned round", turned);
        } else {
            self.text_changes(old, &mut add);
        }
        changes
    }

    fn text_changes(&self, old: Option<&str>, add: &mut impl FnMut(&str, Option<String>)) {
        let text = |new: &str| Some(self.literal(Some(new)));
        add("empty", text(""));
        add("nonsense", text("nonsense"));
        let truncated = old.and_then(|old| old.get(..old.len().saturating_sub(1)));
        add(
            "truncated",
            truncated.filter(|new| !new.is_empty()).and_then(text),
        );
        let swapped = old.map(|old| {
            let swap = |c: char| {
                if c.is_ascii_lowercase() {
                    c.to_ascii_uppercase()
                } else {
                    c.to_ascii_lowercase()
                }
            };
            old.chars().map(swap).collect::<String>()
        });
        add(
            "swapped case",
            swapped
                .filter(|new| Some(new.as_str()) != old)
                .and_then(|new| text(&new)),
        );
        let names = NAMES.iter().find(|(column, _)| *column == self.name);
        for name in names.map_or(&[][..], |(_, names)| names) {
            add(name, text(name));
        }
    }
}

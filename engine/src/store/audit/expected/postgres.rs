//! The schema that the migrations make in Postgres: a list that is compiled in.
//!
//! A test below compares it with what the migrations make, where `TEST_DATABASE_URL` names a server. After a
//! new migration, `UPDATE_SCHEMA=1 cargo test --workspace --lib audit::expected` writes it anew.

use std::sync::OnceLock;

use super::{Expected, Object, Reference, Table, Unique, corrupt, text};
use crate::store::{StoreError, postgres};

/// One object a line: table, kind, name and definition, separated by tabs.
const LIST: &str = include_str!("postgres_schema.txt");

/// The database's objects, and which of them do nothing.
pub(super) const PRESENT: &str = r#"WITH
    own AS (SELECT oid, relname, relkind, relpersistence, relrowsecurity FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND relname <> '_sqlx_migrations'),
    prefix AS (SELECT quote_ident(current_schema()) || '.' AS text)
    SELECT relname::TEXT AS "table", 'table' AS kind, relname::TEXT AS name, 'ordinary table' AS definition,
        CASE WHEN relkind <> 'r' THEN 'is partitioned'
            WHEN relpersistence <> 'p' THEN 'is unlogged: it is empty after a crash'
            WHEN relrowsecurity THEN 'hides rows by row-level security' END AS fault FROM own
    UNION ALL
    SELECT relname, 'column', attname, format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
        || CASE attidentity WHEN 'a' THEN ' IDENTITY' WHEN 'd' THEN ' IDENTITY BY DEFAULT' ELSE '' END
        || COALESCE((SELECT ' COLLATE "' || collname || '"' FROM pg_collation
            WHERE pg_collation.oid = attcollation AND collname <> 'default'), '')
        || COALESCE(' DEFAULT ' || pg_get_expr(adbin, adrelid), ''), NULL
    FROM own JOIN pg_attribute ON attrelid = own.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = own.oid AND adnum = attnum
    UNION ALL
    SELECT relname, 'constraint', conname, replace(pg_get_constraintdef(pg_constraint.oid), prefix.text, ''),
        CASE WHEN NOT convalidated THEN 'is not valid: rows from before it were never checked' END
    FROM own JOIN pg_constraint ON conrelid = own.oid AND contype IN ('c', 'f', 'p', 'u', 'x'), prefix
    UNION ALL
    SELECT own.relname, 'index', pg_class.relname, replace(pg_get_indexdef(indexrelid), prefix.text, ''),
        CASE WHEN NOT (indisvalid AND indisready AND indislive) THEN 'is not valid' END
    FROM own JOIN pg_index ON indrelid = own.oid JOIN pg_class ON pg_class.oid = indexrelid, prefix
    UNION ALL
    SELECT relname, 'trigger', CASE WHEN tgisinternal THEN (SELECT 'of constraint ' || conname::TEXT FROM pg_constraint
            WHERE pg_constraint.oid = tgconstraint) || ' ' || (SELECT proname::TEXT FROM pg_proc WHERE pg_proc.oid = tgfoid)
            ELSE tgname::TEXT END,
        CASE WHEN tgisinternal THEN 'internal' ELSE replace(pg_get_triggerdef(pg_trigger.oid), prefix.text, '') END,
        CASE tgenabled WHEN 'O' THEN NULL WHEN 'A' THEN NULL ELSE 'is disabled' END
    FROM own JOIN pg_trigger ON tgrelid = own.oid, prefix
    UNION ALL
    SELECT '', 'function', proname, pg_get_function_result(pg_proc.oid) || ' ' || prosrc, NULL FROM pg_proc
    WHERE pronamespace = current_schema()::regnamespace AND prokind = 'f'
    UNION ALL
    SELECT relname, 'rule', rulename, pg_get_ruledef(pg_rewrite.oid), NULL FROM own JOIN pg_rewrite ON ev_class = own.oid
"#;

/// The schema, read once.
pub(super) fn expected() -> Result<&'static Expected, StoreError> {
    static EXPECTED: OnceLock<Option<Expected>> = OnceLock::new();
    EXPECTED
        .get_or_init(read)
        .as_ref()
        .ok_or_else(|| corrupt("the list of Postgres's objects"))
}

fn read() -> Option<Expected> {
    let mut expected = Expected {
        migrations: super::versions(postgres::own_migrations()),
        ..Expected::default()
    };
    for line in LIST.lines() {
        let mut parts = line.split('\t');
        let mut next = || parts.next().map(text::unescaped);
        let object = Object {
            table: next()?,
            kind: next()?,
            name: next()?,
            definition: next()?,
        };
        expected.objects.push(object);
    }
    let tables = expected
        .objects
        .iter()
        .filter(|object| object.kind == "table");
    expected.tables = tables
        .map(|table| read_table(&table.name, &expected.objects))
        .collect::<Option<_>>()?;
    Some(expected)
}

fn read_table(name: &str, objects: &[Object]) -> Option<Table> {
    let mut table = Table {
        name: name.to_owned(),
        ..Table::default()
    };
    for object in objects.iter().filter(|object| object.table == name) {
        let definition = object.definition.as_str();
        match object.kind.as_str() {
            "column" => {
                table.columns.push(object.name.clone());
                if definition.contains(" NOT NULL") {
                    table.not_null.push(object.name.clone());
                }
            }
            "constraint" => take_constraint(definition, &mut table)?,
            "index" if definition.starts_with("CREATE UNIQUE INDEX ") => {
                let (columns, only_where) = text::index_parts(definition)?;
                table.uniques.push(Unique {
                    name: object.name.clone(),
                    columns,
                    only_where,
                });
            }
            _ => {}
        }
    }
    Some(table)
}

/// Takes what the constraint says. A unique one has an index that says it too.
fn take_constraint(definition: &str, table: &mut Table) -> Option<()> {
    if let Some(rest) = definition.strip_prefix("CHECK ") {
        let (condition, _) = text::parenthesised(rest)?;
        table.checks.push(condition.to_owned());
    } else if let Some(rest) = definition.strip_prefix("PRIMARY KEY ") {
        let (columns, _) = text::parenthesised(rest)?;
        table.primary_key = columns.split(", ").map(str::to_owned).collect();
    } else if let Some(rest) = definition.strip_prefix("FOREIGN KEY ") {
        let (column, rest) = text::parenthesised(rest)?;
        let rest = rest.trim_start().strip_prefix("REFERENCES ")?;
        let (to_table, rest) = rest.split_at_checked(rest.find('(')?)?;
        let (to_column, _) = text::parenthesised(rest)?;
        table.references.push(Reference {
            column: column.to_owned(),
            to_table: to_table.to_owned(),
            to_column: to_column.to_owned(),
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection as _, postgres::PgConnection};

    use super::{super::Present, *};
    use crate::store::migrations;

    #[tokio::test]
    async fn the_list_is_what_the_migrations_make() {
        let Ok(server) = std::env::var("TEST_DATABASE_URL") else {
            return;
        };
        let name = format!("expected_schema_{}", std::process::id());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        let execute = async |connection: &mut PgConnection, sql: String| {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(connection)
                .await
                .unwrap();
        };
        execute(&mut connection, format!("CREATE DATABASE {name}")).await;
        let made = made(&server, &name).await;
        execute(&mut connection, format!("DROP DATABASE {name}")).await;

        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            let file = "src/store/audit/expected/postgres_schema.txt";
            std::fs::write(format!("{}/{file}", env!("CARGO_MANIFEST_DIR")), made).unwrap();
            return;
        }
        assert!(read().is_some(), "the list can be read");
        for (line, listed) in made.lines().zip(LIST.lines()) {
            assert_eq!(
                line, listed,
                "a migration made it: write the list anew with UPDATE_SCHEMA=1"
            );
        }
        assert_eq!(made.lines().count(), LIST.lines().count());
    }

    /// The schema that the migrations make in a new database, as a list.
    async fn made(server: &str, name: &str) -> String {
        let (address, _) = server.rsplit_once('/').unwrap();
        let mut connection = PgConnection::connect(&format!("{address}/{name}"))
            .await
            .unwrap();
        migrations::migrator(postgres::own_migrations())
            .run_direct(None, &mut connection, false)
            .await
            .unwrap();
        let mut objects: Vec<Present> = sqlx::query_as(PRESENT)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        objects.sort_by(|one, other| {
            (&one.table, &one.kind, &one.name).cmp(&(&other.table, &other.kind, &other.name))
        });
        let line = |object: Present| {
            assert_eq!(object.fault, None, "{object:?}");
            let definition = text::escaped(&object.definition);
            format!(
                "{}\t{}\t{}\t{definition}\n",
                object.table, object.kind, object.name
            )
        };
        objects.into_iter().map(line).collect()
    }
}

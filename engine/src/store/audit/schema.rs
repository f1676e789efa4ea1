//! Whether the database still has what keeps its rows right: each table, column, constraint, index and
//! trigger as the migrations make it, valid and enabled.
//!
//! What is there besides is somebody's own, and allowed unless it can refuse or change what is written:
//! an index that isn't unique, a table or a function.

use std::collections::{BTreeSet, HashMap};

use super::{
    Findings, Place,
    expected::{self, Expected, Object, Present},
    laws,
};
use crate::store::{
    StoreError,
    connection::{Connection, Sql},
};

/// How many characters of a definition are told on each side of the first difference.
const SHOWN: usize = 60;

/// Checks the schema, and returns the names of what of it is lost.
pub(super) async fn check(
    connection: &mut Connection,
    expected: &Expected,
    findings: &mut Findings<'_>,
) -> Result<BTreeSet<String>, StoreError> {
    let present = expected::present(connection).await?;
    let lost = compare(expected, &present, findings);
    check_migrations(connection, expected, findings).await?;
    Ok(lost)
}

fn compare(
    expected: &Expected,
    present: &[Present],
    findings: &mut Findings<'_>,
) -> BTreeSet<String> {
    let mut lost = BTreeSet::new();
    let key = |object: &Present| {
        (
            object.table.clone(),
            object.kind.clone(),
            object.name.clone(),
        )
    };
    let mut rest: HashMap<_, &Present> =
        present.iter().map(|object| (key(object), object)).collect();
    for object in &expected.objects {
        let Object {
            table, kind, name, ..
        } = object;
        let found = rest.remove(&(table.clone(), kind.clone(), name.clone()));
        if let Some(what) = difference(object, found) {
            add(findings, table, kind, name, &what);
            lost.insert(name.clone());
        }
    }
    let mut rest: Vec<&Present> = rest.into_values().collect();
    rest.sort_unstable_by_key(|object| (&object.table, &object.kind, &object.name));
    for object in rest {
        let Present {
            table, kind, name, ..
        } = object;
        let is_of_ours = expected.table(table).is_some();
        if is_of_ours && is_meddling(object) {
            let what = format!(
                "is none that the migrations make, and may refuse or change what is written: {}",
                object.definition
            );
            add(findings, table, kind, name, &what);
        }
    }
    lost
}

fn add(findings: &mut Findings<'_>, table: &str, kind: &str, name: &str, what: &str) {
    let owner = if table.is_empty() { name } else { table };
    let law = laws::of_object(owner, name);
    let row = format!("{kind} {name}");
    findings.add(law, Place::new(owner, row), "schema", format!("it {what}"));
}

/// What is wrong with an object of ours.
fn difference(expected: &Object, found: Option<&Present>) -> Option<String> {
    let Some(found) = found else {
        return Some("is missing".to_owned());
    };
    if let Some(fault) = &found.fault {
        return Some(fault.clone());
    }
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (should_be, is) = (words(&expected.definition), words(&found.definition));
    if should_be == is {
        return None;
    }
    let same = should_be
        .chars()
        .zip(is.chars())
        .take_while(|(one, other)| one == other)
        .count();
    let shown = |text: &str| -> String {
        let from = same.saturating_sub(SHOWN);
        text.chars().skip(from).take(2 * SHOWN).collect()
    };
    Some(format!(
        "differs from what the migrations make: it says \"{}\" where they say \"{}\"",
        shown(&is),
        shown(&should_be)
    ))
}

/// Whether an object that isn't ours can refuse or change what we write.
fn is_meddling(object: &Present) -> bool {
    match object.kind.as_str() {
        "index" => object.definition.contains("UNIQUE INDEX"),
        "function" | "view" | "table" => false,
        "trigger" => object.definition != "internal",
        _ => true,
    }
}

/// What the migrator notes of the migrations.
#[derive(sqlx::FromRow)]
struct MigrationRow {
    version: i64,
    checksum: Vec<u8>,
    success: bool,
}

async fn check_migrations(
    connection: &mut Connection,
    expected: &Expected,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let sql: Sql =
        "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version".into();
    let rows: Vec<MigrationRow> = connection.rows(sql, &[]).await?;
    let mut add = |version: i64, what: &str| {
        let place = Place::new("_sqlx_migrations", version.to_string());
        findings.add(laws::TRUTH, place, "migrations", what.to_owned());
    };
    for row in &rows {
        let ours = expected
            .migrations
            .iter()
            .find(|(version, _)| *version == row.version);
        match ours {
            None => add(row.version, "the migration is none of this program's"),
            Some((_, checksum)) if *checksum != row.checksum => {
                add(row.version, "the migration was another one when it ran");
            }
            Some(_) if !row.success => add(row.version, "the migration has failed half-way"),
            Some(_) => {}
        }
    }
    for (version, _) in &expected.migrations {
        if !rows.iter().any(|row| row.version == *version) {
            add(*version, "the migration has not run");
        }
    }
    Ok(())
}

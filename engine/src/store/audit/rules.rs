//! What single rows must be like, and rows that refer to each other, as conditions that the database
//! looks for: those of the schema's own constraints, whether they are still there or not, and ours.
//!
//! A healthy table is gone through once: all its conditions are counted in one statement. Only where one
//! is broken are its rows looked for, and so many of them told at most; the others are counted.

mod list;

use std::collections::BTreeSet;

use schema::UserId;

use super::{
    Findings, Place,
    expected::{Expected, Table},
    laws,
};
use crate::store::{StoreError, connection::Connection};

pub(super) use list::Bounds;

/// How many rows are told for each rule; the others are counted.
const TOLD: usize = 100;

/// A condition on the rows of a table.
#[derive(Clone, Debug)]
struct RowRule {
    law: u8,
    /// True of a row that breaks the rule.
    broken: String,
    /// What is wrong, as an SQL text. Its value may be NULL: then `otherwise` is told.
    says: String,
    otherwise: String,
}

/// A question whose answer are rows that break a rule.
#[derive(Clone, Debug)]
struct Question {
    law: u8,
    table: String,
    name: String,
    /// Gives `place`, a text that tells which row; `holder`, the user's id or NULL; and `what`.
    sql: String,
}

/// A row that breaks a rule.
#[derive(sqlx::FromRow)]
struct Broken {
    place: Option<String>,
    holder: Option<i64>,
    what: Option<String>,
}

/// Which rows are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All.
    Everybody,
    /// The ledger entries of one user: what everything else is rebuilt from.
    Ledger(UserId),
}

/// Checks each row of each table by itself.
pub(super) async fn check_rows(
    connection: &mut Connection,
    expected: &Expected,
    bounds: Bounds,
    scope: Scope,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    for table in &expected.tables {
        let Some(holder) = scope.holder(table) else {
            continue;
        };
        let rules = rules_of(connection, table, bounds);
        let counts = count(connection, table, &rules, scope, &holder).await?;
        for (rule, count) in rules.iter().zip(counts).filter(|(_, count)| *count > 0) {
            let condition = format!("({}) AND {}", rule.broken, scope.condition(&holder));
            let says = format!("COALESCE({}, '{}')", rule.says, quoted(&rule.otherwise));
            let question = Question {
                law: rule.law,
                table: table.name.clone(),
                name: rule.otherwise.clone(),
                sql: format!(
                    "SELECT {} AS place, {holder} AS holder, {says} AS what FROM {} WHERE {condition}",
                    place_of(table),
                    table.name
                ),
            };
            tell(connection, &question, Some(count), findings).await?;
        }
    }
    Ok(())
}

/// Checks what rows say of each other: references, what must be unique, and counters.
pub(super) async fn check_relations(
    connection: &mut Connection,
    expected: &Expected,
    missing: &BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let mut questions = Vec::new();
    for table in &expected.tables {
        questions.extend(references(table));
        questions.extend(duplicates(table, missing));
    }
    questions.extend(list::relations(connection, expected));
    for question in &questions {
        tell(connection, question, None, findings).await?;
    }
    Ok(())
}

// --- asking ---

/// How many rows break each of the rules.
async fn count(
    connection: &mut Connection,
    table: &Table,
    rules: &[RowRule],
    scope: Scope,
    holder: &str,
) -> Result<Vec<u64>, StoreError> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let sums: Vec<String> = rules
        .iter()
        .map(|rule| {
            format!(
                "CAST(COALESCE(SUM(CASE WHEN {} THEN 1 ELSE 0 END), 0) AS TEXT)",
                rule.broken
            )
        })
        .collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        sums.join(" || ' ' || "),
        table.name,
        scope.condition(holder)
    );
    let rows: Vec<(String,)> = connection.composed_rows(sql).await?;
    let counts = rows.iter().flat_map(|(counts,)| counts.split(' '));
    counts
        .map(|count| {
            count
                .parse()
                .map_err(|_| StoreError::Corrupt(format!("a count of rows is {count:?}")))
        })
        .collect()
}

/// Tells the rows that answer the question, of which there are `count` if that is known.
async fn tell(
    connection: &mut Connection,
    question: &Question,
    count: Option<u64>,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    let Question {
        law,
        table,
        name,
        sql,
    } = question;
    let rows: Vec<Broken> = connection
        .composed_rows(format!("{sql} LIMIT {TOLD}"))
        .await?;
    let told = rows.len() as u64;
    for row in rows {
        let place = Place {
            table: table.clone(),
            row: row.place.unwrap_or_else(|| "without a key".to_owned()),
            user: row.holder.and_then(|user| UserId::new(user).ok()),
        };
        findings.add(*law, place, name, row.what.unwrap_or_else(|| name.clone()));
    }
    let count = match count {
        Some(count) => count,
        None if told < TOLD as u64 => told,
        None => {
            let sql = format!("SELECT CAST(count(*) AS BIGINT) FROM ({sql}) AS broken");
            let rows: Vec<(i64,)> = connection.composed_rows(sql).await?;
            rows.first().map_or(told, |(count,)| count.unsigned_abs())
        }
    };
    findings.add_further(*law, table, name, count.saturating_sub(told));
    Ok(())
}

// --- the schema's own constraints ---

fn rules_of(connection: &Connection, table: &Table, bounds: Bounds) -> Vec<RowRule> {
    let nulls = table.not_null.iter().map(|column| RowRule {
        law: laws::of_condition(&table.name, column),
        broken: format!("{column} IS NULL"),
        says: "NULL".to_owned(),
        otherwise: format!("{column} is NULL"),
    });
    let checks = table.checks.iter().map(|check| RowRule {
        law: laws::of_condition(&table.name, check),
        broken: format!("NOT ({check})"),
        says: told_values(table, check),
        otherwise: format!("it breaks CHECK ({check})"),
    });
    let own = list::row_rules(connection, &table.name, bounds);
    let is_there = |rule: &RowRule| !rule.broken.is_empty();
    nulls.chain(checks).chain(own).filter(is_there).collect()
}

/// An SQL text that tells what the columns of a condition hold.
fn told_values(table: &Table, condition: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: BTreeSet<&str> = condition.split(|c| !is_word(c)).collect();
    let secret = ["password", "fingerprint", "account_key"];
    let values = table
        .columns
        .iter()
        .filter(|column| words.contains(column.as_str()) && !secret.contains(&column.as_str()))
        .map(|column| format!("'{column} = ' || COALESCE(CAST({column} AS TEXT), 'NULL')"));
    let values: Vec<String> = values.collect();
    if values.is_empty() {
        return "NULL".to_owned();
    }
    format!(
        "{} || ', against CHECK ({})'",
        values.join(" || ', ' || "),
        quoted(condition)
    )
}

fn references(table: &Table) -> Vec<Question> {
    let question = |reference: &super::expected::Reference| {
        let (own, column) = (&table.name, &reference.column);
        let (other, key) = (&reference.to_table, &reference.to_column);
        let holder = holder_of(table).map_or("CAST(NULL AS BIGINT)".to_owned(), |column| {
            format!("referring.{column}")
        });
        let mut place = table.clone();
        for part in &mut place.primary_key {
            *part = format!("referring.{part}");
        }
        Question {
            law: laws::of_table(own),
            table: own.clone(),
            name: format!("{column} refers to nothing in {other}"),
            sql: format!(
                "SELECT {} AS place, {holder} AS holder,
                    '{column} is ' || referring.{column} || ', and {other} has no such row' AS what
                 FROM {own} AS referring LEFT JOIN {other} AS referred ON referred.{key} = referring.{column}
                 WHERE referring.{column} IS NOT NULL AND referred.{key} IS NULL",
                place_of(&place)
            ),
        }
    };
    table.references.iter().map(question).collect()
}

/// Questions for rows that are there twice, as far as an index is `missing` that would see to it.
fn duplicates(table: &Table, missing: &BTreeSet<String>) -> Vec<Question> {
    let is_missing = |name: &String| missing.contains(name) || missing.contains(&table.name);
    let question = |unique: &super::expected::Unique| {
        let (name, columns) = (&table.name, &unique.columns);
        let condition = unique.only_where.as_deref().unwrap_or("1 = 1");
        let parts: Vec<String> = split(columns)
            .iter()
            .map(|part| format!("COALESCE(CAST({part} AS TEXT), 'NULL')"))
            .collect();
        let not_null: Vec<String> = split(columns)
            .iter()
            .map(|part| format!("({part}) IS NOT NULL"))
            .collect();
        Question {
            law: laws::of_object(name, &unique.name),
            table: name.clone(),
            name: format!("there must be one row only for each ({columns})"),
            sql: format!(
                "SELECT {} AS place, CAST(NULL AS BIGINT) AS holder,
                    count(*) || ' rows have the same ({})' AS what
                 FROM {name} WHERE ({condition}) AND {} GROUP BY {columns} HAVING count(*) > 1",
                parts.join(" || '/' || "),
                quoted(columns),
                not_null.join(" AND "),
            ),
        }
    };
    table
        .uniques
        .iter()
        .filter(|unique| is_missing(&unique.name))
        .map(question)
        .collect()
}

/// The parts of a list, at the commas outside of parentheses.
fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_i32;
    for character in list.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

// --- naming rows ---

/// An SQL text that names a row of the table by its primary key.
fn place_of(table: &Table) -> String {
    let parts: Vec<String> = table
        .primary_key
        .iter()
        .map(|column| format!("COALESCE(CAST({column} AS TEXT), 'NULL')"))
        .collect();
    if parts.is_empty() {
        return "'(no key)'".to_owned();
    }
    parts.join(" || '/' || ")
}

/// The column that tells whose a row is.
fn holder_of(table: &Table) -> Option<&'static str> {
    if table.name == "users" {
        return Some("id");
    }
    table
        .columns
        .iter()
        .any(|column| column == "user_id")
        .then_some("user_id")
}

impl Scope {
    /// An SQL expression for the row's user, if the table is to be looked at.
    fn holder(self, table: &Table) -> Option<String> {
        let holder = holder_of(table);
        match self {
            Self::Everybody => {
                Some(holder.map_or("CAST(NULL AS BIGINT)".to_owned(), ToOwned::to_owned))
            }
            Self::Ledger(_) if table.name == "ledger" => holder.map(ToOwned::to_owned),
            Self::Ledger(_) => None,
        }
    }

    fn condition(self, holder: &str) -> String {
        match self {
            Self::Everybody => "1 = 1".to_owned(),
            Self::Ledger(user) => format!("{holder} = {user}"),
        }
    }
}

fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

//! How much damage the audit finds: every column of every table is changed in plausible ways, rows are
//! deleted and doubled, and what keeps the rows right is dropped. What goes unnoticed is listed below,
//! with the reason, and anything else that goes unnoticed fails the test.
//!
//! The database is loosened first, so that it takes what it would refuse: each change is found by its
//! rows alone, without the help of a constraint that is missing.

mod catalogue;
mod history;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use engine::store::audit::{AuditLimits, Violation};

use self::catalogue::{Behind, Column};
use crate::{
    on_both,
    support::{TestDatabase, at},
};

on_both! {
    changed_values_are_found
    lost_and_doubled_rows_are_found
    lost_guards_are_found
}

/// What may be changed without the audit's noticing: the column, the changes, and why.
const UNNOTICED: &[(&str, &[&str], &str)] = &[];

/// What may be deleted or doubled without the audit's noticing, and why.
const UNNOTICED_ROWS: &[(&str, &str, &str)] = &[];

/// The auditor's clock: some time after all that was recorded.
const NOW: i64 = 10_000_000;

/// What the audit finds wrong with rows.
async fn found(database: &TestDatabase) -> Vec<Violation> {
    let limits = AuditLimits {
        users: 1_000,
        rows: 10_000,
        now: at(NOW),
    };
    let page = database.store.audit(None, limits).await.unwrap();
    let mut violations = page.violations;
    violations.retain(|violation| violation.rule != "schema");
    violations
}

async fn changed_values_are_found(database: Arc<TestDatabase>) {
    history::make(&database).await;
    assert_eq!(database.violations().await, []);
    let mut behind = Behind::open(&database).await;
    let tables = behind.tables().await;
    behind.loosen(&tables).await;
    assert_eq!(
        found(&database).await,
        [],
        "an honest history, without its guards"
    );

    let (mut tried, mut unnoticed) = (0, BTreeSet::new());
    for table in &tables {
        behind.keep(table).await;
        let rows = behind.rows(table).await;
        for (place, column) in table.columns.iter().enumerate() {
            for (change, key) in changes(column, place, &rows) {
                let Some(new) = change.new else { continue };
                let sql = format!(
                    "UPDATE {} SET {} = {new} WHERE {key}",
                    table.name, column.name
                );
                if !behind.try_execute(&sql).await {
                    continue;
                }
                tried += 1;
                if found(&database).await.is_empty() {
                    unnoticed.insert((format!("{}.{}", table.name, column.name), change.name));
                }
                behind.restore(table).await;
            }
        }
    }
    assert_eq!(found(&database).await, [], "everything is as it was");
    let listed: BTreeSet<(String, String)> = UNNOTICED
        .iter()
        .flat_map(|(column, changes, _)| {
            changes
                .iter()
                .map(|change| ((*column).to_owned(), (*change).to_owned()))
        })
        .collect();
    let surprising: Vec<_> = unnoticed.difference(&listed).collect();
    println!("{} of {tried} changes go unnoticed", unnoticed.len());
    assert!(
        surprising.is_empty(),
        "unnoticed and not listed: {surprising:#?}"
    );
    assert!(tried > 700, "{tried}");
}

/// A change of a value.
struct Change {
    name: String,
    /// The new value in SQL; `None` if it would be the old one.
    new: Option<String>,
}

/// The changes of a column, each with the condition that names a row: up to three rows for each change,
/// of different values.
fn changes(column: &Column, place: usize, rows: &[catalogue::Row]) -> Vec<(Change, String)> {
    let values: BTreeSet<&Option<String>> = rows.iter().map(|row| &row.values[place]).collect();
    let mut tried: BTreeMap<String, u32> = BTreeMap::new();
    let mut changes = Vec::new();
    for row in rows {
        let old = &row.values[place];
        let other = values
            .iter()
            .find(|value| **value != old && value.is_some())
            .and_then(|value| (**value).clone());
        for (name, new) in column.changes(old.as_deref(), other.as_deref()) {
            let times = tried.entry(name.clone()).or_default();
            let new = new.filter(|new| column.literal(old.as_deref()) != *new);
            if new.is_none() || *times >= 3 {
                continue;
            }
            *times += 1;
            changes.push((Change { name, new }, row.key.clone()));
        }
    }
    changes
}

async fn lost_and_doubled_rows_are_found(database: Arc<TestDatabase>) {
    history::make(&database).await;
    let mut behind = Behind::open(&database).await;
    let tables = behind.tables().await;
    behind.loosen(&tables).await;
    let mut unnoticed = BTreeSet::new();
    for table in &tables {
        behind.keep(table).await;
        for row in behind.rows(table).await {
            let delete = format!("DELETE FROM {} WHERE {}", table.name, row.key);
            let double = table.double(&row);
            for (what, sql) in [("deleted", delete), ("doubled", double)] {
                if !behind.try_execute(&sql).await {
                    continue;
                }
                if found(&database).await.is_empty() {
                    unnoticed.insert((table.name.clone(), what, row.key.clone()));
                }
                behind.restore(table).await;
            }
        }
    }
    let is_listed = |(table, what, _): &(String, &str, String)| {
        UNNOTICED_ROWS
            .iter()
            .any(|(listed, change, _)| listed == table && change == what)
    };
    let surprising: Vec<_> = unnoticed.iter().filter(|row| !is_listed(row)).collect();
    assert!(
        surprising.is_empty(),
        "unnoticed and not listed: {surprising:#?}"
    );
}

/// Each guard is lost in turn, and the audit names it.
async fn lost_guards_are_found(database: Arc<TestDatabase>) {
    assert_eq!(database.violations().await, []);
    let mut behind = Behind::open(&database).await;
    for (name, sql) in behind.losses().await {
        behind.execute(&sql).await;
        let violations = database.violations().await;
        let is_named = violations
            .iter()
            .any(|violation| violation.place.row == name);
        assert!(is_named, "{sql}: {name} is not among {violations:#?}");
    }
}

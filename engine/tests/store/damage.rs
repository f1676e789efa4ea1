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
    support::{Kind, TestDatabase, at},
};

on_both! {
    changed_values_are_found
    lost_and_doubled_rows_are_found
    lost_guards_are_found
}

/// What may be changed without the audit's noticing: the column, the changes, and why.
#[rustfmt::skip]
const UNNOTICED: &[(&str, &[&str], &str)] = &[
    ("id_blocks.next", &["+1", "-1", "2^53"], "ids may be left out, and the last block need not be used up"),
    ("idempotency_keys.created_at", &["+1", "another row's"], "a key is kept some time after its fact"),
    ("idempotency_keys.fingerprint", &["another row's", "turned round"], "the request itself is not recorded"),
    ("idempotency_keys.key", &["nonsense", "swapped case", "truncated"], "the client's own words"),
    ("ledger.idempotency_key", &["swapped case", "truncated"], "the operator's own words"),
    ("ledger.operator", &["swapped case", "truncated"], "the operator's own words"),
    ("ledger.reason", &["swapped case", "truncated"], "the operator's own words"),
    ("ledger.recorded_at",
        &["+1", "-1", "-5000", "0", "1", "2^53", "NULL", "another row's", "ten years earlier", "ten years later"],
        "some clock's, for people to read: nothing follows from it"),
    ("node_lanes.last_instant", &["+1", "-1", "-5000", "0", "1", "another row's", "ten years earlier"],
        "the run was alive past it anyway"),
    ("node_lanes.lane", &["+1", "1"], "the run's process finds no such lane, and stops"),
    ("node_runs.alive_at", &["+1", "-1", "-5000"], "no session was served across that instant"),
    ("node_runs.last_instant", &["+1", "-1", "-5000", "0", "1", "another row's", "ten years earlier"],
        "the run was alive past it anyway"),
    ("node_runs.lead_ms", &["+1", "1", "2^53", "another row's"], "what a clock was off: only a warning follows from it"),
    ("node_runs.process", &["another row's", "empty"], "drawn by chance; a run from before the column has none"),
    ("node_runs.resumes", &["another row's", "flipped"], "the run found no session live"),
    ("node_runs.started_at", &["+1", "-1", "-5000", "0", "1", "ten years earlier"], "no session was served across that instant"),
    ("revoked_tokens.expires_at", &["+1", "-1", "-5000", "ten years earlier"], "the token itself is not recorded"),
    ("revoked_tokens.user_id", &["+1", "-1", "1", "NULL", "another row's"], "the token itself is not recorded"),
    ("session_pauses.reason", &["nonsense", "swapped case", "truncated"], "words, and any will do"),
    ("sessions.end_reason", &["admin", "another row's", "engine", "user"], "they cost the same at that instant"),
    ("sessions.node", &["another row's"], "the other node was alive then too"),
    ("sessions.slot", &["+1", "1", "2^53"], "each of a user's slots is as good as another"),
    ("sessions.tariff_interval_ms", &["+1", "-1"], "the session costs the same by it"),
    ("sessions.wallet_version", &["NULL"], "the user's first sessions may be from before the column"),
    ("users.closing_at", &["+1", "-1", "-5000", "0", "1", "NULL", "another row's", "negated", "ten years earlier"],
        "only whether there is one counts, and an erasure may be begun and cancelled at any time"),
    ("users.created_at", &["+1", "-1", "-5000", "0", "1", "another row's", "ten years earlier"],
        "some clock's, for people to read: nothing follows from it"),
    ("users.email", &["swapped case", "truncated"], "the user's own words"),
    ("users.erased_at", &["-1", "-5000"], "some clock's: an erasure takes a while"),
    ("users.kept_token", &["NULL"], "the token kept may have been voided since"),
    ("users.password", &["NULL"], "a user need not have one"),
    ("users.token_generation", &["+1", "1", "2^53", "another row's"], "tokens may be voided at any time"),
    ("users.updated_at", &["+1", "another row's"], "passwords and tokens change at any time"),
    ("wallet_notices.created_at", &["+1", "-1", "-5000", "0", "1", "another row's", "ten years earlier"],
        "a notice is read by its number, and only deleted by its age"),
    ("wallet_notices.id", &["-1", "-5000", "0", "negated"], "numbers may be left out"),
    ("wallet_notices.user_id", &["+1", "-1", "1", "another row's"], "whoever is named has the wallet read once more"),
];

/// What may be deleted or doubled without the audit's noticing, and why.
const UNNOTICED_ROWS: &[(&str, &str, &str)] = &[
    (
        "idempotency_keys",
        "deleted",
        "a key is forgotten after a day, and no other row tells of it",
    ),
    (
        "node_lanes",
        "deleted",
        "the run's process finds no such lane, and stops; the run was alive past it anyway",
    ),
    (
        "revoked_tokens",
        "deleted",
        "it goes when the token has ended, and no other row tells of it",
    ),
    (
        "wallet_notices",
        "deleted",
        "it goes after an hour, and a missed one is made up for by versions",
    ),
    (
        "wallet_notices",
        "doubled",
        "a second notice has the wallet read once more",
    ),
];

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
            // An audit takes longer there, and finds the same.
            let times = match database.kind() {
                Kind::Sqlite => 3,
                Kind::Postgres => 1,
            };
            for (change, key) in changes(column, place, &rows, times) {
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
    assert!(tried > 500, "{tried}");
}

/// A change of a value.
struct Change {
    name: String,
    /// The new value in SQL; `None` if it would be the old one.
    new: Option<String>,
}

/// The changes of a column, each with the condition that names a row: as many `times` at most.
fn changes(
    column: &Column,
    place: usize,
    rows: &[catalogue::Row],
    times_max: u32,
) -> Vec<(Change, String)> {
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
            if new.is_none() || *times >= times_max {
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

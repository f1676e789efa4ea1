//! Backups of the embedded database, and what a restored database skips, voids and shuts out.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use engine::{
    facts::{Fact, NodeRun},
    store::{self, BackupError, Database, Resumption, StoreError, StoreLocation, TokenGeneration},
};
use schema::{UserId, ledger::LedgerEntry};

use crate::{
    on_both,
    support::{
        self, Kind, TestDatabase, at, begin_run, opening, path_of, settlement, within_a_minute,
        without_keys,
    },
};

on_both! {
    no_id_is_given_twice
    an_empty_database_skips_too
    all_tokens_are_void
    a_process_from_before_may_write_no_more
    live_sessions_go_on_after_it
    ids_that_no_client_could_read_are_refused
}

async fn skip(database: &TestDatabase, ids: u32, now: i64) -> Resumption {
    let database = Database::open(&database.settings).await.unwrap();
    let skipped = database.skip_ahead(ids, at(now), within_a_minute()).await;
    skipped.unwrap()
}

/// The latest entry of the user's wallet.
async fn latest_entry(database: &TestDatabase, user: UserId) -> LedgerEntry {
    let mut entries = database.store.ledger(user, None, 1).await.unwrap();
    entries.remove(0)
}

async fn no_id_is_given_twice(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let entry = latest_entry(&database, user).await;
    let block = database.store.take_session_ids(1_000).await.unwrap();

    let resumption = skip(&database, 5_000, 10_000).await;
    assert!(resumption.session_ids_from.get() >= block.end + 5_000);
    assert!(resumption.user_ids_from.get() > user.get() + 5_000);

    let next = database.store.take_session_ids(10).await.unwrap();
    assert!(next.start >= resumption.session_ids_from.get(), "{next:?}");
    let newcomer = database.user(100).await;
    assert!(newcomer >= resumption.user_ids_from, "{newcomer}");
    let newer = latest_entry(&database, newcomer).await;
    assert!(newer.entry_id.get() > entry.entry_id.get() + 5_000);

    let again = skip(&database, 1, 20_000).await;
    assert!(again.session_ids_from.get() > next.end);
    assert!(again.user_ids_from > newcomer);
    assert!(database.violations().await.is_empty());
}

async fn an_empty_database_skips_too(database: Arc<TestDatabase>) {
    let resumption = skip(&database, 5_000, 0).await;
    assert_eq!(resumption.users, 0);
    assert!(database.store.take_session_ids(1).await.unwrap().start > 5_000);
    assert!(database.user(1).await.get() > 5_000);
}

async fn all_tokens_are_void(database: Arc<TestDatabase>) {
    let (first, second) = (database.user(1).await, database.user(1).await);
    assert_eq!(skip(&database, 5_000, 10_000).await.users, 2);
    // However often a password was changed since the backup.
    for user in [first, second] {
        let standing = database.store.token_standing(user, at(0)).await;
        let standing = standing.unwrap().unwrap();
        assert_eq!(standing.generation, TokenGeneration::new(5_000));
        assert_eq!(standing.kept, None);
    }
}

async fn a_process_from_before_may_write_no_more(database: Arc<TestDatabase>) {
    let runs = [database.run("one").await, database.run("two").await];
    let user = database.user(100).await;
    skip(&database, 1, 10_000).await;
    for run in runs {
        let fact = Fact::Opening(opening(user, 1, 7, 10_001));
        let facts = without_keys(&[fact]);
        let refused = database.store.record(&run, None, &facts).await;
        assert!(
            matches!(refused, Err(StoreError::Superseded)),
            "{refused:?}"
        );
    }
    assert!(database.violations().await.is_empty());
}

async fn live_sessions_go_on_after_it(database: Arc<TestDatabase>) {
    let before = database.run("one").await;
    let user = database.user(100).await;
    let fact = Fact::Opening(opening(user, 1, 7, 1_000));
    database.must_record(&before, 13_000, &[fact]).await;

    skip(&database, 1, 40_000).await;
    let run = begin_run(&database.store, "one", 45_000).await;
    assert_eq!(
        served(&database, &run).await,
        [(at(0), at(13_000)), (at(13_001), at(13_001))],
        "the command's own clock raises no node's"
    );
    // Two intervals before the backup, and half of one; the other half of it after.
    let paid = settlement(user, 2, 7, 1, 3, 18_000, 51_000);
    database
        .must_record(&run, 51_000, &[Fact::Settlement(paid)])
        .await;
    assert!(database.violations().await.is_empty());
}

/// When the runs before `run` served, by their starts and ends.
async fn served(
    database: &TestDatabase,
    run: &NodeRun,
) -> Vec<(schema::UnixMillis, schema::UnixMillis)> {
    let runs = database.store.earlier_runs(run, at(0)).await.unwrap();
    runs.iter().map(|run| (run.from, run.to)).collect()
}

async fn ids_that_no_client_could_read_are_refused(database: Arc<TestDatabase>) {
    database
        .execute("INSERT INTO id_blocks (name, next) VALUES ('sessions', 9007199254740000)")
        .await
        .unwrap();
    let database = Database::open(&database.settings).await.unwrap();
    let refused = database.skip_ahead(1_000, at(0), within_a_minute()).await;
    assert!(
        matches!(refused, Err(StoreError::Corrupt(_))),
        "{refused:?}"
    );
}

// --- backups ---

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_state_of_a_database_in_use() {
    support::with_database(Kind::Sqlite, |database| async move {
        let folder = tempfile::tempdir().unwrap();
        let run = database.run("one").await;
        let user = database.user(100).await;
        // What stands in the write-ahead log alone is in it too.
        let fact = Fact::Opening(opening(user, 1, 7, 1_000));
        database.must_record(&run, 2_000, &[fact]).await;

        let to = folder.path().join("backup.db");
        store::back_up(&database.settings, &to).await.unwrap();
        database.user(5).await;

        assert_eq!(
            fs::metadata(&to).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        let settings = support::settings(StoreLocation::Sqlite(to.clone()));
        let copy = Database::open(&settings).await.unwrap();
        let store: &dyn store::Store = &copy;
        assert_eq!(store.count_users().await.unwrap(), 1);
        let live = store.live_wallets(&run.node, None, 10).await.unwrap();
        assert_eq!(live.len(), 1);

        let again = store::back_up(&database.settings, &to).await;
        assert!(matches!(again, Err(BackupError::Exists(_))), "{again:?}");
        let nowhere = folder.path().join("absent").join("backup.db");
        let nowhere = store::back_up(&database.settings, &nowhere).await;
        assert!(
            matches!(nowhere, Err(BackupError::File { .. })),
            "{nowhere:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_no_database_leaves_nothing() {
    support::with_database(Kind::Sqlite, |database| async move {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("text"),
            "no database, whatever it is called",
        )
        .unwrap();
        let settings = support::settings(StoreLocation::Sqlite(folder.path().join("text")));
        let refused = store::back_up(&settings, &folder.path().join("copy")).await;
        assert!(matches!(refused, Err(BackupError::Store(_))), "{refused:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(path_of(&database.settings.location).exists());
    })
    .await;
}

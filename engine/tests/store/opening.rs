//! Opening a database: migrations, and what is refused; and what a broken connection leaves behind.

use std::{path::PathBuf, sync::Arc, time::Duration};

use engine::{
    facts::{Fact, FactOutcome},
    store::{self, CreateUserError, NewUser, StoreError, StoreLocation, StoreSettings},
};
use sqlx::{
    Connection as _,
    postgres::PgConnection,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use tempfile::TempDir;

use crate::{
    on_both,
    relay::{Cut, Relay},
    support::{self, Kind, TestDatabase, at, begin_run, credits, opening, version},
};

on_both! {
    migrations_run_once
    a_newer_schema_is_refused
    a_migration_of_others_is_refused
    a_call_that_times_out_leaves_nothing_behind
    a_closed_store_says_so
}

async fn migrations_run_once(database: Arc<TestDatabase>) {
    let user = database.user(100).await;
    let again = database.another().await;
    assert_eq!(
        again.user(user).await.unwrap().unwrap().credits,
        credits(100)
    );
    again.ping().await.unwrap();
    again.close().await;
    assert_eq!(
        database
            .number("SELECT max(version) - count(*) FROM _sqlx_migrations")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_together_migrate_once() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let folder = tempfile::tempdir().unwrap();
        let Some(location) = support::new_location(kind, &folder).await else {
            continue;
        };
        let settings = support::settings(location.clone());
        let opens = (0..8).map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { store::open(&settings).await.unwrap().close().await })
        });
        for open in opens.collect::<Vec<_>>() {
            open.await.unwrap();
        }
        support::drop_database(&location).await;
    }
}

/// Why the database can't be opened, in words.
async fn refusal(settings: &StoreSettings) -> String {
    match store::open(settings).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

async fn a_newer_schema_is_refused(database: Arc<TestDatabase>) {
    database
        .execute_either(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'the future', TRUE, '\\x00', 0)",
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'the future', TRUE, x'00', 0)",
        )
        .await;
    let refusal = refusal(&database.settings).await;
    assert!(
        refusal.contains("version 9999, made by a newer program"),
        "{refusal}"
    );
}

async fn a_migration_of_others_is_refused(database: Arc<TestDatabase>) {
    database
        .execute_either(
            "UPDATE _sqlx_migrations SET checksum = '\\x00'",
            "UPDATE _sqlx_migrations SET checksum = x'00'",
        )
        .await;
    let refusal = refusal(&database.settings).await;
    assert!(refusal.contains("belongs to another program"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_others_is_refused_and_left_alone() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let folder = tempfile::tempdir().unwrap();
        let Some(location) = support::new_location(kind, &folder).await else {
            continue;
        };
        support::execute(&location, "CREATE TABLE users (id INTEGER PRIMARY KEY)")
            .await
            .unwrap();
        let refusal = refusal(&support::settings(location.clone())).await;
        assert!(refusal.contains("another program made them"), "{refusal}");
        assert!(
            support::execute(&location, "SELECT * FROM _sqlx_migrations")
                .await
                .is_err()
        );
        support::drop_database(&location).await;
    }
}

#[tokio::test]
async fn a_file_that_can_not_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    std::fs::write(
        &file,
        "no database, but some text that is long enough to be mistaken for one",
    )
    .unwrap();
    let open = async |path: PathBuf| {
        store::open(&support::settings(StoreLocation::Sqlite(path)))
            .await
            .err()
            .unwrap()
    };

    let inside_file = open(file.join("folder").join("data.sqlite")).await;
    assert!(
        matches!(&inside_file, StoreError::File { path, .. } if *path == file.join("folder")),
        "{inside_file}"
    );
    let a_folder = open(folder.path().to_owned()).await;
    assert!(
        matches!(&a_folder, StoreError::File { path, .. } if path == folder.path()),
        "{a_folder}"
    );
    let no_database = open(file).await;
    assert!(
        no_database.to_string().contains("not an SQLite database"),
        "{no_database}"
    );
}

#[tokio::test]
async fn a_new_file_is_its_owners_only() {
    let folder = tempfile::tempdir().unwrap();
    let location = support::new_location(Kind::Sqlite, &folder).await.unwrap();
    store::open(&support::settings(location.clone()))
        .await
        .unwrap()
        .close()
        .await;
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(support::path_of(&location))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let location = StoreLocation::Postgres(format!("postgres://nobody@{free}/nothing"));
    let error = store::open(&support::settings(location))
        .await
        .err()
        .unwrap();
    assert!(error.is_transient(), "{error}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let location = StoreLocation::Postgres(format!(
        "postgres://nobody@{}/nothing",
        silent.local_addr().unwrap()
    ));
    let settings = StoreSettings {
        connect_timeout: Duration::from_millis(200),
        ..support::settings(location)
    };
    let error = store::open(&settings).await.err().unwrap();
    assert!(error.is_transient(), "{error}");
}

/// Wherever a server falls silent while a store is opened, the opening ends; and so do the program's
/// first questions.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_given_up() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let Some(location) = support::new_location(Kind::Postgres, &folder).await else {
        return;
    };
    let opened = store::open(&support::settings(location.clone())).await;
    opened.unwrap().close().await;
    let node = support::node("a");
    let mut heard = 0;
    for answers in 0.. {
        let (relay, through) = Relay::before(&location).await;
        relay.set_cut(Cut::Silence { answers });
        let patience = Duration::from_millis(300);
        let settings = StoreSettings {
            connect_timeout: patience,
            call_timeout: patience,
            ..support::settings(through)
        };
        let using = async {
            assert!(store::exists(&settings).await?);
            let store = store::open(&settings).await?;
            let asked = store.node_time(&node).await;
            store.close().await;
            asked
        };
        let used = tokio::time::timeout(Duration::from_secs(20), using).await;
        match used.unwrap_or_else(|_| panic!("waits on after {answers} answers")) {
            Ok(_) => break,
            Err(error) => assert!(error.is_transient(), "after {answers} answers: {error}"),
        }
        heard = answers;
    }
    assert!(heard > 10, "{heard}");
    support::drop_database(&location).await;
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let Some(location) = support::new_location(Kind::Postgres, &folder).await else {
        return;
    };
    support::drop_database(&location).await;
    let error = store::open(&support::settings(location))
        .await
        .err()
        .unwrap();
    assert!(error.is_transient(), "{error}");
    assert!(format!("{error:?}").contains("3D000"), "{error:?}");
}

/// A server that takes no writes just now is waited for, like one that is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_unavailable() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let (run, user) = (database.run("a").await, database.user(100).await);
        let set = async |value: &str| {
            database
                .execute(&format!(
                    "DO $$ BEGIN EXECUTE format(
                        'ALTER DATABASE %I SET default_transaction_read_only = {value}', current_database());
                    END $$"
                ))
                .await
        };
        // It connects when it is first used: read-only.
        let later = database.another().await;
        set("on").await.unwrap();
        let fact = Fact::Opening(opening(user, 1, 1, 10));
        let error = later.record(&run, Some(at(10)), &[fact.into()]).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(later.user(user).await.unwrap().unwrap().credits, credits(100));
        let error = store::open(&database.settings).await.err().unwrap();
        assert!(error.is_transient(), "{error}");
    })
    .await;
}

/// Somebody else holds what the call needs, for longer than the call may take.
async fn a_call_that_times_out_leaves_nothing_behind(database: Arc<TestDatabase>) {
    let (run, user) = (database.run("a").await, database.user(100).await);
    let settings = StoreSettings {
        call_timeout: Duration::from_millis(300),
        ..database.settings.clone()
    };
    let hasty = store::open(&settings).await.unwrap();
    let fact = Fact::Opening(opening(user, 1, 1, 10));
    let hold = format!("SELECT id FROM users WHERE id = {user} FOR UPDATE");
    let timed_out = match &database.settings.location {
        StoreLocation::Postgres(address) => {
            let mut holder = PgConnection::connect(address).await.unwrap();
            sqlx::raw_sql("BEGIN").execute(&mut holder).await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(hold))
                .execute(&mut holder)
                .await
                .unwrap();
            let result = hasty.record(&run, Some(at(10)), &[fact.into()]).await;
            holder.close().await.unwrap();
            result
        }
        StoreLocation::Sqlite(path) => {
            let mut holder =
                SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path))
                    .await
                    .unwrap();
            sqlx::raw_sql("BEGIN IMMEDIATE")
                .execute(&mut holder)
                .await
                .unwrap();
            let result = hasty.record(&run, Some(at(10)), &[fact.into()]).await;
            holder.close().await.unwrap();
            result
        }
    };
    assert!(
        matches!(timed_out, Err(StoreError::TimedOut(_))),
        "{timed_out:?}"
    );

    // The same store goes on, on a new connection, and the same fact is recorded once.
    loop {
        match hasty.record(&run, Some(at(10)), &[fact.into()]).await {
            Ok(outcomes) => break assert_eq!(outcomes, [FactOutcome::Recorded]),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    let wallet = database.wallet(user).await;
    assert_eq!((wallet.version, wallet.live.len()), (version(2), 1));
    let next = begin_run(&hasty, "a", 20).await;
    assert_eq!(next.epoch, 2);
    assert_eq!(database.violations().await, []);
    hasty.close().await;
}

async fn a_closed_store_says_so(database: Arc<TestDatabase>) {
    let store = database.another().await;
    store.close().await;
    assert!(store.ping().await.unwrap_err().is_transient());
}

/// The server ends every connection, as it does when it is restarted.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_ended_are_replaced() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let run = database.run("a").await;
        for n in 1..=5 {
            database
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )
                .await
                .unwrap();
            loop {
                match database.store.record(&run, Some(at(n)), &[]).await {
                    Ok(_) => break,
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
            }
        }
        assert_eq!(database.proved_by("a").await, Some(at(5)));
    })
    .await;
}

/// What is recorded in a file that was moved or deleted is lost: it is not acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_takes_nothing_more() {
    let check =
        async |what: &str, harm: fn(&std::path::Path), remedy: Option<fn(&std::path::Path)>| {
            let folder = tempfile::tempdir().unwrap();
            let location = support::new_location(Kind::Sqlite, &folder).await.unwrap();
            let path = support::path_of(&location);
            let settings = support::settings(location);
            let store = store::open(&settings).await.unwrap();
            let database = TestDatabase {
                store: Arc::clone(&store),
                settings,
            };
            let (run, user) = (database.run("a").await, database.user(100).await);
            let record = async |id: i64| {
                let fact = Fact::Opening(opening(user, id, id, 10));
                store.record(&run, Some(at(10)), &[fact.into()]).await
            };
            harm(&path);
            let error = record(1).await.unwrap_err();
            assert!(error.is_transient(), "{what}: {error:?}");
            let text = format!("{error:?}");
            assert!(text.contains("FileGone"), "{what}: {text}");
            if let Some(remedy) = remedy {
                assert!(store.ping().await.is_err(), "{what}");
                remedy(&path);
                store.ping().await.unwrap();
                assert_eq!(record(1).await.unwrap(), [FactOutcome::Recorded], "{what}");
            }
            store.close().await;
        };
    check(
        "moved",
        |path| std::fs::rename(path, path.with_extension("other")).unwrap(),
        Some(|path| std::fs::rename(path.with_extension("other"), path).unwrap()),
    )
    .await;
    check("deleted", |path| std::fs::remove_file(path).unwrap(), None).await;
    check(
        "replaced",
        |path| {
            std::fs::copy(path, path.with_extension("other")).unwrap();
            std::fs::rename(path.with_extension("other"), path).unwrap();
        },
        None,
    )
    .await;
    check(
        "its folder moved",
        |path| {
            let folder = path.parent().unwrap();
            std::fs::rename(folder, folder.with_extension("other")).unwrap();
        },
        Some(|path| {
            let folder = path.parent().unwrap();
            std::fs::rename(folder.with_extension("other"), folder).unwrap();
        }),
    )
    .await;
    check(
        "its log deleted",
        |path| {
            let mut log = path.as_os_str().to_owned();
            log.push("-wal");
            std::fs::remove_file(log).unwrap();
        },
        None,
    )
    .await;
}

/// A sequence that is behind its table, as after a restore of the data alone, is no taken email.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_behind_its_table_is_named() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let run = database.run("a").await;
        let users = [database.user(100).await, database.user(100).await];
        let new = |email: &str| NewUser {
            email: email.to_owned(),
            password_hash: None,
            grant: support::credits(100),
            created_at: at(0),
        };
        for (table, key) in [("users", "users_pkey"), ("ledger", "ledger_pkey")] {
            database
                .execute(&format!(
                    "ALTER TABLE users ALTER COLUMN id RESTART WITH 1000;
                     ALTER TABLE {table} ALTER COLUMN id RESTART WITH 1"
                ))
                .await
                .unwrap();
            let error = database.store.create_user(new(table)).await.err().unwrap();
            let CreateUserError::Store(error) = error else {
                panic!("{error}");
            };
            assert!(
                error.is_transient() && error.to_string().contains(key),
                "{error}"
            );
        }
        // No settlement is at fault for it either.
        database
            .execute("ALTER TABLE ledger ALTER COLUMN id RESTART WITH 1")
            .await
            .unwrap();
        database
            .must_record(&run, 10, &[Fact::Opening(opening(users[0], 1, 1, 0))])
            .await;
        let settled = Fact::Settlement(support::settlement(users[0], 2, 1, 1, 1, 6_000, 6_000));
        let error = database
            .store
            .record(&run, None, &[settled.into()])
            .await
            .unwrap_err();
        assert!(
            error.is_transient() && error.to_string().contains("ledger_pkey"),
            "{error}"
        );
        // Each attempt takes the sequence further, past the table at last.
        loop {
            match database.store.record(&run, None, &[settled.into()]).await {
                Ok(outcomes) => break assert_eq!(outcomes, [FactOutcome::Recorded]),
                Err(error) => assert!(error.to_string().contains("ledger_pkey"), "{error}"),
            }
        }
        let taken = database.store.create_user(new("USERS")).await.err();
        assert!(taken.is_none(), "nobody got that email");
        let taken = database
            .store
            .create_user(new("users"))
            .await
            .err()
            .unwrap();
        assert!(matches!(taken, CreateUserError::EmailTaken), "{taken}");
    })
    .await;
}

/// Nothing that a stranger can send costs a connection.
#[tokio::test(flavor = "multi_thread")]
async fn texts_that_no_column_can_take_cost_no_connection() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let settings = StoreSettings {
            connections_max: 1,
            ..database.settings.clone()
        };
        let store = store::open(&settings).await.unwrap();
        store.ping().await.unwrap();
        let own = "SELECT min(pid)::BIGINT FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'minute-credit'
                AND query = 'SELECT 1::BIGINT'";
        let before = database.number(own).await;
        for email in ["\0", "a@b\0.c", "\0a@b.c"] {
            assert!(store.user_by_email(email).await.unwrap().is_none());
            let user = NewUser {
                email: email.to_owned(),
                password_hash: None,
                grant: support::credits(1),
                created_at: at(0),
            };
            let error = store.create_user(user).await.err().unwrap();
            let CreateUserError::Store(StoreError::Refused(_)) = error else {
                panic!("{error:?}");
            };
            assert!(store.is_token_revoked(email).await.is_err());
        }
        store.ping().await.unwrap();
        assert_eq!(
            database.number(own).await,
            before,
            "it is the same connection"
        );
        store.close().await;
    })
    .await;
}

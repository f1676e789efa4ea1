//! What is said of a database that can't do it now, and of writes whose outcome is not known.

use std::sync::Arc;

use engine::{
    facts::{Fact, FactOutcome, NodeRun},
    store::{
        self, AdjustError, Adjustment, CreateUserError, EraseError, Erasure, NewPassword, NewUser,
        RevokedToken, Shortfall, Store, StoreError, StoreLocation, StoreSettings,
    },
};
use schema::{CreditsChange, UserId, ledger::EntryKind};

use crate::{
    relay::{Cut, Relay},
    support::{self, Kind, TestDatabase, at, credits, opening},
};

fn adjustment(user: UserId, key: &str) -> Adjustment {
    Adjustment {
        user,
        kind: EntryKind::Grant,
        amount: CreditsChange::incoming(credits(5)),
        session: None,
        shortfall: Shortfall::Refuse,
        at: at(20),
        reason: "for the test".to_owned(),
        operator: "test".to_owned(),
        idempotency_key: key.to_owned(),
    }
}

fn new_user(email: &str) -> NewUser {
    NewUser {
        email: email.to_owned(),
        password_hash: None,
        grant: credits(100),
        created_at: at(0),
    }
}

/// Every write that a caller waits for, and what of it went wrong.
async fn every_write(
    store: &Arc<dyn Store>,
    run: &NodeRun,
    user: UserId,
    name: &str,
) -> Vec<(&'static str, Option<StoreError>)> {
    let fact = Fact::Opening(opening(user, 1, 1, 10));
    let password = NewPassword {
        user,
        hash: format!("hash of {name}"),
        decided_in: None,
        kept_token: None,
        at: at(30),
    };
    let token = RevokedToken {
        token_id: name.to_owned(),
        expires_at: at(1_000_000),
    };
    let other = store.user_by_email("gone@example.org").await.unwrap();
    let erasure = Erasure {
        user: other.unwrap().id,
        decided_in: None,
        operator: "test".to_owned(),
        at: at(40),
    };
    let of_adjust = |error| match error {
        AdjustError::Store(error) => error,
        other => panic!("{other}"),
    };
    let of_create = |error| match error {
        CreateUserError::Store(error) => error,
        CreateUserError::EmailTaken => panic!("nobody has it"),
    };
    let of_erase = |error| match error {
        EraseError::Store(error) => error,
        other => panic!("{other}"),
    };
    let email = format!("{name}@example.org");
    vec![
        (
            "record",
            store.record(run, Some(at(10)), &[fact.into()]).await.err(),
        ),
        (
            "adjust",
            store
                .adjust(adjustment(user, name))
                .await
                .err()
                .map(of_adjust),
        ),
        (
            "sign up",
            store
                .create_user(new_user(&email))
                .await
                .err()
                .map(of_create),
        ),
        (
            "log out",
            store.revoke_token(user, token, at(30)).await.err(),
        ),
        (
            "log out everywhere",
            store.void_tokens(user, at(30)).await.err(),
        ),
        ("set a password", store.set_password(password).await.err()),
        ("erase", store.erase_user(erasure).await.err().map(of_erase)),
    ]
}

/// How many of the writes named `name` are done.
async fn done(database: &TestDatabase, user: UserId, name: &str) -> i64 {
    let sql = format!(
        "SELECT (SELECT count(*) FROM sessions WHERE user_id = {user})
            + (SELECT count(*) FROM ledger WHERE idempotency_key = '{name}')
            + (SELECT count(*) FROM users WHERE email = '{name}@example.org')
            + (SELECT count(*) FROM revoked_tokens WHERE token_id = '{name}')
            + (SELECT token_generation FROM users WHERE id = {user})
            + (SELECT count(*) FROM users WHERE erased_at IS NOT NULL)"
    );
    database.number(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_unknown_from_its_commit_on_and_not_done_before() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let (run, user) = (database.run("a").await, database.user(100).await);
        let gone = database.store.create_user(new_user("gone@example.org"));
        gone.await.unwrap();
        let (relay, location) = Relay::before(&database.settings.location).await;
        let settings = StoreSettings {
            location,
            ..database.settings.clone()
        };
        let store = store::open(&settings).await.unwrap();

        let check = async |cut: Cut, name: &str, is_unknown: bool, expected: i64| {
            relay.set_cut(cut);
            for (write, error) in every_write(&store, &run, user, name).await {
                let error = error.unwrap();
                assert!(error.is_transient(), "{cut:?}, {write}: {error:?}");
                // One statement is its own commit.
                let is_unknown = is_unknown || write == "record";
                assert_eq!(
                    error.is_outcome_unknown(),
                    is_unknown,
                    "{cut:?}, {write}: {error:?}"
                );
            }
            assert_eq!(done(&database, user, name).await, expected, "{cut:?}");
        };
        check(Cut::AtBegin, "begun", false, 0).await;
        check(Cut::BeforeCommit, "before", true, 0).await;
        // The password and the log-out everywhere each begin a generation.
        check(Cut::AfterCommit, "after", true, 7).await;

        // The same fact once more reads what became of it.
        relay.set_cut(Cut::Nowhere);
        let fact = Fact::Opening(opening(user, 1, 1, 10));
        let outcomes = store
            .record(&run, Some(at(10)), &[fact.into()])
            .await
            .unwrap();
        assert_eq!(outcomes, [FactOutcome::Recorded]);
        store.close().await;
    })
    .await;
}

/// Whatever somebody does to the server or the database: nothing can be recorded, and no fact is at
/// fault for it.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_the_database_no_fact_is_refused() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let (run, user) = (database.run("a").await, database.user(100).await);
        let StoreLocation::Postgres(address) = &database.settings.location else {
            panic!("it is Postgres");
        };
        let (place, name) = address.rsplit_once('@').unwrap().1.split_once('/').unwrap();
        let role = format!("role_of_{name}");
        let grant = format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret'; GRANT CREATE ON DATABASE {name} TO {role};
             GRANT ALL ON SCHEMA public TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
             GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
        );
        database.execute(&grant).await.unwrap();
        let location = StoreLocation::Postgres(format!("postgres://{role}:secret@{place}/{name}"));
        let settings = StoreSettings {
            location,
            connect_timeout: std::time::Duration::from_secs(2),
            ..database.settings.clone()
        };
        let store = store::open(&settings).await.unwrap();
        let cut = format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{role}'"
        );
        let check = async |code: &str, harm: &str, remedy: &str| {
            database.execute(&harm.replace('%', &role)).await.unwrap();
            database.execute(&cut).await.unwrap();
            let fact = Fact::Opening(opening(user, 1, 1, 10));
            // What was open may say first that it was ended.
            let mut last = String::new();
            for _ in 0..10 {
                let error = store
                    .record(&run, Some(at(10)), &[fact.into()])
                    .await
                    .unwrap_err();
                assert!(error.is_transient(), "{code}: {error:?}");
                last = format!("{error:?}");
                if last.contains(code) {
                    break;
                }
            }
            assert!(last.contains(code), "{code}: {last}");
            database.execute(&remedy.replace('%', &role)).await.unwrap();
        };
        check(
            "28P01",
            "ALTER ROLE % PASSWORD 'other'",
            "ALTER ROLE % PASSWORD 'secret'",
        )
        .await;
        check("28000", "ALTER ROLE % NOLOGIN", "ALTER ROLE % LOGIN").await;
        // What facts are recorded under, and what tells that the node is alive.
        for table in ["node_lanes", "node_runs"] {
            let harms = [
                (
                    "42501",
                    "REVOKE ALL ON {table} FROM %",
                    "GRANT ALL ON {table} TO %",
                ),
                (
                    "42P01",
                    "ALTER TABLE {table} RENAME TO lost",
                    "ALTER TABLE lost RENAME TO {table}",
                ),
                (
                    "42703",
                    "ALTER TABLE {table} RENAME COLUMN epoch TO lost",
                    "ALTER TABLE {table} RENAME COLUMN lost TO epoch",
                ),
                (
                    "P0001",
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0001'; END $$;
                     CREATE TRIGGER refuse BEFORE UPDATE ON {table} EXECUTE FUNCTION refuse()",
                    "DROP FUNCTION refuse CASCADE",
                ),
            ];
            for (code, harm, remedy) in harms {
                let of_table = |sql: &str| sql.replace("{table}", table);
                check(code, &of_table(harm), &of_table(remedy)).await;
            }
        }
        check(
            "25006",
            "ALTER ROLE % SET default_transaction_read_only = on",
            "ALTER ROLE % RESET default_transaction_read_only",
        )
        .await;
        let fact = Fact::Opening(opening(user, 1, 1, 10));
        let recorded = loop {
            match store.record(&run, Some(at(10)), &[fact.into()]).await {
                Ok(outcomes) => break outcomes,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        };
        assert_eq!(recorded, [FactOutcome::Recorded]);
        store.close().await;
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        database.execute(&drop).await.unwrap();
    })
    .await;
}

/// Two transactions that wait for each other: the server ends one, which is made again and never told.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_nobodys_failure() {
    support::with_database(Kind::Postgres, |database: Arc<TestDatabase>| async move {
        let (run, user) = (database.run("a").await, database.user(100).await);
        // Another program locks the wallet first and the lane second; the journal does it the other way.
        let other = {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                for _ in 0..2 {
                    let sql = format!(
                        "BEGIN; SET LOCAL deadlock_timeout = '10s';
                         SELECT 1 FROM users WHERE id = {user} FOR UPDATE;
                         SELECT pg_sleep(0.2); SELECT 1 FROM node_lanes FOR UPDATE; COMMIT"
                    );
                    database.execute(&sql).await.unwrap();
                }
            })
        };
        let mut n = 0;
        while !other.is_finished() {
            n += 1;
            let fact = if n == 1 {
                Fact::Opening(opening(user, 1, 1, 10))
            } else {
                Fact::Settlement(support::settlement(user, n, 1, n - 1, 0, 0, 9 + n))
            };
            let recorded = database
                .store
                .record(&run, Some(at(9 + n)), &[fact.into()])
                .await;
            assert_eq!(recorded.unwrap(), [FactOutcome::Recorded]);
        }
        other.await.unwrap();
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        while database.number(deadlocks).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
}

//! Users.

use std::sync::Arc;

use engine::store::{CreateUserError, NewUser, TokenGeneration, audit::AuditLimits};
use schema::{UnixMillis, UserId};

use crate::{
    on_both,
    support::{TestDatabase, at, credits, version},
};

on_both! {
    signing_up_grants_credits
    emails_are_unique_whatever_their_case
    fixture_users_are_whole
    users_are_listed_in_pages
}

fn new_user(email: &str, grant: i64) -> NewUser {
    NewUser {
        email: email.to_owned(),
        password_hash: Some("$argon2id$x".to_owned()),
        grant: credits(grant),
        created_at: at(7),
    }
}

async fn signing_up_grants_credits(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = store
        .create_user(new_user("Ann@Example.org", 100))
        .await
        .unwrap();
    assert_eq!(
        (user.email.as_str(), user.credits, user.created_at),
        ("Ann@Example.org", credits(100), at(7))
    );

    let found = store
        .user_by_email("aNN@eXAMPLE.ORG")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.id, found.email.as_str()),
        (user.id, "Ann@Example.org")
    );
    assert_eq!(found.password_hash.as_deref(), Some("$argon2id$x"));
    assert_eq!(found.token_generation, TokenGeneration::new(0));
    assert!(
        store
            .user_by_email("ann@example.com")
            .await
            .unwrap()
            .is_none()
    );

    let entries = store.ledger(user.id, None, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (entries[0].kind.as_str(), entries[0].amount.get()),
        ("signup_grant", 100)
    );
    assert_eq!(
        (entries[0].at, entries[0].balance_after),
        (at(7), credits(100))
    );

    let wallet = database.wallet(user.id).await;
    assert_eq!(
        (wallet.version, wallet.credits, wallet.last_instant),
        (version(1), credits(100), UnixMillis::EPOCH),
        "before the first run no instant is proved"
    );
    assert_eq!(wallet.changes.len(), 1);

    let poor = store
        .create_user(new_user("poor@example.org", 0))
        .await
        .unwrap();
    assert!(store.ledger(poor.id, None, 10).await.unwrap().is_empty());
    assert_eq!(database.wallet(poor.id).await.version, version(0));

    let nobody = UserId::new(poor.id.get() + 1_000).unwrap();
    assert!(store.user(nobody).await.unwrap().is_none());
    assert!(store.wallet(nobody, version(0)).await.unwrap().is_none());
    assert_eq!(database.violations().await, []);
}

async fn emails_are_unique_whatever_their_case(database: Arc<TestDatabase>) {
    let signups = (0..20).map(|n| {
        let store = Arc::clone(&database.store);
        let email = if n % 2 == 0 {
            "bob@example.org"
        } else {
            "BOB@Example.ORG"
        };
        tokio::spawn(async move { store.create_user(new_user(email, 100)).await })
    });
    let mut created = 0;
    for signup in signups.collect::<Vec<_>>() {
        match signup.await.unwrap() {
            Ok(_) => created += 1,
            Err(CreateUserError::EmailTaken) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(created, 1);
    assert_eq!(database.number("SELECT count(*) FROM users").await, 1);
    assert_eq!(database.number("SELECT count(*) FROM ledger").await, 1);

    // Only ASCII letters have two cases here, in both databases.
    database
        .store
        .create_user(new_user("Ärger@example.org", 1))
        .await
        .unwrap();
    database
        .store
        .create_user(new_user("ärger@example.org", 1))
        .await
        .unwrap();
}

async fn fixture_users_are_whole(database: Arc<TestDatabase>) {
    let store = &database.store;
    let first = store
        .create_fixture_users(7_001, credits(50), at(3))
        .await
        .unwrap();
    let second = store
        .create_fixture_users(2, credits(0), at(3))
        .await
        .unwrap();
    assert_eq!((first.len(), second.len()), (7_001, 2));
    assert_eq!(
        database
            .number("SELECT count(*) FROM users WHERE credits = 50")
            .await,
        7_001
    );
    assert_eq!(database.number("SELECT count(*) FROM ledger").await, 7_001);
    let user = store.user(first[7_000]).await.unwrap().unwrap();
    assert!(
        user.email.starts_with("fixture-") && user.email.ends_with("@example.invalid"),
        "{}",
        user.email
    );
    let limits = AuditLimits {
        users: 10_000,
        rows: 20_000,
        now: at(0),
    };
    let page = store.audit(None, limits).await.unwrap();
    assert_eq!((page.users, page.violations), (7_003, Vec::new()));
    assert_eq!(page.moved.held(), 7_001 * 50);
    assert_eq!(store.count_users().await.unwrap(), 7_003);
}

async fn users_are_listed_in_pages(database: Arc<TestDatabase>) {
    let mut users = database
        .store
        .create_fixture_users(5, credits(1), at(0))
        .await
        .unwrap();
    users.sort_unstable();
    let ids = |page: Vec<engine::store::UserRecord>| {
        page.into_iter().map(|user| user.id).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(database.store.users(None, 3).await.unwrap()),
        users[..3]
    );
    assert_eq!(
        ids(database.store.users(Some(users[2]), 3).await.unwrap()),
        users[3..]
    );
    assert_eq!(
        ids(database.store.users(Some(users[4]), 3).await.unwrap()),
        []
    );
}

//! Passwords, and which tokens are valid.

use std::sync::Arc;

use engine::store::{NewPassword, RevokedToken, TokenGeneration, TokenStanding};
use schema::UserId;

use crate::{
    on_both,
    support::{TestDatabase, at, credits, version},
};

on_both! {
    a_new_password_voids_all_tokens_but_the_one_kept
    of_two_new_passwords_decided_from_one_state_one_wins
    all_tokens_are_voided_at_once
    revoked_tokens_are_remembered_until_they_expire
    nobody_has_no_tokens
    an_account_has_a_key_of_its_own
}

fn password(user: UserId, hash: &str, decided_in: Option<i64>, kept: Option<&str>) -> NewPassword {
    NewPassword {
        user,
        hash: hash.to_owned(),
        decided_in: decided_in.map(TokenGeneration::new),
        kept_token: kept.map(ToOwned::to_owned),
        at: at(500),
    }
}

/// The generation, and the token that is kept.
fn standing(generation: i64, kept: Option<&str>) -> (TokenGeneration, Option<String>) {
    (
        TokenGeneration::new(generation),
        kept.map(ToOwned::to_owned),
    )
}

/// The same of a standing in which nothing is revoked.
fn told(found: TokenStanding) -> (TokenGeneration, Option<String>) {
    assert_eq!(found.revoked, []);
    (found.generation, found.kept)
}

/// Whom notices were left for.
async fn noticed(database: &TestDatabase) -> Vec<UserId> {
    let notices = database.store.notices(None, 100).await.unwrap();
    notices.iter().map(|notice| notice.user).collect()
}

async fn a_new_password_voids_all_tokens_but_the_one_kept(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = database.user(10).await;
    let now = async || told(store.token_standing(user, at(50)).await.unwrap().unwrap());
    assert_eq!(now().await, standing(0, None));
    assert_eq!(store.latest_notice().await.unwrap(), 0);

    let first = password(user, "$argon2id$first", Some(0), Some("kept"));
    assert!(store.set_password(first).await.unwrap());
    assert_eq!(now().await, standing(1, Some("kept")));
    let record = store.user(user).await.unwrap().unwrap();
    assert_eq!(record.password_hash.as_deref(), Some("$argon2id$first"));
    assert_eq!(record.token_generation, TokenGeneration::new(1));
    assert_eq!(noticed(&database).await, [user]);
    // It is no write to the wallet.
    assert_eq!(database.wallet(user).await.version, version(1));

    let second = password(user, "$argon2id$second", None, None);
    assert!(store.set_password(second).await.unwrap());
    assert_eq!(now().await, standing(2, None));
    assert_eq!(noticed(&database).await, [user, user]);
}

async fn of_two_new_passwords_decided_from_one_state_one_wins(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = database.user(10).await;
    let changes = ["$argon2id$a", "$argon2id$b", "$argon2id$c", "$argon2id$d"].map(|hash| {
        let store = Arc::clone(store);
        let change = password(user, hash, Some(0), Some(hash));
        tokio::spawn(async move { (hash, store.set_password(change).await.unwrap()) })
    });
    let mut winners = Vec::new();
    for change in changes {
        winners.extend(Some(change.await.unwrap()).filter(|(_, won)| *won));
    }
    assert_eq!(winners.len(), 1);
    let kept = store.token_standing(user, at(50)).await.unwrap().unwrap();
    assert_eq!(told(kept), standing(1, Some(winners[0].0)));
    let record = store.user(user).await.unwrap().unwrap();
    assert_eq!(record.password_hash.as_deref(), Some(winners[0].0));
    assert_eq!(noticed(&database).await.len(), 1);
}

async fn all_tokens_are_voided_at_once(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (user, other) = (database.user(10).await, database.user(10).await);
    let kept = password(user, "$argon2id$x", None, Some("kept"));
    assert!(store.set_password(kept).await.unwrap());
    assert!(store.void_tokens(user, at(600)).await.unwrap());
    let now = async |user| told(store.token_standing(user, at(50)).await.unwrap().unwrap());
    assert_eq!(now(user).await, standing(2, None));
    assert_eq!(now(other).await, standing(0, None));
    assert_eq!(noticed(&database).await, [user, user]);
}

async fn revoked_tokens_are_remembered_until_they_expire(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (user, other) = (database.user(10).await, database.user(10).await);
    let token = |id: &str, expires_at| RevokedToken {
        token_id: id.to_owned(),
        expires_at: at(expires_at),
    };
    for (user, revoked) in [
        (user, token("a", 100)),
        (user, token("b", 200)),
        (user, token("a", 100)),
        (other, token("c", 300)),
    ] {
        store.revoke_token(user, revoked, at(50)).await.unwrap();
    }
    let revoked = async |user| {
        store
            .token_standing(user, at(50))
            .await
            .unwrap()
            .unwrap()
            .revoked
    };
    assert_eq!(revoked(user).await, [token("a", 100), token("b", 200)]);
    assert_eq!(revoked(other).await, [token("c", 300)]);
    assert_eq!(noticed(&database).await, [user, user, user, other]);
    // Of an old one nobody knows whose it was.
    let old = "INSERT INTO revoked_tokens (token_id, expires_at) VALUES ('old', 1700000000400)";
    database.execute(old).await.unwrap();
    assert_eq!(revoked(other).await, [token("c", 300), token("old", 400)]);

    let nobody = UserId::new(other.get() + 1_000).unwrap();
    let asked = [other, nobody, user, other];
    let all = store.token_standings(&asked, at(50));
    let revoked_of = |standing: Option<TokenStanding>| Some(standing?.revoked);
    let of_user = vec![token("a", 100), token("b", 200), token("old", 400)];
    let of_other = vec![token("c", 300), token("old", 400)];
    let expected = [Some(of_other.clone()), None, Some(of_user), Some(of_other)];
    assert_eq!(
        all.await
            .unwrap()
            .into_iter()
            .map(revoked_of)
            .collect::<Vec<_>>(),
        expected
    );

    let later = store.token_standing(user, at(100)).await.unwrap().unwrap();
    assert_eq!(later.revoked, [token("b", 200), token("old", 400)]);
    let is_revoked = async |id: &str| store.is_token_revoked(id).await.unwrap();
    assert!(is_revoked("a").await && !is_revoked("d").await);

    assert_eq!(store.purge_revoked_tokens(at(99), 10).await.unwrap(), 0);
    assert_eq!(store.purge_revoked_tokens(at(300), 2).await.unwrap(), 2);
    assert!(!is_revoked("a").await);
    assert_eq!(revoked(user).await, [token("old", 400)]);
    assert_eq!(store.purge_revoked_tokens(at(300), 2).await.unwrap(), 1);
    assert_eq!(revoked(other).await, [token("old", 400)]);
}

async fn nobody_has_no_tokens(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = database.user(10).await;
    let nobody = UserId::new(user.get() + 1_000).unwrap();
    assert_eq!(store.token_standing(nobody, at(50)).await.unwrap(), None);
    assert!(
        !store
            .set_password(password(nobody, "x", None, None))
            .await
            .unwrap()
    );
    assert!(!store.void_tokens(nobody, at(0)).await.unwrap());
    assert_eq!(noticed(&database).await, []);
}

/// A user who was lost, and whoever gets the same id after that, have one id and two keys.
async fn an_account_has_a_key_of_its_own(database: Arc<TestDatabase>) {
    let store = &database.store;
    let lost = database.user(0).await;
    let key = async |user| {
        let standing = store.token_standing(user, at(50)).await.unwrap().unwrap();
        let record = store.user(user).await.unwrap().unwrap();
        assert_eq!(
            (standing.account_key, standing.created_at),
            (record.account_key, record.created_at)
        );
        standing.account_key
    };
    let before = key(lost).await;
    assert_eq!(key(lost).await, before);
    database
        .execute(&format!("DELETE FROM users WHERE id = {lost}"))
        .await
        .unwrap();
    database
        .execute_either(
            &format!("ALTER TABLE users ALTER COLUMN id RESTART WITH {lost}"),
            "DELETE FROM sqlite_sequence WHERE name = 'users'",
        )
        .await;
    assert_eq!(database.user(0).await, lost);
    assert_ne!(key(lost).await, before);
    let fixtures = store
        .create_fixture_users(2, credits(0), at(0))
        .await
        .unwrap();
    assert_ne!(key(fixtures[0]).await, key(fixtures[1]).await);
}

//! Erasing users.

use std::sync::Arc;

use engine::{
    facts::{Fact, FactOutcome, Recording},
    keys::{Fingerprint, IdempotencyKey, RequestKey},
    store::{
        AdjustError, Adjustment, EraseError, Erasure, NewPassword, NewUser, RevokedToken,
        Shortfall, TokenGeneration,
    },
};
use schema::{CreditsChange, UserId, ledger::EntryKind, session::EndReason};

use crate::{
    on_both,
    support::{TestDatabase, at, credits, ended, opening, settlement},
};

on_both! {
    the_person_goes_and_the_ledger_stays
    a_live_session_is_in_the_way
    what_has_changed_meanwhile_is_in_the_way
    a_start_that_was_on_its_way_finds_nothing
    the_email_is_free_for_a_new_user
}

fn erasure(user: UserId) -> Erasure {
    Erasure {
        user,
        decided_in: None,
        operator: "tester".to_owned(),
        at: at(1_000),
    }
}

async fn ada(database: &TestDatabase) -> UserId {
    let new = NewUser {
        email: "Ada@example.org".to_owned(),
        password_hash: Some("$argon2id$x".to_owned()),
        grant: credits(100),
        created_at: at(0),
    };
    database.store.create_user(new).await.unwrap().id
}

async fn the_person_goes_and_the_ledger_stays(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = ada(&database).await;
    let run = database.run("main").await;
    let key = RequestKey {
        key: IdempotencyKey::new(b"ada-key").unwrap(),
        fingerprint: Fingerprint::new([7; 32]),
    };
    let opened = Fact::Opening(opening(user, 1, 1, 1));
    let recording = Recording {
        keys: vec![key],
        ..Recording::from(opened)
    };
    let recorded = store.record(&run, Some(at(1)), &[recording]).await.unwrap();
    assert_eq!(recorded, [FactOutcome::Recorded]);
    let end = ended(settlement(user, 2, 1, 1, 1, 6_000, 6_001), EndReason::User);
    database
        .must_record(&run, 6_001, &[Fact::Settlement(end)])
        .await;
    let token = RevokedToken {
        token_id: "ada's token".to_owned(),
        expires_at: at(1_000_000),
    };
    store.revoke_token(user, token, at(10)).await.unwrap();
    let before = store.ledger(user, None, 100).await.unwrap();

    store.erase_user(erasure(user)).await.unwrap();
    assert!(store.user(user).await.unwrap().is_none());
    assert!(
        store
            .user_by_email("ada@example.org")
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        store
            .user_by_email(&format!("erased-{user}"))
            .await
            .unwrap()
            .is_none()
    );
    assert!(store.users(None, 10).await.unwrap().is_empty());
    assert_eq!(store.token_standing(user, at(2_000)).await.unwrap(), None);
    for left in [
        "SELECT count(*) FROM users WHERE lower(email) LIKE '%ada%' OR password IS NOT NULL",
        "SELECT count(*) FROM idempotency_keys",
        "SELECT count(*) FROM revoked_tokens",
        "SELECT credits FROM users",
    ] {
        assert_eq!(database.number(left).await, 0, "{left}");
    }
    let after = store.ledger(user, None, 100).await.unwrap();
    assert_eq!(after[1..], before);
    assert_eq!(
        (after[0].kind, after[0].amount.get()),
        (EntryKind::Revoke, -99)
    );
    assert_eq!(store.sessions(user, None, 10).await.unwrap().len(), 1);
    assert_eq!(database.violations().await, []);

    // Once more changes nothing, and nothing can be done to nobody.
    store.erase_user(erasure(user)).await.unwrap();
    assert_eq!(store.ledger(user, None, 100).await.unwrap(), after);
    let grant = Adjustment {
        user,
        kind: EntryKind::Grant,
        amount: CreditsChange::try_from(5).unwrap(),
        session: None,
        shortfall: Shortfall::Refuse,
        at: at(2_000),
        reason: "x".to_owned(),
        operator: "x".to_owned(),
        idempotency_key: "x".to_owned(),
    };
    let refused = store.adjust(grant).await.unwrap_err();
    assert!(matches!(refused, AdjustError::UserUnknown), "{refused:?}");
    let password = NewPassword {
        user,
        hash: "x".to_owned(),
        decided_in: None,
        kept_token: None,
        at: at(2_000),
    };
    assert!(!store.set_password(password).await.unwrap());
    assert!(!store.begin_erasure(user, at(2_000)).await.unwrap());
    let nobody = UserId::new(user.get() + 1_000).unwrap();
    let unknown = store.erase_user(erasure(nobody)).await.unwrap_err();
    assert!(matches!(unknown, EraseError::UserUnknown), "{unknown:?}");
}

async fn a_live_session_is_in_the_way(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = ada(&database).await;
    let run = database.run("main").await;
    database
        .must_record(&run, 1, &[Fact::Opening(opening(user, 1, 1, 1))])
        .await;
    let is_closing = async || database.wallet(user).await.is_closing;

    assert!(store.begin_erasure(user, at(100)).await.unwrap());
    assert!(is_closing().await);
    let refused = store.erase_user(erasure(user)).await.unwrap_err();
    assert!(matches!(refused, EraseError::SessionLive), "{refused:?}");
    assert!(store.user(user).await.unwrap().is_some());
    assert_eq!(database.wallet(user).await.credits, credits(100));
    assert!(store.cancel_erasure(user, at(200)).await.unwrap());
    assert!(!is_closing().await);
    let notices = store.notices(None, 10).await.unwrap();
    assert_eq!(notices.len(), 2, "the server hears of both");
}

async fn what_has_changed_meanwhile_is_in_the_way(database: Arc<TestDatabase>) {
    let store = &database.store;
    let user = ada(&database).await;
    assert!(store.void_tokens(user, at(100)).await.unwrap());
    let decided_in = |generation| Erasure {
        decided_in: Some(TokenGeneration::new(generation)),
        ..erasure(user)
    };
    let refused = store.erase_user(decided_in(0)).await.unwrap_err();
    assert!(matches!(refused, EraseError::Changed), "{refused:?}");
    assert!(store.user(user).await.unwrap().is_some());
    store.erase_user(decided_in(1)).await.unwrap();
    assert!(store.user(user).await.unwrap().is_none());
}

async fn a_start_that_was_on_its_way_finds_nothing(database: Arc<TestDatabase>) {
    let store = &database.store;
    let (rich, poor) = (ada(&database).await, database.user(0).await);
    let run = database.run("main").await;
    store.erase_user(erasure(rich)).await.unwrap();
    store.erase_user(erasure(poor)).await.unwrap();
    let late = Recording::from(Fact::Opening(opening(rich, 1, 1, 1)));
    let outcome = store.record(&run, None, &[late]).await.unwrap();
    assert_eq!(outcome, [FactOutcome::Stale]);
    let wallet = database.wallet(rich).await;
    assert_eq!((wallet.credits, wallet.is_closing), (credits(0), true));
    assert!(store.ledger(poor, None, 10).await.unwrap().is_empty());
    assert_eq!(database.violations().await, []);
}

async fn the_email_is_free_for_a_new_user(database: Arc<TestDatabase>) {
    let first = ada(&database).await;
    database.store.erase_user(erasure(first)).await.unwrap();
    let second = ada(&database).await;
    assert_ne!(first, second);
    database.store.erase_user(erasure(second)).await.unwrap();
    let third = ada(&database).await;
    let found = database
        .store
        .user_by_email("ada@example.org")
        .await
        .unwrap();
    assert_eq!(found.unwrap().id, third);
    assert_eq!(database.violations().await, []);
}

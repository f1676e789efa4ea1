//! Idempotency keys: the name that a client gives a request, so that it can be sent again after an
//! unknown outcome and is done once (law 4).
//!
//! A key belongs to its user and lives for 24 hours. What it was answered with is kept by the same
//! transaction that recorded the fact; a request that failed keeps nothing. This module has the words
//! for it and the turns that requests under one key take. The rules are the store's.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use schema::{Millis, UnixMillis, UserId};
use tokio::sync::OwnedMutexGuard;

use crate::engine::{Started, Stopped};

/// How long a key is kept: 24 hours.
pub const KEPT_FOR: Millis = Millis::literal(24 * 3_600_000);

/// The name that a client gives a request: 1 to 255 visible ASCII characters. Of its user's alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(String);

/// A text that is no idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 255 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// The key of this text.
    pub fn new(text: &[u8]) -> Result<Self, InvalidIdempotencyKey> {
        let is_key = (1..=255).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        match std::str::from_utf8(text) {
            Ok(text) if is_key => Ok(Self(text.to_owned())),
            _ => Err(InvalidIdempotencyKey),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a request asked for, as a SHA-256: two requests of one user are the same if theirs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of these bytes.
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// In hexadecimal digits, two for a byte.
    pub(crate) fn to_hex(self) -> String {
        self.0.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a text can't fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// The key that a request came under, and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key.
    pub key: IdempotencyKey,
    /// What was asked for.
    pub fingerprint: Fingerprint,
}

/// The success that a request was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A session started.
    Started(Started),
    /// A session ended.
    Stopped(Stopped),
}

/// A success as it is kept under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// What was answered.
    pub answer: Answer,
}

/// The instant up to which a key is too old at `now`: one kept then or before counts as absent.
pub(crate) fn expired_at(now: UnixMillis) -> UnixMillis {
    now.saturating_sub(KEPT_FOR)
}

/// Lets requests under one key take turns, so that none slips in between what another reads and
/// writes. It knows only of keys that are in use: there are as many as calls. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyTurns {
    keys: Arc<Mutex<HashMap<(UserId, IdempotencyKey), Waiting>>>,
}

/// Those who have or want the turn at one key.
#[derive(Debug, Default)]
struct Waiting {
    turn: Arc<tokio::sync::Mutex<()>>,
    count: usize,
}

/// The turn at a key; drop it to pass it on.
#[derive(Debug)]
pub(crate) struct KeyTurn {
    // In this order: the turn is free before its key may be forgotten.
    _turn: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place among those who have or want a turn. It counts for as long as it lives, so that a caller
/// who goes away leaves nothing behind.
#[derive(Debug)]
struct Place {
    turns: KeyTurns,
    key: (UserId, IdempotencyKey),
}

impl KeyTurns {
    /// Waits for the turn at `key` of `user`; first come, first served.
    pub(crate) async fn take(&self, user: UserId, key: IdempotencyKey) -> KeyTurn {
        let key = (user, key);
        let turn = {
            let mut keys = self.lock();
            let waiting = keys.entry(key.clone()).or_default();
            waiting.count += 1;
            Arc::clone(&waiting.turn)
        };
        let place = Place {
            turns: self.clone(),
            key,
        };
        KeyTurn {
            _turn: turn.lock_owned().await,
            _place: place,
        }
    }

    /// The map is valid after any panic: each change of it is a single step.
    fn lock(&self) -> MutexGuard<'_, HashMap<(UserId, IdempotencyKey), Waiting>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut keys = self.turns.lock();
        if let Some(waiting) = keys.get_mut(&self.key) {
            waiting.count -= 1;
            if waiting.count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: i64) -> UserId {
        UserId::new(id).unwrap()
    }

    #[test]
    fn a_key_is_visible_ascii() {
        let check = |text: &[u8], is_key: bool| {
            assert_eq!(IdempotencyKey::new(text).is_ok(), is_key, "{text:?}");
        };
        check(b"a", true);
        check(b"!~0123-\"quoted\"", true);
        check(&[b'k'; 255], true);
        check(b"", false);
        check(&[b'k'; 256], false);
        check(b"two words", false);
        check(b"tab\t", false);
        check("clé".as_bytes(), false);
        check(b"\xff", false);
        check(b"\x7f", false);
    }

    #[test]
    fn a_fingerprint_is_written_in_hexadecimal() {
        let mut digest = [0; 32];
        digest[0] = 0xab;
        digest[31] = 5;
        let hex = Fingerprint::new(digest).to_hex();
        assert_eq!(hex, format!("ab{}05", "00".repeat(30)));
    }

    #[tokio::test]
    async fn requests_under_one_key_take_turns_and_leave_nothing_behind() {
        let turns = KeyTurns::default();
        let key = IdempotencyKey::new(b"k").unwrap();
        let first = turns.take(user(1), key.clone()).await;
        // Another user's key of the same text is another key.
        drop(turns.take(user(2), key.clone()).await);

        let wait = || {
            let (turns, key) = (turns.clone(), key.clone());
            tokio::spawn(async move { turns.take(user(1), key).await })
        };
        let (second, third) = (wait(), wait());
        tokio::task::yield_now().await;
        assert!(!second.is_finished() && !third.is_finished());
        // One who waits may go away.
        third.abort();
        assert!(third.await.is_err());
        drop(first);
        let turn = second.await.unwrap();
        assert_eq!(turns.lock().len(), 1);
        drop(turn);
        assert!(turns.lock().is_empty());
    }
}

//! Epochs: the numbers that tell one numbering of a user's events from another, made so that a number
//! which somebody sends can be told from one that was made up.
//!
//! An epoch is half chance and half a code over the user and that chance, made with a key of the tokens'
//! ring. Who knows one of a user's epochs has read that user's stream. That is what lets an `EventSource`
//! come back by a ticket that was used before: addresses get into logs, what a stream says does not.

use std::sync::{Arc, PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac};
use schema::UserId;
use sha2::Sha256;

use crate::key_ring::{Key, KeyRing};

/// How many bits of an epoch are chance, and how many are the code. Together they are as many as a
/// number in JSON has.
const CHANCE_BITS: u32 = 26;
const CODE_BITS: u32 = 27;

/// What the code is over, besides the user and the chance.
const PURPOSE: &[u8] = b"minute-credit epoch";

/// Makes epochs, and tells whether one was made for a user by this process or one with the same keys.
#[derive(Clone)]
pub struct Epochs(Arc<RwLock<Arc<KeyRing>>>);

impl Epochs {
    /// Epochs by the keys in `ring`.
    pub fn new(ring: KeyRing) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(ring))))
    }

    /// From now on these are the keys: epochs of others count no more.
    pub fn replace_ring(&self, ring: KeyRing) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    /// A new epoch for a stream of `user`; it is never 0.
    pub fn begin(&self, user: UserId) -> u64 {
        let chance = rand::random_range(1..1 << CHANCE_BITS);
        (chance << CODE_BITS) | code(self.ring().current(), user, chance)
    }

    /// Whether `epoch` was made for `user`.
    pub fn is_of(&self, user: UserId, epoch: u64) -> bool {
        let (chance, given) = (epoch >> CODE_BITS, epoch & ((1 << CODE_BITS) - 1));
        let ring = self.ring();
        (1..1 << CHANCE_BITS).contains(&chance)
            && ring
                .keys()
                .iter()
                .any(|key| code(key, user, chance) == given)
    }

    fn ring(&self) -> Arc<KeyRing> {
        let ring = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&ring)
    }
}

/// The code over `user` and `chance`.
fn code(key: &Key, user: UserId, chance: u64) -> u64 {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.secret().as_bytes()) else {
        unreachable!("HMAC takes keys of every length")
    };
    mac.update(PURPOSE);
    mac.update(&user.get().to_be_bytes());
    mac.update(&chance.to_be_bytes());
    let digest: [u8; 32] = mac.finalize().into_bytes().into();
    let [a, b, c, d, ..] = digest;
    u64::from(u32::from_be_bytes([a, b, c, d]) >> (u32::BITS - CODE_BITS))
}

#[cfg(test)]
mod tests {
    use schema::MAX_SAFE_INTEGER;

    use super::*;

    #[test]
    fn an_epoch_belongs_to_its_user_and_its_keys() {
        let mut keys = KeyRing::generate().unwrap();
        let epochs = Epochs::new(keys.clone());
        let (ada, bob) = (UserId::new(7).unwrap(), UserId::new(8).unwrap());
        let epoch = epochs.begin(ada);
        assert!(epoch > 0 && epoch <= MAX_SAFE_INTEGER.unsigned_abs());
        assert!(epochs.is_of(ada, epoch));
        assert!(!epochs.is_of(bob, epoch));
        for other in [0, 1, epoch ^ 1, epoch ^ (1 << 40), u64::MAX] {
            assert!(!epochs.is_of(ada, other), "{other}");
        }
        // Another key is added and used; the old one still counts until it is retired.
        let (old, new) = (keys.current().id().clone(), Key::generate().unwrap());
        let id = new.id().clone();
        keys.push(new).unwrap();
        keys.make_current(&id);
        epochs.replace_ring(keys.clone());
        assert!(epochs.is_of(ada, epoch) && epochs.is_of(ada, epochs.begin(ada)));
        keys.remove(&old);
        epochs.replace_ring(keys);
        assert!(!epochs.is_of(ada, epoch));
    }
}

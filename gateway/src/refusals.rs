//! How many requests of one address were refused lately. Past a rate their answers are held back.
//!
//! A refusal costs little, but a client that sends bad requests as fast as it is answered takes a core
//! all the same: bad tokens, broken JSON, bodies that are too large. Held back, eight connections get
//! some thirty answers a second in all. Nothing is refused for it that would not have been refused
//! anyway, and right requests from the same address are answered at once.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use schema::{Millis, UnixMillis};

use crate::{
    client::ClientNetwork,
    throttle::{Rate, Throttle},
};

/// Of how many addresses it is known at most how many of their requests were refused.
const ADDRESSES_MAX: usize = 100_000;

/// The window of the limit.
const MINUTE: Millis = match Millis::new(60_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// How long an answer is held back.
const HELD_BACK_FOR: Duration = Duration::from_millis(250);

/// Knows whose requests were refused.
pub struct Refusals(Mutex<Throttle<ClientNetwork>>);

impl Refusals {
    /// Nothing was refused yet. `times` a minute may be without a wait; any number if that is 0.
    pub fn new(times: u32) -> Self {
        let rate = Rate {
            times,
            window: MINUTE,
        };
        Self(Mutex::new(Throttle::new(rate, ADDRESSES_MAX)))
    }

    /// One more request from there is refused: how long its answer is to be held back, if at all.
    pub fn count(&self, from: ClientNetwork, now: UnixMillis) -> Option<Duration> {
        let mut throttle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if throttle.wait(from, now).is_some() {
            return Some(HELD_BACK_FOR);
        }
        throttle.count(from, now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientAddress;

    #[test]
    fn a_flood_is_held_back_and_nobody_else() {
        let network = |text: &str| ClientAddress::of_peer(text.parse().unwrap()).network();
        let at = |ms: i64| UnixMillis::new(1_800_000_000_000 + ms).unwrap();
        let refusals = Refusals::new(60);
        let held_back = |from, ms| refusals.count(network(from), at(ms)).is_some();
        let in_a_burst = (0..1_000).filter(|_| !held_back("192.0.2.1", 0)).count();
        assert_eq!(in_a_burst, 60);
        assert!(!held_back("192.0.2.2", 0), "others are not");
        assert!(!held_back("192.0.2.1", 1_000), "one a second goes on");
        assert!(held_back("192.0.2.1", 1_000));
        let unlimited = Refusals::new(0);
        assert!((0..1_000).all(|_| unlimited.count(network("::1"), at(0)).is_none()));
    }
}

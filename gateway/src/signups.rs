//! How many may sign up from one address: each gets credits for nothing.

use std::sync::{Mutex, PoisonError};

use schema::{Millis, UnixMillis};

use crate::{
    client::ClientNetwork,
    throttle::{Rate, Throttle},
};

/// Of how many addresses it is known at most.
const ADDRESSES_MAX: usize = 100_000;

/// The window of the limit.
const HOUR: Millis = match Millis::new(3_600_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// Knows how many have signed up from where.
pub struct Signups(Mutex<Throttle<ClientNetwork>>);

impl Signups {
    /// Nobody has signed up yet; from one address `times` may in an hour, or any number if that is 0.
    pub fn new(times: u32) -> Self {
        let hourly = Rate {
            times,
            window: HOUR,
        };
        Self(Mutex::new(Throttle::new(hourly, ADDRESSES_MAX)))
    }

    /// One more signs up from there. If that is one too many, says how long to wait.
    pub fn admit(&self, from: ClientNetwork, now: UnixMillis) -> Result<(), Millis> {
        let mut throttle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = throttle.wait(from, now) {
            return Err(wait);
        }
        throttle.count(from, now);
        Ok(())
    }
}

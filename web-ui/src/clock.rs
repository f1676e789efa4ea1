//! The page's own clock, and what it tells of the server's.

use schema::{Millis, UnixMillis};

/// An instant by the page's own clock, which never goes back. Its origin means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime(i64);

impl LocalTime {
    /// The instant `millis` after the origin.
    pub const fn new(millis: i64) -> Self {
        Self(millis)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Millis {
        Millis::new(self.0.saturating_sub(earlier.0).max(0)).unwrap_or(Millis::MAX)
    }

    /// The instant `wait` later.
    #[must_use]
    pub const fn after(self, wait: Millis) -> Self {
        Self(self.0.saturating_add(wait.get()))
    }
}

/// What was true of the outside when an action happened: everything that the reducer may not look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time.
    pub now: LocalTime,
    /// 128 random bits, new for every action.
    pub entropy: u128,
}

impl Moment {
    /// A length from half of `most` to `most`, by chance, so that many pages don't act at once.
    pub fn jittered(self, most: Millis) -> Millis {
        const STEPS: i64 = 1 << 16;
        let half = most.get() / 2;
        let step = i64::try_from(self.entropy % (1 << 16)).unwrap_or(0);
        Millis::new(half + half / STEPS * step + half % STEPS * step / STEPS).unwrap_or(most)
    }
}

/// An estimate of the server's clock.
///
/// Each balance says for which instant it holds, and arrives later than that by its way through the
/// network. The smallest difference seen is the nearest to the truth, and errs so that the server's
/// time is never ahead: nothing is shown as charged before the server has charged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerClock {
    /// How far the page's clock reads ahead of the server's, in ms.
    ahead_ms: i64,
}

impl ServerClock {
    /// The estimate from one balance that holds for `as_of` and has arrived at `arrived`.
    pub const fn new(as_of: UnixMillis, arrived: LocalTime) -> Self {
        Self {
            ahead_ms: arrived.0.saturating_sub(as_of.get()),
        }
    }

    /// The better of this estimate and that from one more balance.
    #[must_use]
    pub fn refined(self, as_of: UnixMillis, arrived: LocalTime) -> Self {
        Self {
            ahead_ms: self.ahead_ms.min(Self::new(as_of, arrived).ahead_ms),
        }
    }

    /// The server's time when the page's clock shows `local`.
    pub fn at(self, local: LocalTime) -> UnixMillis {
        UnixMillis::new(local.0.saturating_sub(self.ahead_ms).max(0)).unwrap_or(UnixMillis::MAX)
    }

    /// What the page's clock shows at the server's `instant`.
    pub const fn local(self, instant: UnixMillis) -> LocalTime {
        LocalTime(instant.get().saturating_add(self.ahead_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    #[test]
    fn the_quickest_message_tells_the_time() {
        let clock = ServerClock::new(unix(1_000), LocalTime(51_080));
        assert_eq!(clock.at(LocalTime(51_080)), unix(1_000));
        let clock = clock
            .refined(unix(2_000), LocalTime(52_020))
            .refined(unix(3_000), LocalTime(53_500));
        assert_eq!(clock.at(LocalTime(60_020)), unix(10_000));
        assert_eq!(clock.local(unix(10_000)), LocalTime(60_020));
    }

    #[test]
    fn a_page_that_slept_catches_up_with_the_next_message() {
        let clock = ServerClock::new(unix(1_000), LocalTime(1_000));
        // The page's clock stood still for an hour, the server's didn't.
        let clock = clock.refined(unix(3_602_000), LocalTime(2_000));
        assert_eq!(clock.at(LocalTime(2_500)), unix(3_602_500));
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let check = |entropy, most: i64, jittered: i64| {
            let moment = Moment {
                now: LocalTime(0),
                entropy,
            };
            assert_eq!(
                moment.jittered(Millis::new(most).unwrap()).get(),
                jittered,
                "{entropy}"
            );
        };
        check(0, 1_000, 500);
        check(1 << 15, 1_000, 750);
        check(u128::MAX, 1_000, 999);
        check(u128::MAX, 30_000, 29_999);
        check(u128::MAX, 0, 0);
    }
}

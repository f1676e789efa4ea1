//! What a session costs by the time it was served.
//!
//! A tariff is asked three things, and everything else follows from them: how many intervals a
//! served time completes, what the first *n* intervals cost together, and how many intervals an
//! amount pays for. A connection fee, free time, a minimum charge or rate bands would change the
//! answers and nothing outside this file.

use schema::{Credits, Millis};

/// A whole number of intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Intervals(i64);

impl Intervals {
    /// None.
    pub const ZERO: Self = Self(0);

    /// How many there are.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// One more. Never overflows: a count of intervals is at most a count of milliseconds.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// When an interval is charged. Either way its price is held from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChargedAt {
    /// At its end: an interval that is stopped early is free.
    End,
    /// At its beginning: an interval once begun is paid.
    Start,
}

impl ChargedAt {
    /// The name in settings and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Start => "start",
        }
    }

    /// The moment with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::End, Self::Start]
            .into_iter()
            .find(|charged| charged.as_str() == name)
    }
}

/// A tariff that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTariff {
    /// The price is 0.
    #[error("a tariff's price must be at least 1 credit")]
    Free,
    /// The interval is 0.
    #[error("a tariff's interval must be at least 1 ms")]
    NoInterval,
}

/// A price in whole credits for each interval of served time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tariff {
    price: Credits,
    interval: Millis,
    charged_at: ChargedAt,
}

impl Tariff {
    /// `price` for each `interval`, both at least 1.
    pub fn new(
        price: Credits,
        interval: Millis,
        charged_at: ChargedAt,
    ) -> Result<Self, InvalidTariff> {
        if price.is_zero() {
            return Err(InvalidTariff::Free);
        }
        if interval == Millis::ZERO {
            return Err(InvalidTariff::NoInterval);
        }
        Ok(Self {
            price,
            interval,
            charged_at,
        })
    }

    /// The price of one interval.
    pub const fn price(self) -> Credits {
        self.price
    }

    /// The length of one interval.
    pub const fn interval(self) -> Millis {
        self.interval
    }

    /// When an interval is charged.
    pub const fn charged_at(self) -> ChargedAt {
        self.charged_at
    }

    /// How many intervals `served` completes. The system's one rounding: down, for the customer.
    pub fn intervals_completed(self, served: Millis) -> Intervals {
        Intervals(served.get() / self.interval.get())
    }

    /// How many intervals have begun once `served` has been served: the completed ones and the one
    /// in progress. At a boundary the next one is in progress already.
    pub fn intervals_begun(self, served: Millis) -> Intervals {
        self.intervals_completed(served).next()
    }

    /// What the first `intervals` cost together, or nothing where no wallet could hold that much.
    pub fn price_of(self, intervals: Intervals) -> Option<Credits> {
        intervals
            .get()
            .checked_mul(self.price.get())
            .and_then(|price| Credits::new(price).ok())
    }

    /// How many intervals, counted from the session's start, `funds` pay for.
    pub fn intervals_covered(self, funds: Credits) -> Intervals {
        Intervals(funds.get() / self.price.get())
    }

    /// The served time at which the last of `intervals` is complete, or nothing where that is longer
    /// than a time can be.
    pub fn served_after(self, intervals: Intervals) -> Option<Millis> {
        intervals
            .get()
            .checked_mul(self.interval.get())
            .and_then(|served| Millis::new(served).ok())
    }

    /// What a live session that was served for `served` has been charged, or nothing where no wallet
    /// could hold that much.
    pub fn charge(self, served: Millis) -> Option<Credits> {
        self.price_of(match self.charged_at {
            ChargedAt::End => self.intervals_completed(served),
            ChargedAt::Start => self.intervals_begun(served),
        })
    }

    /// What a live session that was served for `served` has been charged and holds, together: the
    /// same whenever an interval is charged.
    pub fn committed(self, served: Millis) -> Option<Credits> {
        self.price_of(self.intervals_begun(served))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tariff(price: i64, interval_ms: i64, charged_at: ChargedAt) -> Tariff {
        Tariff::new(
            Credits::new(price).unwrap(),
            Millis::new(interval_ms).unwrap(),
            charged_at,
        )
        .unwrap()
    }

    #[test]
    fn charges_by_served_time() {
        let check = |charged_at, served_ms, charge: i64, committed: i64| {
            let tariff = tariff(3, 6_000, charged_at);
            let served = Millis::new(served_ms).unwrap();
            assert_eq!(
                tariff.charge(served).map(Credits::get),
                Some(charge),
                "{charged_at:?} {served_ms}"
            );
            assert_eq!(
                tariff.committed(served).map(Credits::get),
                Some(committed),
                "{charged_at:?} {served_ms}"
            );
        };
        check(ChargedAt::End, 0, 0, 3);
        check(ChargedAt::End, 5_999, 0, 3);
        check(ChargedAt::End, 6_000, 3, 6);
        check(ChargedAt::End, 11_999, 3, 6);
        check(ChargedAt::Start, 0, 3, 3);
        check(ChargedAt::Start, 5_999, 3, 3);
        check(ChargedAt::Start, 6_000, 6, 6);
    }

    #[test]
    fn what_no_wallet_holds_is_no_price() {
        let dear = tariff(Credits::MAX.get(), 1, ChargedAt::End);
        assert_eq!(dear.charge(Millis::new(1).unwrap()), Some(Credits::MAX));
        assert_eq!(dear.charge(Millis::new(2).unwrap()), None);
        assert_eq!(dear.charge(Millis::MAX), None);
        assert_eq!(dear.intervals_covered(Credits::MAX), Intervals(1));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let one = Credits::new(1).unwrap();
        assert_eq!(
            Tariff::new(Credits::ZERO, Millis::MAX, ChargedAt::End),
            Err(InvalidTariff::Free)
        );
        assert_eq!(
            Tariff::new(one, Millis::ZERO, ChargedAt::End),
            Err(InvalidTariff::NoInterval)
        );
    }
}

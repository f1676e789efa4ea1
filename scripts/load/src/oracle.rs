//! What a session must have cost, in whole numbers, from facts that the API tells: when it started,
//! when it ended, and for how long it was not served.

/// The tariff and the first balance of the sessions.
#[derive(Clone, Copy, Debug)]
pub struct Oracle {
    /// The price of an interval.
    pub price: i64,
    /// The interval, in milliseconds.
    pub interval_ms: i64,
    /// What the wallet held before.
    pub credits: i64,
}

/// What a stop said.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// When the session started, in milliseconds since 1970; the start said so.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: i64,
    /// What it cost.
    pub consumed: i64,
    /// What was left.
    pub left: i64,
}

impl Oracle {
    /// By how many credits a charge is wrong, where the session was not served for `downtime_ms`. What
    /// is left must be wrong by the same, the other way round: if not, that counts as well.
    pub fn drift(&self, stop: &Stop, downtime_ms: i64) -> u64 {
        let served_ms = (stop.ended_at - stop.started_at - downtime_ms).max(0);
        let due = served_ms / self.interval_ms * self.price;
        let charged_wrong = stop.consumed.abs_diff(due);
        let left_wrong = (stop.consumed + stop.left).abs_diff(self.credits);
        charged_wrong + left_wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_whole_intervals_of_the_served_time() {
        let oracle = Oracle {
            price: 2,
            interval_ms: 6_000,
            credits: 100,
        };
        let check = |ended_at: i64, downtime_ms: i64, consumed: i64, left: i64, drift: u64| {
            let stop = Stop {
                started_at: 1_000,
                ended_at,
                consumed,
                left,
            };
            assert_eq!(oracle.drift(&stop, downtime_ms), drift, "{stop:?}");
        };
        check(6_999, 0, 0, 100, 0);
        check(7_000, 0, 2, 98, 0);
        check(7_000, 0, 0, 100, 2);
        check(7_000, 1, 0, 100, 0);
        check(7_000, 1, 2, 98, 2);
        check(18_999, 0, 4, 96, 0);
        check(18_999, 0, 4, 97, 1);
        check(1_000, 50, 0, 100, 0);
    }
}

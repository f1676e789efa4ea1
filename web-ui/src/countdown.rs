//! What to show of a live session at an instant, from the facts in the server's last message.
//!
//! The arithmetic is the server's own, `billing`. The balance is not counted down here: it changes
//! when the server says so.

use billing::{ChargedAt, Meter, Tariff};
use schema::{
    Credits, Millis, UnixMillis,
    session::{ActiveSession, LiveBalance},
};

/// Below this much time left a session may be called low.
const LOW_LEFT_MS: i64 = 60_000;
/// Below this much time left it may be called about to end.
const LAST_LEFT_MS: i64 = 10_000;
/// Below this much time left it is about to end, however short it was.
const SURELY_LAST_LEFT_MS: i64 = 3_000;
/// Which part of the whole length must be left for it to be called either: a session that is short from
/// the beginning isn't low all along.
const LOW_PART: i64 = 5;

/// A live session at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Countdown {
    /// For how long it has been served: pauses and the server's downtime don't count. While it is paused,
    /// the interval in progress doesn't count either.
    pub running_for: Millis,
    /// When the interval in progress ends: nothing while the session is paused.
    pub next_charge_in: Option<Millis>,
    /// How long the credits last: nothing while it is paused, or longer than a time can say.
    pub left: Option<Millis>,
}

impl Countdown {
    /// `session`, with `credits` in its wallet, at the server's time `now`.
    pub fn at(session: &ActiveSession, credits: Credits, now: UnixMillis) -> Self {
        Self {
            running_for: served(session, credits, now),
            next_charge_in: next_boundary(session, now).map(|boundary| boundary.since(now)),
            left: session
                .depletes_at
                .map(|depletes_at| depletes_at.since(now)),
        }
    }
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is enough, or no session runs.
    Fine,
    /// The session will end soon.
    Low,
    /// The session is about to end.
    Last,
}

impl Level {
    /// The level of `balance` at the server's time `now`. It follows from the time that is left, and from
    /// how long the credits last in all.
    pub fn of(balance: &LiveBalance, now: UnixMillis) -> Self {
        let Some(session) = balance.session else {
            return Self::Fine;
        };
        let Some(depletes_at) = session.depletes_at else {
            return Self::Fine;
        };
        let left_ms = depletes_at.since(now).get();
        let whole_ms = depletes_at.since(session.started_at).get();
        let is_low = left_ms <= LOW_LEFT_MS && left_ms.saturating_mul(LOW_PART) <= whole_ms;
        if left_ms <= SURELY_LAST_LEFT_MS || (is_low && left_ms <= LAST_LEFT_MS) {
            Self::Last
        } else if is_low {
            Self::Low
        } else {
            Self::Fine
        }
    }
}

/// `part` of `whole` in thousandths; all of it where there is nothing to compare with.
pub fn thousandths(part: Credits, whole: Credits) -> i64 {
    if part >= whole {
        return 1_000;
    }
    let share = i128::from(part.get()) * 1_000 / i128::from(whole.get());
    i64::try_from(share).unwrap_or(1_000)
}

/// For how long `session` has been served at `now`. Its charges tell how many intervals are over, and the
/// end of the one in progress tells how much of that has passed.
fn served(session: &ActiveSession, credits: Credits, now: UnixMillis) -> Millis {
    let since_start = now.since(session.started_at);
    let (price, interval_ms) = (
        session.credits_per_interval.get(),
        session.interval_ms.get(),
    );
    if price == 0 {
        return since_start;
    }
    let charged = session.consumed.get() / price;
    let served_ms = match session.next_charge_at {
        None => charged.saturating_mul(interval_ms),
        Some(next) => {
            // Charged at the start, the interval in progress is among those charged already.
            let over = charged - i64::from(is_charged_at_start(session, credits, next));
            (over + 1)
                .saturating_mul(interval_ms)
                .saturating_add(now.get() - next.get())
        }
    };
    Millis::new(served_ms.max(0)).map_or(since_start, |served| served.min(since_start))
}

/// Whether the interval in progress, which ends at `next`, is paid for already. Then all the credits are
/// for those after it, and the session ends by that much later.
fn is_charged_at_start(session: &ActiveSession, credits: Credits, next: UnixMillis) -> bool {
    let affordable = credits.get() / session.credits_per_interval.get();
    let lasting_ms = affordable.checked_mul(session.interval_ms.get());
    session
        .depletes_at
        .is_some_and(|depletes_at| Some(depletes_at.get() - next.get()) == lasting_ms)
}

/// When the interval in progress at `now` ends. The message names the end of the one that was in
/// progress when it was sent; where none has come since, the tariff tells the ones after it.
fn next_boundary(session: &ActiveSession, now: UnixMillis) -> Option<UnixMillis> {
    let named = session.next_charge_at?;
    if named > now {
        return Some(named);
    }
    // When an interval is charged doesn't matter to when it ends.
    let tariff = Tariff::new(
        session.credits_per_interval,
        session.interval_ms,
        ChargedAt::End,
    )
    .ok()?;
    let meter = Meter::running(Millis::ZERO, named);
    meter.reaches(tariff.served_after(tariff.intervals_begun(meter.served(now)))?)
}

#[cfg(test)]
mod tests {
    use schema::SessionId;

    use super::*;

    fn unix(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    fn amount(credits: i64) -> Credits {
        Credits::new(credits).unwrap()
    }

    /// Started at 1 s with 100 credits at 1 per 6 s; the last message came at 165 s.
    fn session() -> ActiveSession {
        ActiveSession {
            session_id: SessionId::new(1).unwrap(),
            started_at: unix(1_000),
            consumed: amount(27),
            credits_per_interval: amount(1),
            interval_ms: Millis::new(6_000).unwrap(),
            next_charge_at: Some(unix(169_000)),
            depletes_at: Some(unix(601_000)),
        }
    }

    #[test]
    fn moves_between_messages() {
        let check = |now: i64, running_for: i64, next: i64, left: i64| {
            let countdown = Countdown::at(&session(), amount(73), unix(now));
            assert_eq!(countdown.running_for.get(), running_for, "{now}");
            assert_eq!(
                countdown.next_charge_in.map(Millis::get),
                Some(next),
                "{now}"
            );
            assert_eq!(countdown.left.map(Millis::get), Some(left), "{now}");
        };
        check(165_000, 164_000, 4_000, 436_000);
        check(168_999, 167_999, 1, 432_001);
        // The message for the boundary is late: the next interval is in progress all the same.
        check(169_000, 168_000, 6_000, 432_000);
        check(175_001, 174_001, 5_999, 425_999);
        check(601_500, 600_500, 5_500, 0);
        // The page's clock reads too early.
        check(500, 0, 168_500, 600_500);
    }

    #[test]
    fn a_paused_session_stands_still() {
        let paused = ActiveSession {
            next_charge_at: None,
            depletes_at: None,
            ..session()
        };
        let countdown = Countdown::at(&paused, amount(73), unix(165_000));
        assert_eq!((countdown.next_charge_in, countdown.left), (None, None));
        assert_eq!(
            countdown.running_for.get(),
            27 * 6_000,
            "the intervals that are over"
        );
    }

    #[test]
    fn time_that_is_free_is_no_time_of_the_session() {
        // 27 intervals are over and 2 s of the next one have passed, whatever the start was.
        let check = |started_at: i64, charged_early: i64, served: i64| {
            let charged_early_ms = charged_early * 6_000;
            let session = ActiveSession {
                started_at: unix(started_at),
                consumed: amount(27 + charged_early),
                depletes_at: Some(unix(169_000 + 72 * 6_000 + charged_early_ms)),
                ..session()
            };
            let countdown = Countdown::at(&session, amount(73), unix(165_000));
            assert_eq!(
                countdown.running_for.get(),
                served,
                "{started_at} {charged_early}"
            );
        };
        check(1_000, 0, 164_000);
        check(0, 0, 164_000);
        check(0, 1, 164_000);
        check(1_001, 0, 163_999);
    }

    #[test]
    fn low_and_last_are_said_towards_the_end_of_long_and_short_sessions() {
        let check = |lasts: i64, left: i64, level: Level| {
            let session = ActiveSession {
                started_at: unix(1_000_000),
                depletes_at: Some(unix(1_000_000 + lasts)),
                ..session()
            };
            let balance = LiveBalance {
                credits: amount(7),
                as_of: unix(0),
                session: Some(session),
            };
            let now = unix(1_000_000 + lasts - left);
            assert_eq!(Level::of(&balance, now), level, "{left} of {lasts}");
        };
        for (lasts, low_from, last_from) in [
            (600_000, 60_000, 10_000),
            (100_000, 20_000, 10_000),
            (30_000, 6_000, 6_000),
            (5_000, 3_000, 3_000),
        ] {
            check(lasts, low_from + 1, Level::Fine);
            check(
                lasts,
                last_from + 1,
                if low_from > last_from {
                    Level::Low
                } else {
                    Level::Fine
                },
            );
            check(lasts, last_from, Level::Last);
            check(lasts, 0, Level::Last);
        }
        check(2_000, 2_000, Level::Last);

        let idle = LiveBalance {
            credits: Credits::ZERO,
            as_of: unix(0),
            session: None,
        };
        assert_eq!(Level::of(&idle, unix(9)), Level::Fine);
    }

    #[test]
    fn shares() {
        let check =
            |part, whole, share| assert_eq!(thousandths(amount(part), amount(whole)), share);
        check(73, 100, 730);
        check(0, 100, 0);
        check(1, 3, 333);
        check(0, 0, 1_000);
        check(150, 100, 1_000);
        check(Credits::MAX.get() - 1, Credits::MAX.get(), 999);
    }
}

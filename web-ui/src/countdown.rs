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
const LOW_LEFT: Millis = match Millis::new(60_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};
/// Below this much time left it is about to end.
const LAST_LEFT: Millis = match Millis::new(10_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// A live session at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Countdown {
    /// How long ago it started.
    pub running_for: Millis,
    /// When the interval in progress ends: nothing while the session is paused.
    pub next_charge_in: Option<Millis>,
    /// How long the credits last: nothing while it is paused, or longer than a time can say.
    pub left: Option<Millis>,
}

impl Countdown {
    /// `session` at the server's time `now`.
    pub fn at(session: &ActiveSession, now: UnixMillis) -> Self {
        Self {
            running_for: now.since(session.started_at),
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
    /// The level of `balance` at the server's time `now`, out of `whole`. A session that is short
    /// from the beginning isn't low all along: it is once a fifth is left.
    pub fn of(balance: &LiveBalance, whole: Credits, now: UnixMillis) -> Self {
        let Some(depletes_at) = balance.session.and_then(|session| session.depletes_at) else {
            return Self::Fine;
        };
        let left = depletes_at.since(now);
        if left > LOW_LEFT || balance.credits.get().saturating_mul(5) > whole.get() {
            Self::Fine
        } else if left > LAST_LEFT {
            Self::Low
        } else {
            Self::Last
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
            let countdown = Countdown::at(&session(), unix(now));
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
        let countdown = Countdown::at(&paused, unix(165_000));
        assert_eq!((countdown.next_charge_in, countdown.left), (None, None));
    }

    #[test]
    fn low_is_said_once_a_fifth_and_a_minute_are_left() {
        let check = |credits: i64, whole: i64, now: i64, level: Level| {
            let balance = LiveBalance {
                credits: amount(credits),
                as_of: unix(0),
                session: Some(session()),
            };
            assert_eq!(
                Level::of(&balance, amount(whole), unix(now)),
                level,
                "{credits} of {whole} at {now}"
            );
        };
        check(73, 100, 165_000, Level::Fine);
        check(11, 100, 540_999, Level::Fine);
        check(10, 100, 541_000, Level::Low);
        check(2, 100, 590_999, Level::Low);
        check(1, 100, 591_000, Level::Last);
        check(0, 100, 601_000, Level::Last);
        check(10, 49, 541_000, Level::Fine);

        let idle = LiveBalance {
            credits: Credits::ZERO,
            as_of: unix(0),
            session: None,
        };
        assert_eq!(Level::of(&idle, amount(100), unix(9)), Level::Fine);
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

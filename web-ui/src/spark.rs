//! The balance of the last five minutes, kept in memory from the server's messages.

use schema::{Credits, Millis, UnixMillis, session::LiveBalance};

use crate::countdown::Countdown;

/// How far back the line goes.
pub const WINDOW: Millis = match Millis::new(300_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// Changes nearer to each other than this are one point: no screen could show them apart.
const POINT_EVERY: Millis = match Millis::new(1_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// The balances that were said, oldest first, and from when to when none was known. Not many more than
/// one a second, so the window bounds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spark {
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    at: UnixMillis,
    /// The balance from `at` on; None where it isn't known until the next point.
    credits: Option<Credits>,
}

/// How the line is drawn, in a box `width` wide and `height` high. Where nothing is known there is a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// The line, as the `d` of an SVG path.
    pub line: String,
    /// The area under it.
    pub area: String,
    /// The first balance that is known.
    pub first: Credits,
    /// The last one.
    pub last: Credits,
    /// Whether something in the window isn't known.
    pub has_gap: bool,
}

impl Spark {
    /// Notes that the balance was `credits` from `at` on.
    pub fn push(&mut self, at: UnixMillis, credits: Credits) {
        self.points.retain(|point| point.at < at);
        let is_near = |point: Option<&Point>| {
            point.is_some_and(|point| point.credits.is_some() && at.since(point.at) < POINT_EVERY)
        };
        let before = self.points.len().checked_sub(2);
        if is_near(self.points.last()) && is_near(before.and_then(|place| self.points.get(place))) {
            self.points.pop();
        }
        self.points.push(Point {
            at,
            credits: Some(credits),
        });
        // One point from before the window stays, to say where the line comes from.
        let begin = at.saturating_sub(WINDOW);
        let old = self
            .points
            .iter()
            .take_while(|point| point.at <= begin)
            .count();
        self.points.drain(..old.saturating_sub(1));
    }

    /// Notes that from `at` on the balance isn't known.
    pub fn break_off(&mut self, at: UnixMillis) {
        if let Some(last) = self.points.last().filter(|last| last.credits.is_some()) {
            let at = at.max(last.at);
            self.points.push(Point { at, credits: None });
        }
    }

    /// Recovers what a running session has charged before the page was opened: its charges lie a
    /// whole number of intervals before the next one.
    pub fn trace_back(&mut self, balance: &LiveBalance) {
        let Some(session) = balance.session else {
            return;
        };
        let Some(next_charge_at) = session.next_charge_at else {
            return;
        };
        // Of a session that has stood still it isn't known when it did.
        let served = Countdown::at(&session, balance.credits, balance.as_of).running_for;
        if balance.as_of.since(session.started_at) > served.saturating_add(POINT_EVERY) {
            return;
        }
        let price = session.credits_per_interval.get().max(1);
        let interval_ms = session.interval_ms.get().max(1);
        let intervals_a_point = POINT_EVERY.get() / interval_ms + 1;
        let oldest = balance.as_of.saturating_sub(WINDOW).max(session.started_at);

        let mut traced = Vec::new();
        let mut intervals = 0;
        while intervals <= session.consumed.get() / price {
            let past =
                Millis::new(interval_ms.saturating_mul(intervals + 1)).unwrap_or(Millis::MAX);
            let at = next_charge_at.saturating_sub(past);
            let Ok(credits) = Credits::new(balance.credits.get() + price * intervals) else {
                break;
            };
            traced.push(Point {
                at: at.max(session.started_at),
                credits: Some(credits),
            });
            if at <= oldest {
                break;
            }
            intervals += intervals_a_point;
        }
        traced.reverse();
        self.points = traced;
    }

    /// The line in the window before `now`, as far as it is known until `known_until`, scaled so that `top`
    /// reaches the upper edge. None if nothing is known.
    pub fn draw(
        &self,
        now: UnixMillis,
        known_until: UnixMillis,
        top: Credits,
        width: i64,
        height: i64,
    ) -> Option<Drawing> {
        let begin = now.saturating_sub(WINDOW);
        let highest = self.points.iter().filter_map(|point| point.credits).max()?;
        let top = highest.max(top).get().max(1);
        let x = |at: UnixMillis| {
            at.max(begin).since(begin).get().min(WINDOW.get()) * width / WINDOW.get()
        };
        let y = |credits: Credits| {
            let fallen = i128::from(top - credits.get()) * i128::from(height) / i128::from(top);
            i64::try_from(fallen).unwrap_or(height)
        };
        let ends = self.points.iter().skip(1).map(|point| point.at);
        let ends = ends.chain([known_until.min(now)]);

        let (mut line, mut area) = (Vec::new(), Vec::new());
        let mut known: Option<(Credits, Credits)> = None;
        // Up to where it is drawn, and whether it goes on from there.
        let (mut drawn_to, mut is_broken, mut has_gap) = (0, true, false);
        for (point, end) in self.points.iter().zip(ends) {
            let Some(credits) = point.credits.filter(|_| end > begin) else {
                is_broken = true;
                continue;
            };
            let (left, right, level) = (x(point.at), x(end.max(point.at)), y(credits));
            if is_broken {
                if !area.is_empty() {
                    area.push(format!("V{height}Z"));
                }
                line.push(format!("M{left} {level}H{right}"));
                area.push(format!("M{left} {height}V{level}H{right}"));
                has_gap |= left > drawn_to;
            } else {
                let step = format!("V{level}H{right}");
                line.push(step.clone());
                area.push(step);
            }
            (drawn_to, is_broken) = (right, false);
            known = Some((known.map_or(credits, |(first, _)| first), credits));
        }
        let (first, last) = known?;
        area.push(format!("V{height}Z"));
        Some(Drawing {
            line: line.concat(),
            area: area.concat(),
            first,
            last,
            has_gap: has_gap || drawn_to < width,
        })
    }
}

#[cfg(test)]
mod tests {
    use schema::{SessionId, session::ActiveSession};

    use super::*;

    fn spark(points: &[(i64, i64)]) -> Spark {
        points
            .iter()
            .fold(Spark::default(), |mut spark, (at, credits)| {
                spark.push(
                    UnixMillis::new(*at).unwrap(),
                    Credits::new(*credits).unwrap(),
                );
                spark
            })
    }

    fn line(points: &[(i64, i64)], now: i64) -> Option<String> {
        let now = UnixMillis::new(now).unwrap();
        spark(points)
            .draw(now, now, Credits::ZERO, 300, 100)
            .map(|drawing| drawing.line)
    }

    #[test]
    fn draws_steps() {
        let check = |points: &[(i64, i64)], now, drawn: &str| {
            assert_eq!(line(points, now).as_deref(), Some(drawn));
        };
        check(&[(300_000, 100)], 300_000, "M300 0H300");
        check(&[(300_000, 100)], 400_000, "M200 0H300");
        check(
            &[(300_000, 100), (310_000, 75), (320_000, 50)],
            330_000,
            "M270 0H280V25H290V50H300",
        );
        check(&[(0, 100), (100_000, 50)], 900_000, "M0 50H300");
        check(&[(599_000, 0)], 600_000, "M299 100H300");
        assert_eq!(line(&[], 1_000), None);
    }

    #[test]
    fn forgets_what_nobody_sees() {
        let long: Vec<(i64, i64)> = (0..5_000).map(|step| (step * 200, 5_000 - step)).collect();
        let spark = spark(&long);
        assert!(spark.points.len() <= 400, "{}", spark.points.len());
        assert_eq!(spark.points.last().unwrap().credits.unwrap().get(), 1);
    }

    #[test]
    fn a_session_is_traced_back() {
        let check = |started_at: i64, consumed: i64, as_of: i64, drawn: Option<&str>| {
            let unix = |millis| UnixMillis::new(millis).unwrap();
            let amount = |credits| Credits::new(credits).unwrap();
            let interval_ms = Millis::new(60_000).unwrap();
            let session = ActiveSession {
                session_id: SessionId::new(1).unwrap(),
                started_at: unix(started_at),
                consumed: amount(consumed),
                credits_per_interval: amount(10),
                interval_ms,
                next_charge_at: unix(started_at + consumed / 10 * 60_000).checked_add(interval_ms),
                depletes_at: None,
            };
            let balance = LiveBalance {
                credits: amount(100 - consumed),
                as_of: unix(as_of),
                session: Some(session),
            };
            let mut spark = Spark::default();
            spark.trace_back(&balance);
            let drawing = spark
                .draw(unix(as_of), unix(as_of), amount(100), 300, 100)
                .map(|drawing| drawing.line);
            assert_eq!(drawing.as_deref(), drawn, "{started_at} {consumed} {as_of}");
        };
        check(300_000, 0, 300_000, Some("M300 0H300"));
        check(300_000, 0, 330_000, Some("M270 0H300"));
        check(300_000, 20, 450_000, Some("M150 0H210V10H270V20H300"));
        check(
            300_000,
            70,
            720_000,
            Some("M0 20H60V30H120V40H180V50H240V60H300V70H300"),
        );
    }

    #[test]
    fn a_session_that_stood_still_is_not_traced_back() {
        let unix = |millis| UnixMillis::new(millis).unwrap();
        let amount = |credits| Credits::new(credits).unwrap();
        let trace = |started_at: i64| {
            let balance = LiveBalance {
                credits: amount(98),
                as_of: unix(303_000),
                session: Some(ActiveSession {
                    session_id: SessionId::new(1).unwrap(),
                    started_at: unix(started_at),
                    consumed: amount(2),
                    credits_per_interval: amount(1),
                    interval_ms: Millis::new(6_000).unwrap(),
                    next_charge_at: Some(unix(306_000)),
                    depletes_at: None,
                }),
            };
            let mut spark = Spark::default();
            spark.trace_back(&balance);
            spark.points.len()
        };
        assert_eq!(trace(288_000), 3, "started, and charged twice");
        assert_eq!(trace(280_000), 0, "8 s of it were free");
    }

    #[test]
    fn what_is_not_known_is_a_gap() {
        let unix = |millis| UnixMillis::new(millis).unwrap();
        let draw = |spark: &Spark, now, known_until| {
            let drawing = spark.draw(unix(now), unix(known_until), Credits::ZERO, 300, 100);
            drawing.map(|drawing| (drawing.line, drawing.area, drawing.has_gap))
        };
        let drawn = |line: &str, area: &str| Some((line.to_owned(), area.to_owned(), true));
        let mut spark = spark(&[(300_000, 100), (310_000, 50)]);
        assert_eq!(
            draw(&spark, 360_000, 320_000),
            drawn("M240 0H250V50H260", "M240 100V0H250V50H260V100Z"),
            "nothing is drawn after what was heard last"
        );
        spark.break_off(unix(320_000));
        spark.break_off(unix(330_000));
        assert_eq!(
            draw(&spark, 360_000, 360_000),
            drawn("M240 0H250V50H260", "M240 100V0H250V50H260V100Z")
        );
        spark.push(unix(340_000), Credits::new(50).unwrap());
        assert_eq!(
            draw(&spark, 360_000, 360_000),
            drawn(
                "M240 0H250V50H260M280 50H300",
                "M240 100V0H250V50H260V100ZM280 100V50H300V100Z"
            ),
            "and nothing where it was silent"
        );
        spark.break_off(unix(350_000));
        assert_eq!(draw(&spark, 900_000, 350_000), None);
    }

    #[test]
    fn the_server_may_correct_itself() {
        assert_eq!(
            spark(&[(1_000, 9), (5_000, 7), (4_000, 8)]),
            spark(&[(1_000, 9), (4_000, 8)])
        );
    }
}

//! The balance of the last five minutes, kept in memory from the server's messages.

use schema::{Credits, Millis, UnixMillis, session::LiveBalance};

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

/// The balances that were said, oldest first. Not many more than one a second, so the window bounds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spark {
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    at: UnixMillis,
    credits: Credits,
}

/// How the line is drawn, in a box `width` wide and `height` high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// The line, as the `d` of an SVG path.
    pub line: String,
    /// The area under it.
    pub area: String,
    /// A line up to where the known part begins.
    pub unknown: Option<String>,
    /// The balance at the line's beginning.
    pub first: Credits,
    /// The balance at its end.
    pub last: Credits,
}

impl Spark {
    /// Notes that the balance was `credits` at `at`.
    pub fn push(&mut self, at: UnixMillis, credits: Credits) {
        self.points.retain(|point| point.at < at);
        let replaces = self.points.len() > 1
            && self
                .points
                .last()
                .is_some_and(|last| at.since(last.at) < POINT_EVERY)
            && self
                .points
                .iter()
                .rev()
                .nth(1)
                .is_some_and(|before| at.since(before.at) < POINT_EVERY);
        if replaces {
            self.points.pop();
        }
        self.points.push(Point { at, credits });
        // One point from before the window stays, to say where the line comes from.
        let begin = at.saturating_sub(WINDOW);
        let old = self
            .points
            .iter()
            .take_while(|point| point.at <= begin)
            .count();
        self.points.drain(..old.saturating_sub(1));
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
                credits,
            });
            if at <= oldest {
                break;
            }
            intervals += intervals_a_point;
        }
        for Point { at, credits } in traced.into_iter().rev() {
            self.push(at, credits);
        }
    }

    /// The line up to `now`, scaled so that `top` reaches the upper edge. Nothing before the first
    /// point is known, so the line begins there or at the left edge.
    pub fn draw(&self, now: UnixMillis, top: Credits, width: i64, height: i64) -> Option<Drawing> {
        let begin = now.saturating_sub(WINDOW);
        let top = self
            .points
            .iter()
            .map(|point| point.credits)
            .max()?
            .max(top)
            .get()
            .max(1);
        let x = |at: UnixMillis| {
            at.max(begin).since(begin).get().min(WINDOW.get()) * width / WINDOW.get()
        };
        let y = |credits: Credits| {
            let fallen = i128::from(top - credits.get()) * i128::from(height) / i128::from(top);
            i64::try_from(fallen).unwrap_or(height)
        };

        let visible = self
            .points
            .iter()
            .rposition(|point| point.at <= begin)
            .unwrap_or(0);
        let points = self.points.get(visible..)?;
        let (first, last) = (points.first()?, points.last()?);
        let steps = points.iter().skip(1);
        let steps: String = steps
            .flat_map(|step| {
                [
                    "H".into(),
                    x(step.at).to_string(),
                    "V".into(),
                    y(step.credits).to_string(),
                ]
            })
            .collect();
        let line = format!("M{} {}{steps}H{width}", x(first.at), y(first.credits));
        let area = format!("{line}V{height}H{}Z", x(first.at));
        let begins = x(first.at);
        let unknown = (begins > 0).then(|| format!("M0 {}H{begins}", y(first.credits)));
        Some(Drawing {
            line,
            area,
            unknown,
            first: first.credits,
            last: last.credits,
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
            .draw(now, Credits::ZERO, 300, 100)
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
        assert_eq!(spark.points.last().unwrap().credits.get(), 1);
    }

    #[test]
    fn a_session_is_traced_back() {
        let check = |started_at: i64, consumed: i64, as_of: i64, drawn: &str| {
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
            let drawing = spark.draw(unix(as_of), amount(100), 300, 100).unwrap();
            assert_eq!(drawing.line, drawn, "{started_at} {consumed} {as_of}");
        };
        check(300_000, 0, 300_000, "M300 0H300");
        check(300_000, 0, 330_000, "M270 0H300");
        check(300_000, 20, 450_000, "M150 0H210V10H270V20H300");
        check(
            300_000,
            70,
            720_000,
            "M0 20H60V30H120V40H180V50H240V60H300V70H300",
        );
    }

    #[test]
    fn the_server_may_correct_itself() {
        assert_eq!(
            spark(&[(1_000, 9), (5_000, 7), (4_000, 8)]),
            spark(&[(1_000, 9), (4_000, 8)])
        );
    }
}

//! What the log is told of a Redis that is away: at once, and then now and then.
//!
//! It is tried again every second, and one that takes connections and refuses to write comes and goes
//! as often. The log is told of that once, of a new reason, and every few minutes while it lasts.

use std::time::Duration;

use tokio::time::Instant;

/// How often the log is told of one trouble that lasts.
const REPEATED_EVERY: Duration = Duration::from_mins(5);
/// How long after the last line the log is told of another trouble, or of another reason.
const QUIET_FOR: Duration = Duration::from_secs(30);

/// What the log was told of.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// When the log was told last of a trouble, and why.
    told: Option<(Instant, String)>,
    /// When the present trouble began, if there is one.
    since: Option<Instant>,
    /// Whether the log was told of the present trouble.
    is_told: bool,
}

impl Trouble {
    /// There is trouble at `now`, because of `reason`. Returns whether the log should be told.
    pub(super) fn meet(&mut self, reason: &str, now: Instant) -> bool {
        self.since.get_or_insert(now);
        let tells = match &self.told {
            None => true,
            Some((last, told)) => {
                let is_same = self.is_told && told == reason;
                let quiet_for = if is_same { REPEATED_EVERY } else { QUIET_FOR };
                now.saturating_duration_since(*last) >= quiet_for
            }
        };
        if tells {
            self.told = Some((now, reason.to_owned()));
            self.is_told = true;
        }
        tells
    }

    /// Whether the log was told of any trouble yet.
    pub(super) const fn was_ever_told(&self) -> bool {
        self.told.is_some()
    }

    /// The trouble is over at `now`. Returns how long it lasted if the log should be told.
    pub(super) fn end(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        let is_told = std::mem::take(&mut self.is_told);
        is_told.then(|| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the log is told at each of these seconds.
    fn told(
        trouble: &mut Trouble,
        began: Instant,
        reason: &str,
        seconds: std::ops::Range<u64>,
    ) -> Vec<u64> {
        seconds
            .filter(|second| trouble.meet(reason, began + Duration::from_secs(*second)))
            .collect()
    }

    #[test]
    fn a_trouble_that_lasts_is_told_at_once_and_every_few_minutes() {
        let (mut trouble, began) = (Trouble::default(), Instant::now());
        assert_eq!(told(&mut trouble, began, "refused", 0..700), [0, 300, 600]);
        let over = began + Duration::from_secs(701);
        assert_eq!(trouble.end(over), Some(Duration::from_secs(701)));
        assert_eq!(trouble.end(over), None, "it was over before");
    }

    #[test]
    fn another_reason_is_told() {
        let (mut trouble, began) = (Trouble::default(), Instant::now());
        assert_eq!(told(&mut trouble, began, "refused", 0..40), [0]);
        assert_eq!(told(&mut trouble, began, "no password", 40..80), [40]);
    }

    #[test]
    fn one_that_comes_and_goes_is_told_now_and_then() {
        let (mut trouble, began) = (Trouble::default(), Instant::now());
        let mut lines = Vec::new();
        for second in 0..65 {
            let now = began + Duration::from_secs(second);
            if trouble.meet("read-only", now) {
                lines.push((second, "lost"));
            }
            if trouble.end(now).is_some() {
                lines.push((second, "back"));
            }
        }
        let expected = [0, 30, 60].map(|second| [(second, "lost"), (second, "back")]);
        assert_eq!(lines, expected.concat());
    }
}

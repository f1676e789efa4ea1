//! Hears what other writers did to wallets, the command line for one: they leave notices in the
//! database, which are read several times a second.
//!
//! Writers don't wait for each other. A notice gets its number before it can be read, so a lesser number
//! may become readable after a greater one. Numbers are given without gaps, so the reader knows which it
//! has not seen, and reads again from the first of them for as long as a writer may take. After that the
//! writer has failed, and its number never comes.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::time::Instant;

use crate::{
    session::Request,
    store::{Notice, Store, StoreError},
    supervisor::SupervisorMessage,
};

/// How often notices are read. What a notice tells takes effect within a second.
const READ_EVERY: Duration = Duration::from_millis(400);
/// How long a number is waited for. Transactions that leave notices are cut off long before.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// How many numbers below the newest are read at first: those of writers that are about to commit.
const BEFORE_NEWEST: i64 = 1_000;
/// How many notices are read at a time.
const PAGE: u32 = 1_000;

/// Hands every notice to the supervisor, until that has stopped.
pub(crate) async fn listen(mut reader: NoticeReader, supervisor: ActorRef<SupervisorMessage>) {
    let mut is_reading = true;
    loop {
        tokio::time::sleep(READ_EVERY).await;
        match read(&mut reader, &supervisor).await {
            Ok(true) => is_reading = true,
            Ok(false) => return,
            Err(error) => {
                if is_reading {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "can't read notices"
                    );
                }
                is_reading = false;
            }
        }
    }
}

/// Reads all new notices. Returns whether there is a supervisor to hand them to.
async fn read(
    reader: &mut NoticeReader,
    supervisor: &ActorRef<SupervisorMessage>,
) -> Result<bool, StoreError> {
    loop {
        let notices = reader.next().await?;
        if notices.is_empty() {
            return Ok(true);
        }
        for notice in notices {
            let request = SupervisorMessage::Request(notice.user, Request::Notice);
            if supervisor.cast(request).is_err() {
                return Ok(false);
            }
        }
    }
}

/// Reads notices from one database, each once.
pub struct NoticeReader {
    store: Arc<dyn Store>,
    seen: Seen,
}

/// Which numbers were seen.
#[derive(Debug)]
struct Seen {
    /// The greatest number seen.
    newest: i64,
    /// The numbers below it that were not seen, ascending, each since when they are missing.
    missing: VecDeque<(RangeInclusive<i64>, Instant)>,
}

impl NoticeReader {
    /// Reads what is noticed from now on, and perhaps some notices from before.
    pub async fn begin(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let newest = store.latest_notice().await?;
        Ok(Self {
            store,
            seen: Seen::after((newest - BEFORE_NEWEST).max(0)),
        })
    }

    /// Up to a thousand notices that were not handed out before; empty if all were.
    pub async fn next(&mut self) -> Result<Vec<Notice>, StoreError> {
        let mut after = self.seen.read_after(Instant::now());
        loop {
            let page = self.store.notices(Some(after), PAGE).await?;
            let now = Instant::now();
            let is_last = page.len() < PAGE as usize;
            after = page.last().map_or(after, |notice| notice.id);
            let fresh: Vec<Notice> = page
                .into_iter()
                .filter(|notice| self.seen.is_new(notice.id, now))
                .collect();
            // A full page of notices that are known already may hide new ones behind it.
            if !fresh.is_empty() || is_last {
                return Ok(fresh);
            }
        }
    }
}

impl Seen {
    fn after(newest: i64) -> Self {
        Self {
            newest,
            missing: VecDeque::new(),
        }
    }

    /// The number after which there may be notices that were not seen.
    fn read_after(&mut self, now: Instant) -> i64 {
        while self
            .missing
            .front()
            .is_some_and(|(_, since)| now.duration_since(*since) > WAIT_MAX)
        {
            self.missing.pop_front();
        }
        self.missing
            .front()
            .map_or(self.newest, |(numbers, _)| numbers.start() - 1)
    }

    /// Whether `number` is seen for the first time.
    fn is_new(&mut self, number: i64, now: Instant) -> bool {
        if number > self.newest {
            let first = self.newest + 1;
            if number > first {
                self.missing.push_back((first..=number - 1, now));
            }
            self.newest = number;
            return true;
        }
        let mut gaps = self.missing.iter().cloned().enumerate();
        let gap = gaps.find(|(_, (numbers, _))| numbers.contains(&number));
        let Some((index, (numbers, since))) = gap else {
            return false;
        };
        self.missing.remove(index);
        for rest in [number + 1..=*numbers.end(), *numbers.start()..=number - 1] {
            if !rest.is_empty() {
                self.missing.insert(index, (rest, since));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_number_is_new_once_in_whatever_order_it_comes() {
        let mut seen = Seen::after(10);
        let mut now = Instant::now();
        let first = now;
        // The number, whether it is new, and after which number is read then.
        let table = [
            (11, true, 11),
            (11, false, 11),
            (10, false, 11),
            (16, true, 11),
            (14, true, 11),
            (14, false, 11),
            (12, true, 12),
            (13, true, 14),
            (18, true, 14),
            (15, true, 16),
            (17, true, 18),
            (16, false, 18),
        ];
        for (number, is_new, read_after) in table {
            assert_eq!(seen.is_new(number, now), is_new, "{number}");
            assert_eq!(seen.read_after(now), read_after, "after {number}");
            now += Duration::from_millis(100);
        }
        assert!(now.duration_since(first) < WAIT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_never_comes_is_given_up() {
        let mut seen = Seen::after(0);
        let begun = Instant::now();
        assert!(seen.is_new(5, begun));
        let later = begun + Duration::from_secs(3);
        assert!(seen.is_new(3, later), "it splits what is missing");
        assert!(seen.is_new(9, later));
        assert_eq!(seen.read_after(begun + WAIT_MAX), 0);
        assert_eq!(
            seen.read_after(begun + WAIT_MAX + Duration::from_millis(1)),
            5
        );
        let all_over = later + WAIT_MAX + Duration::from_millis(1);
        assert_eq!(seen.read_after(all_over), 9);
        assert!(!seen.is_new(4, all_over), "its writer took too long");
    }
}

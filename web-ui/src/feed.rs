//! A list that the server hands out in pages, newest first, and that grows at the top meanwhile.

use std::rc::Rc;

use schema::{
    EntryId, SessionId,
    ledger::{LedgerEntry, LedgerPage},
    session::{SessionPage, SessionRecord},
};

/// Something that stands in a feed.
pub trait Row: Clone {
    /// What tells it from the others.
    type Id: PartialEq;

    /// Its id.
    fn id(&self) -> Self::Id;
}

impl Row for SessionRecord {
    type Id = SessionId;
    fn id(&self) -> SessionId {
        self.session_id
    }
}

impl Row for LedgerEntry {
    type Id = EntryId;
    fn id(&self) -> EntryId {
        self.entry_id
    }
}

/// One page of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<R> {
    /// The rows.
    pub rows: Vec<R>,
    /// Where the next page begins, if there is one.
    pub next_cursor: Option<String>,
}

impl From<SessionPage> for Page<SessionRecord> {
    fn from(page: SessionPage) -> Self {
        Self {
            rows: page.sessions,
            next_cursor: page.next_cursor,
        }
    }
}

impl From<LedgerPage> for Page<LedgerEntry> {
    fn from(page: LedgerPage) -> Self {
        Self {
            rows: page.entries,
            next_cursor: page.next_cursor,
        }
    }
}

/// A request for a page. Only the answer to the latest one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which request of its feed this is.
    pub number: u32,
    /// Where the page begins: nothing for the newest rows.
    pub cursor: Option<String>,
}

/// What a feed is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedStatus {
    /// Nobody has asked for it.
    Unasked,
    /// The newest rows are on their way.
    Loading,
    /// Older rows are on their way.
    LoadingMore,
    /// All is here that was asked for.
    Ready,
    /// The last request failed, for the reason given.
    Failed(String),
}

/// A feed as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed<R> {
    /// Shared, so that a copy costs nothing and is known to be the same without a look at each row.
    rows: Rc<Vec<R>>,
    next_cursor: Option<String>,
    status: FeedStatus,
    latest: u32,
}

impl<R> Default for Feed<R> {
    fn default() -> Self {
        Self {
            rows: Rc::default(),
            next_cursor: None,
            status: FeedStatus::Unasked,
            latest: 0,
        }
    }
}

impl<R: Row> Feed<R> {
    /// The rows, newest first.
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// What it is doing.
    pub const fn status(&self) -> &FeedStatus {
        &self.status
    }

    /// Whether there are older rows than those here.
    pub const fn has_more(&self) -> bool {
        self.next_cursor.is_some()
    }

    /// Asks for the newest rows. What is here stays until they come.
    pub fn reload(&mut self) -> Ask {
        self.status = FeedStatus::Loading;
        self.ask(None)
    }

    /// Asks for older rows, unless there are none or something is on its way.
    pub fn more(&mut self) -> Option<Ask> {
        if matches!(self.status, FeedStatus::Loading | FeedStatus::LoadingMore) {
            return None;
        }
        let cursor = self.next_cursor.clone()?;
        self.status = FeedStatus::LoadingMore;
        Some(self.ask(Some(cursor)))
    }

    /// Takes the answer to request `number`.
    pub fn arrived(&mut self, number: u32, page: Page<R>) {
        if number != self.latest {
            return;
        }
        match self.status {
            FeedStatus::LoadingMore => self.append(page),
            _ => self.prepend(page),
        }
        self.status = FeedStatus::Ready;
    }

    /// Notes that request `number` failed.
    pub fn failed(&mut self, number: u32, why: String) {
        if number == self.latest {
            self.status = FeedStatus::Failed(why);
        }
    }

    fn ask(&mut self, cursor: Option<String>) -> Ask {
        self.latest += 1;
        Ask {
            number: self.latest,
            cursor,
        }
    }

    fn append(&mut self, page: Page<R>) {
        let fresh = page
            .rows
            .into_iter()
            .filter(|row| !self.rows.iter().any(|known| known.id() == row.id()));
        let fresh: Vec<R> = fresh.collect();
        Rc::make_mut(&mut self.rows).extend(fresh);
        self.next_cursor = page.next_cursor;
    }

    /// Puts the newest rows before those that are here. Where the two don't meet, something may lie
    /// between them, so only the newest stay.
    fn prepend(&mut self, page: Page<R>) {
        let meets = page
            .rows
            .last()
            .and_then(|oldest| self.rows.iter().position(|row| row.id() == oldest.id()));
        let mut rows = page.rows;
        match meets {
            Some(place) => rows.extend(self.rows.iter().skip(place + 1).cloned()),
            None => self.next_cursor = page.next_cursor,
        }
        self.rows = rows.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Number(u8);

    impl Row for Number {
        type Id = u8;
        fn id(&self) -> u8 {
            self.0
        }
    }

    fn page(rows: &[u8], next: Option<&str>) -> Page<Number> {
        Page {
            rows: rows.iter().copied().map(Number).collect(),
            next_cursor: next.map(str::to_owned),
        }
    }

    fn loaded(rows: &[u8], next: Option<&str>) -> Feed<Number> {
        let mut feed = Feed::default();
        let ask = feed.reload();
        feed.arrived(ask.number, page(rows, next));
        feed
    }

    fn check(feed: &Feed<Number>, rows: &[u8], has_more: bool) {
        assert_eq!(
            feed.rows().iter().map(|row| row.0).collect::<Vec<_>>(),
            rows
        );
        assert_eq!(feed.has_more(), has_more);
    }

    #[test]
    fn loads_page_by_page() {
        let mut feed = loaded(&[9, 8], Some("a"));
        let ask = feed.more().unwrap();
        assert_eq!(ask.cursor.as_deref(), Some("a"));
        assert_eq!(feed.more(), None, "a double click asks once");
        feed.arrived(ask.number, page(&[8, 7], None));
        check(&feed, &[9, 8, 7], false);
        assert_eq!(feed.more(), None, "there is no more");
    }

    #[test]
    fn new_rows_come_on_top() {
        let mut feed = loaded(&[9, 8], Some("a"));
        let more = feed.more().unwrap();
        feed.arrived(more.number, page(&[7, 6], Some("b")));
        let ask = feed.reload();
        check(&feed, &[9, 8, 7, 6], true);
        feed.arrived(ask.number, page(&[10, 9], Some("c")));
        check(&feed, &[10, 9, 8, 7, 6], true);
        assert_eq!(
            feed.more().unwrap().cursor.as_deref(),
            Some("b"),
            "the older pages stay where they were"
        );
    }

    #[test]
    fn a_gap_drops_what_lies_beyond_it() {
        let mut feed = loaded(&[3, 2], None);
        let ask = feed.reload();
        feed.arrived(ask.number, page(&[9, 8], Some("a")));
        check(&feed, &[9, 8], true);
    }

    #[test]
    fn only_the_latest_request_counts() {
        let mut feed = loaded(&[2, 1], None);
        let (stale, latest) = (feed.reload(), feed.reload());
        feed.arrived(stale.number, page(&[1], None));
        feed.failed(stale.number, "too late".to_owned());
        assert_eq!(feed.status(), &FeedStatus::Loading);
        feed.failed(latest.number, "no network".to_owned());
        assert_eq!(feed.status(), &FeedStatus::Failed("no network".to_owned()));
        check(&feed, &[2, 1], false);
    }
}

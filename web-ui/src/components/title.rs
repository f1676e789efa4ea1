//! The document's title.

use schema::Millis;

use crate::{browser, clock::LocalTime};

/// Titles are written no nearer to each other than this. The balance and the time change at about the same
/// instant, and each write is told to whoever listens to the window's name.
const WRITE_EVERY: Millis = match Millis::new(950) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// What the title says, and since when.
#[derive(Default)]
pub(super) struct Title {
    shown: String,
    written_at: Option<LocalTime>,
}

impl Title {
    /// Writes `title` at `now`, unless it says the same already or was written just now. One that is put off
    /// is written when the page is drawn next, which it is each second as long as something changes.
    pub(super) fn show(&mut self, title: String, now: LocalTime) {
        let was_just_written = self
            .written_at
            .is_some_and(|at| now.since(at) < WRITE_EVERY);
        // A session that begins or ends changes more than numbers.
        let is_same_kind = title.contains('·') == self.shown.contains('·');
        if title == self.shown || (was_just_written && is_same_kind) {
            return;
        }
        if let Some(document) = browser::document() {
            document.set_title(&title);
            (self.shown, self.written_at) = (title, Some(now));
        }
    }
}

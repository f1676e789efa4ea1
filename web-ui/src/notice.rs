//! Short messages at the edge of the page that go away by themselves or when they are dismissed.

use schema::Millis;

use crate::clock::LocalTime;

/// How many notices there are at most. Older ones give way.
const NOTICES_MAX: usize = 3;

/// How long a notice stays that only confirms something.
const BRIEF: Millis = match Millis::new(12_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something went as wished.
    Good,
    /// Something to know.
    Plain,
    /// Something went wrong.
    Bad,
}

/// When something that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// From when on that makes sense.
    pub at: LocalTime,
    /// Who does it.
    pub by: RetriedBy,
}

/// Who tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetriedBy {
    /// The user, or nobody.
    User,
    /// The page, without being asked.
    Page,
}

/// Tells one notice from another.
pub type NoticeNumber = u32;

/// One notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its number.
    pub number: NoticeNumber,
    /// What it is about.
    pub tone: Tone,
    /// What it says.
    pub text: String,
    /// When what it speaks of is tried again, if that is known.
    pub retry: Option<Retry>,
    /// When it goes away by itself, if it does.
    pub expires_at: Option<LocalTime>,
}

/// All notices there are, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    list: Vec<Notice>,
    last_number: NoticeNumber,
}

impl Notices {
    /// The notices, oldest first.
    pub fn list(&self) -> &[Notice] {
        &self.list
    }

    /// Confirms something that the user did.
    pub fn confirm(&mut self, text: String, now: LocalTime) {
        self.push(Tone::Good, text, None, Some(now.after(BRIEF)));
    }

    /// Says something that has happened by itself.
    pub fn tell(&mut self, text: String, now: LocalTime) {
        self.push(Tone::Plain, text, None, Some(now.after(BRIEF)));
    }

    /// Says something that the user has to know. It stays until it is dismissed.
    pub fn insist(&mut self, text: String) {
        self.push(Tone::Plain, text, None, None);
    }

    /// Says that something failed, and when it is tried again, if that is known. It stays until it is
    /// dismissed or the trouble is over. Returns the notice's number.
    pub fn complain(&mut self, text: String, retry: Option<Retry>) -> NoticeNumber {
        self.push(Tone::Bad, text, retry, None);
        self.last_number
    }

    /// Says `text` where something else was said.
    pub fn reword(&mut self, instead_of: &str, text: String) {
        let said = self
            .list
            .iter_mut()
            .find(|notice| notice.text == instead_of);
        if let Some(notice) = said {
            notice.text = text;
        }
    }

    /// Takes away the notice with this number.
    pub fn dismiss(&mut self, number: NoticeNumber) {
        self.list.retain(|notice| notice.number != number);
    }

    /// Takes away the newest notice, and tells whether there was one.
    pub fn dismiss_newest(&mut self) -> bool {
        self.list.pop().is_some()
    }

    /// Takes away what speaks of trouble that is over.
    pub fn clear_complaints(&mut self) {
        self.list.retain(|notice| notice.tone != Tone::Bad);
    }

    /// Takes away all.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Takes away what has been seen for long enough.
    pub fn expire(&mut self, now: LocalTime) {
        self.list
            .retain(|notice| notice.expires_at.is_none_or(|expires_at| expires_at > now));
    }

    fn push(
        &mut self,
        tone: Tone,
        text: String,
        retry: Option<Retry>,
        expires_at: Option<LocalTime>,
    ) {
        self.list.retain(|notice| notice.text != text);
        self.last_number = self.last_number.wrapping_add(1);
        self.list.push(Notice {
            number: self.last_number,
            tone,
            text,
            retry,
            expires_at,
        });
        let surplus = self.list.len().saturating_sub(NOTICES_MAX);
        self.list.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(notices: &Notices) -> Vec<&str> {
        notices
            .list()
            .iter()
            .map(|notice| notice.text.as_str())
            .collect()
    }

    #[test]
    fn come_and_go() {
        let now = LocalTime::new(0);
        let mut notices = Notices::default();
        notices.confirm("stopped".into(), now);
        notices.complain("no network".into(), None);
        notices.complain("no network".into(), None);
        assert_eq!(
            texts(&notices),
            ["stopped", "no network"],
            "the same is said once"
        );

        notices.expire(LocalTime::new(11_999));
        assert_eq!(texts(&notices).len(), 2);
        notices.expire(LocalTime::new(12_000));
        assert_eq!(texts(&notices), ["no network"], "trouble stays");

        for text in ["a", "b", "c"] {
            notices.tell(text.into(), now);
        }
        assert_eq!(texts(&notices), ["a", "b", "c"], "the oldest gives way");
        notices.dismiss(notices.list()[1].number);
        assert_eq!(texts(&notices), ["a", "c"]);
        assert!(notices.dismiss_newest() && notices.dismiss_newest() && !notices.dismiss_newest());
    }
}

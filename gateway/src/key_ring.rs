//! The keys of the tokens: several, so that one can take another's place without anybody noticing.
//!
//! The first key makes tokens, and all of them read. A key is known by its PASERK id, which stands in
//! the footer of the tokens that it made and tells nothing of the key.

use std::sync::Arc;

use pasetors::{
    keys::{Generate, SymmetricKey},
    paserk::{FormatAsPaserk, Id},
    version4::V4,
};

/// How many keys there may be. Each is one more that can leak.
const KEYS_MAX: usize = 16;

/// Why there is no ring of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// There is no key at all.
    #[error("there is no key")]
    Empty,
    /// One of the texts is no key.
    #[error("key {place} is not a PASERK key, k4.local.…")]
    NotAKey {
        /// Which one, counted from 1.
        place: usize,
    },
    /// Two of them are the same.
    #[error("key {place} is there already")]
    Twice {
        /// The second one, counted from 1.
        place: usize,
    },
    /// There are too many.
    #[error("there are more than {KEYS_MAX} keys: retire one")]
    TooMany,
    /// The system gave no randomness, or a key has no text.
    #[error("no key could be made: {0}")]
    NotMade(String),
}

/// What a key is known by: a PASERK `k4.lid.…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The id with this text, of whatever key.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key with what follows from it.
#[derive(Clone)]
pub struct Key {
    secret: SymmetricKey<V4>,
    id: KeyId,
    /// What stands in the footer of its tokens.
    footer: String,
}

impl Key {
    /// A new one.
    pub fn generate() -> Result<Self, KeyRingError> {
        SymmetricKey::generate()
            .map_err(|error| KeyRingError::NotMade(error.to_string()))
            .and_then(Self::new)
    }

    fn new(secret: SymmetricKey<V4>) -> Result<Self, KeyRingError> {
        let mut id = String::new();
        FormatAsPaserk::fmt(&Id::from(&secret), &mut id)
            .map_err(|error| KeyRingError::NotMade(error.to_string()))?;
        Ok(Self {
            secret,
            footer: format!(r#"{{"kid":"{id}"}}"#),
            id: KeyId(id.into()),
        })
    }

    /// The key itself.
    pub const fn secret(&self) -> &SymmetricKey<V4> {
        &self.secret
    }

    /// What it is known by.
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// What stands in the footer of its tokens.
    pub fn footer(&self) -> &[u8] {
        self.footer.as_bytes()
    }
}

/// One or more different keys, in order.
#[derive(Clone)]
pub struct KeyRing(Vec<Key>);

impl KeyRing {
    /// A ring of one new key.
    pub fn generate() -> Result<Self, KeyRingError> {
        Ok(Self(vec![Key::generate()?]))
    }

    /// The keys in `text`, with white space between them.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut ring = Self(Vec::new());
        for (place, word) in (1..).zip(text.split_whitespace()) {
            let secret =
                SymmetricKey::try_from(word).map_err(|_| KeyRingError::NotAKey { place })?;
            let key = Key::new(secret)?;
            if ring.has(&key.id) {
                return Err(KeyRingError::Twice { place });
            }
            ring.push(key)?;
        }
        if ring.0.is_empty() {
            return Err(KeyRingError::Empty);
        }
        Ok(ring)
    }

    /// The keys as a file has them, one a line.
    pub fn to_text(&self) -> Result<String, KeyRingError> {
        let mut text = String::new();
        for key in &self.0 {
            FormatAsPaserk::fmt(&key.secret, &mut text)
                .map_err(|error| KeyRingError::NotMade(error.to_string()))?;
            text.push('\n');
        }
        Ok(text)
    }

    /// The key that makes tokens.
    pub fn current(&self) -> &Key {
        // A ring is never empty: it is made with a key, and the last one can't be removed.
        &self.0[0]
    }

    /// All keys in order, the one that makes tokens first.
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// The key whose tokens have this footer.
    pub fn by_footer(&self, footer: &[u8]) -> Option<&Key> {
        self.find(|key| key.footer() == footer)
    }

    /// Whether the key `id` is among them.
    pub fn has(&self, id: &KeyId) -> bool {
        self.find(|key| key.id == *id).is_some()
    }

    /// The key whose id is `id` or begins with it, if there is exactly one.
    pub fn by_id(&self, id: &str) -> Option<KeyId> {
        let mut found = self.0.iter().filter(|key| key.id.as_str().starts_with(id));
        let first = found.next()?;
        found.next().is_none().then(|| first.id.clone())
    }

    /// Takes one more key, which makes no tokens yet.
    pub fn push(&mut self, key: Key) -> Result<(), KeyRingError> {
        if self.0.len() >= KEYS_MAX {
            return Err(KeyRingError::TooMany);
        }
        self.0.push(key);
        Ok(())
    }

    /// Lets the key `id` make tokens from now on.
    pub fn make_current(&mut self, id: &KeyId) {
        if let Some(place) = self.0.iter().position(|key| key.id == *id) {
            self.0[..=place].rotate_right(1);
        }
    }

    /// Removes the key `id`, unless it is the one that makes tokens; tells whether it did.
    pub fn remove(&mut self, id: &KeyId) -> bool {
        let before = self.0.len();
        let current = self.current().id.clone();
        self.0.retain(|key| key.id == current || key.id != *id);
        self.0.len() < before
    }

    /// Whether the other ring has the same keys in the same order.
    pub fn is_same(&self, other: &Self) -> bool {
        let ids = |ring: &Self| ring.0.iter().map(|key| key.id.clone()).collect::<Vec<_>>();
        ids(self) == ids(other)
    }

    fn find(&self, is_meant: impl Fn(&Key) -> bool) -> Option<&Key> {
        self.0.iter().find(|key| is_meant(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        KeyRing::generate().unwrap().to_text().unwrap()
    }

    #[test]
    fn a_ring_is_read_as_it_was_written() {
        let (first, second) = (key(), key());
        let check = |text: String, expected: Result<usize, KeyRingError>| {
            let read = KeyRing::parse(&text).map(|ring| ring.keys().len());
            assert_eq!(read, expected);
        };
        check(first.clone(), Ok(1));
        check(format!("\n{first}\n {second}\n\n"), Ok(2));
        check(String::new(), Err(KeyRingError::Empty));
        check(" \n".to_owned(), Err(KeyRingError::Empty));
        check(
            format!("{first}nonsense"),
            Err(KeyRingError::NotAKey { place: 2 }),
        );
        check(
            format!("{first}{second}{first}"),
            Err(KeyRingError::Twice { place: 3 }),
        );
        check(
            (0..=KEYS_MAX).map(|_| key()).collect(),
            Err(KeyRingError::TooMany),
        );

        let text = format!("{first}{second}");
        let ring = KeyRing::parse(&text).unwrap();
        assert_eq!(ring.to_text().unwrap(), text);
        assert!(ring.is_same(&KeyRing::parse(&text).unwrap()));
        assert!(!ring.is_same(&KeyRing::parse(&format!("{second}{first}")).unwrap()));
    }

    #[test]
    fn keys_come_and_go_in_order() {
        let mut ring = KeyRing::generate().unwrap();
        let first = ring.current().id().clone();
        let (second, third) = (Key::generate().unwrap(), Key::generate().unwrap());
        let (second_id, third_id) = (second.id().clone(), third.id().clone());
        ring.push(second).unwrap();
        ring.push(third).unwrap();
        let ids = |ring: &KeyRing| {
            ring.keys()
                .iter()
                .map(|key| key.id().clone())
                .collect::<Vec<_>>()
        };

        ring.make_current(&third_id);
        assert_eq!(
            ids(&ring),
            [third_id.clone(), first.clone(), second_id.clone()]
        );
        assert!(!ring.remove(&third_id), "the key that makes tokens stays");
        assert!(ring.remove(&first));
        assert!(!ring.remove(&first));
        assert_eq!(ids(&ring), [third_id.clone(), second_id]);

        assert_eq!(ring.by_id(third_id.as_str()), Some(third_id.clone()));
        assert_eq!(ring.by_id("k4.lid."), None, "more than one begins so");
        assert_eq!(ring.by_id("k4.lid.nobody"), None);
        let footer = format!(r#"{{"kid":"{}"}}"#, third_id.as_str());
        assert_eq!(
            ring.by_footer(footer.as_bytes()).map(Key::id),
            Some(&third_id)
        );
        assert!(ring.by_footer(b"").is_none());
    }
}

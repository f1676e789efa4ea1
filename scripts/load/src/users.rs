//! The users as whom the load generator acts, by their bearer tokens.

use std::{ops::Range, path::Path};

use anyhow::Context;

/// Users, by their tokens.
pub struct Users {
    /// All tokens in one text: a million strings would cost another 24 MB.
    text: String,
    places: Vec<Range<u32>>,
    /// When the first and the last of their sessions started, if they have any.
    pub live: Option<(i64, i64)>,
}

impl Users {
    /// Reads a file of tokens, one a line.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file);
        Self::new(text.with_context(|| format!("can't read the tokens in {}", file.display()))?)
    }

    /// The users of the tokens in `text`, one a line. Empty lines and spaces around a token don't count.
    pub fn new(text: String) -> anyhow::Result<Self> {
        u32::try_from(text.len()).context("too many tokens")?;
        let mut places = Vec::new();
        let mut begin = 0;
        for line in text.split_inclusive('\n') {
            let token = line.trim();
            if !token.is_empty() {
                let from = begin + (line.len() - line.trim_start().len());
                places.push(u32::try_from(from)?..u32::try_from(from + token.len())?);
            }
            begin += line.len();
        }
        Ok(Self {
            text,
            places,
            live: None,
        })
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The token of the user of this number.
    pub fn token(&self, number: usize) -> &str {
        let place = &self.places[number];
        &self.text[place.start as usize..place.end as usize]
    }

    /// The tokens of so many of them, spread evenly among all.
    pub fn evenly(&self, count: usize) -> impl Iterator<Item = &str> {
        self.numbers_evenly(count).map(|number| self.token(number))
    }

    /// The numbers of the same ones.
    pub fn numbers_evenly(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let (all, count) = (self.len(), count.min(self.len()));
        (0..count).map(move |number| number * all / count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_their_number() {
        let users = Users::new("a\n bcd \r\n\ne".to_owned()).unwrap();
        let tokens: Vec<&str> = (0..users.len()).map(|number| users.token(number)).collect();
        assert_eq!(tokens, ["a", "bcd", "e"]);
        assert_eq!(users.evenly(2).collect::<Vec<_>>(), ["a", "bcd"]);
        assert_eq!(users.evenly(9).count(), 3);
        assert_eq!(Users::new(String::new()).unwrap().evenly(1).count(), 0);
    }
}

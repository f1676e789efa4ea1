//! Reading what definitions say.

/// `text` in one line: line breaks, tabs and backslashes become escapes.
#[cfg(test)]
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\t', "\\t")
}

/// What [`escaped`] was given.
pub(super) fn unescaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(other) => text.push(other),
                None => {}
            },
            (other, false) => text.push(other),
        }
    }
    text
}

/// What stands within the parenthesis that `text` begins with, and what comes after it.
pub(super) fn parenthesised(text: &str) -> Option<(&str, &str)> {
    let inner = text.trim_start().strip_prefix('(')?;
    let mut depth = 1_u32;
    let mut quote = None;
    for (place, character) in inner.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (Some(_) | None, _) => {}
        }
        if depth == 0 {
            return Some((inner.get(..place)?, inner.get(place + 1..)?));
        }
    }
    None
}

/// `sql` without comments, its white space made single spaces.
pub(super) fn plain(sql: &str) -> String {
    let lines = sql
        .lines()
        .map(|line| line.split_once("--").map_or(line, |(code, _)| code));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ")
}

/// The conditions of the CHECK constraints in a CREATE TABLE.
pub(super) fn checks(sql: &str) -> Vec<String> {
    let sql = plain(sql);
    let parts = sql.match_indices("CHECK (");
    let condition = |(place, _): (usize, &str)| {
        let rest = sql.get(place + "CHECK ".len()..)?;
        parenthesised(rest).map(|(condition, _)| condition.to_owned())
    };
    parts.filter_map(condition).collect()
}

/// The columns of a CREATE INDEX, and its condition if it has one.
pub(super) fn index_parts(sql: &str) -> Option<(String, Option<String>)> {
    let sql = plain(sql);
    let (_, rest) = sql.split_once(" ON ")?;
    let from = rest.find('(')?;
    let (columns, rest) = parenthesised(rest.get(from..)?)?;
    let condition = rest.trim_start().strip_prefix("WHERE ");
    Some((columns.to_owned(), condition.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_comes_back() {
        for text in ["", "plain", "two\nlines\tand \\n \\\\ backslashes\\"] {
            assert_eq!(unescaped(&escaped(text)), text);
            assert!(!escaped(text).contains(['\n', '\t']));
        }
    }

    #[test]
    fn conditions_are_found_in_a_table() {
        let sql = "CREATE TABLE t (\n  a TEXT NOT NULL CHECK (a <> ')'), -- CHECK (no)\n  b INTEGER
            CHECK (b IN (1, 2)),\n CHECK ((a = '(') = (b IS NULL))\n) STRICT";
        assert_eq!(
            checks(sql),
            ["a <> ')'", "b IN (1, 2)", "(a = '(') = (b IS NULL)"]
        );
    }

    #[test]
    fn an_index_has_columns_and_perhaps_a_condition() {
        let check = |sql: &str, columns: &str, condition: Option<&str>| {
            let expected = Some((columns.to_owned(), condition.map(str::to_owned)));
            assert_eq!(index_parts(sql), expected, "{sql}");
        };
        check("CREATE INDEX i ON t (a, b DESC)", "a, b DESC", None);
        check(
            "CREATE UNIQUE INDEX i ON t USING btree (lower(a)) WHERE (b IS NULL)",
            "lower(a)",
            Some("(b IS NULL)"),
        );
        assert_eq!(index_parts("CREATE TABLE t (a TEXT)"), None);
    }
}

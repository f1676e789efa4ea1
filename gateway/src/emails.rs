//! Email addresses: what is one, and in which form it is kept.
//!
//! One address can be written in several ways that look the same: with letters and accents apart or
//! together, and with a domain in Unicode or in the DNS's own letters. It is kept and looked for in one
//! form (NFC, the domain in small letters of Unicode), so that nobody signs up twice and whoever has
//! another keyboard still logs in. The case of ASCII letters is kept as given; the database ignores it.

use email_address::{EmailAddress, Options};
use engine::store::{Store, StoreError, UserRecord};
use unicode_normalization::UnicodeNormalization;

/// The longest email address that there can be, in bytes (RFC 5321, as corrected by erratum 1690).
pub const EMAIL_BYTES_MAX: usize = 254;

/// `given` in the form that is kept, if it is an email address.
pub fn valid(given: &str) -> Option<String> {
    let email = normal(given);
    let options = Options::default()
        .without_display_text()
        .without_domain_literal();
    let is_valid = may_be(&email)
        && !email.contains(|c: char| c.is_whitespace() || is_invisible(c))
        && EmailAddress::parse_with_options(&email, options).is_ok();
    is_valid.then_some(email)
}

/// Whether somebody can have signed up with `given`, as far as its length and its characters tell. No
/// database takes a NUL in a text.
pub fn may_be(given: &str) -> bool {
    let given = given.trim();
    given.len() <= EMAIL_BYTES_MAX && !given.contains(char::is_control)
}

/// Whether `c` shows nothing itself, or changes how its neighbours show: with it two emails look the same.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// `given` without space around it, in the form that is kept. What is no address stays as it is.
pub fn normal(given: &str) -> String {
    let email: String = given.trim().nfc().collect();
    let Some((local, domain)) = email.rsplit_once('@') else {
        return email;
    };
    let has_labels = domain.split('.').any(|label| {
        label
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("xn--"))
    });
    if domain.is_ascii() && !has_labels {
        return email;
    }
    match idna::domain_to_unicode(domain) {
        (domain, Ok(())) => format!("{local}@{domain}"),
        (_, Err(_)) => email,
    }
}

/// The user with this email. Those who signed up before there was one form are found as they wrote it.
pub async fn find(store: &dyn Store, given: &str) -> Result<Option<UserRecord>, StoreError> {
    let email = normal(given);
    if !may_be(&email) {
        return Ok(None);
    }
    let found = store.user_by_email(&email).await?;
    let as_given = given.trim();
    if found.is_some() || as_given == email {
        return Ok(found);
    }
    store.user_by_email(as_given).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails_are_told_from_other_texts() {
        let check = |given: &str, expected: Option<&str>| {
            assert_eq!(valid(given).as_deref(), expected, "{given:?}");
        };
        check("a@b.c", Some("a@b.c"));
        check(" Ada@Example.com\n", Some("Ada@Example.com"));
        check("a+tag@sub.example.com", Some("a+tag@sub.example.com"));
        check("user@localhost", Some("user@localhost"));
        check("jürgen@müller.de", Some("jürgen@müller.de"));
        check("", None);
        check("a", None);
        check("@b", None);
        check("a@", None);
        check("a@b@c", None);
        check("a b@c.d", None);
        check("a@c d.e", None);
        check("a@b\u{0}.c", None);
        check("a\u{202e}@b.c", None);
        check("a\u{200b}@b.c", None);
        check("a@b.c\u{7f}", None);
        check("Ada <a@b.c>", None);
        check("a@[127.0.0.1]", None);
        check(&format!("{}@b.c", "a".repeat(300)), None);
    }

    #[test]
    fn one_address_has_one_form() {
        let check = |given: &str, expected: &str| assert_eq!(normal(given), expected, "{given:?}");
        check("Ada@Example.COM", "Ada@Example.COM");
        check("ju\u{308}rgen@mu\u{308}ller.de", "jürgen@müller.de");
        check("jürgen@MÜLLER.DE", "jürgen@müller.de");
        check("jürgen@xn--mller-kva.de", "jürgen@müller.de");
        check("a@XN--MLLER-KVA.de", "a@müller.de");
        check("a@日本。jp", "a@日本.jp");
        check("\u{2003}a@b.c\u{a0}", "a@b.c");
        // What is no domain stays for the check to refuse.
        check("a@xn--\u{ff}", "a@xn--\u{ff}");
        check("no address", "no address");
    }
}

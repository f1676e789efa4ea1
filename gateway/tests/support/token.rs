//! Tokens as somebody with our key would make them.

use std::time::Duration;

use jiff::Timestamp;
use pasetors::{
    keys::SymmetricKey,
    paserk::{FormatAsPaserk, Id},
    version4::{LocalToken, V4},
};
use serde_json::{Value, json};

use super::server::TOKEN_KEY;

/// A token of `user` that lasts for an hour, with its claims changed.
pub fn made_token(user: u64, change: impl Fn(&mut Value)) -> String {
    let mut claims = claims(user);
    change(&mut claims);
    sealed(TOKEN_KEY, &footer_of(TOKEN_KEY), "minute-credit", &claims)
}

/// What a token of `user` says that lasts for an hour.
pub fn claims(user: u64) -> Value {
    #[expect(clippy::disallowed_methods, reason = "a client has a clock of its own")]
    let now = Timestamp::now();
    let later = (now + Duration::from_hours(1)).to_string();
    json!({
        "iss": "minute-credit", "aud": "minute-credit", "sub": user.to_string(),
        "jti": "0123456789abcdef0123456789abcdef",
        "iat": now.to_string(), "nbf": now.to_string(), "exp": later,
    })
}

/// The footer of tokens of `key`.
pub fn footer_of(key: &str) -> String {
    let key = SymmetricKey::<V4>::try_from(key).unwrap();
    let mut key_id = String::new();
    FormatAsPaserk::fmt(&Id::from(&key), &mut key_id).unwrap();
    format!(r#"{{"kid":"{key_id}"}}"#)
}

/// A token of any make.
pub fn sealed(key: &str, footer: &str, assertion: &str, claims: &Value) -> String {
    let key = SymmetricKey::<V4>::try_from(key).unwrap();
    LocalToken::encrypt(
        &key,
        claims.to_string().as_bytes(),
        Some(footer.as_bytes()),
        Some(assertion.as_bytes()),
    )
    .unwrap()
}

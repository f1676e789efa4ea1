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
    let key = SymmetricKey::<V4>::try_from(TOKEN_KEY).unwrap();
    let mut key_id = String::new();
    FormatAsPaserk::fmt(&Id::from(&key), &mut key_id).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a client has a clock of its own")]
    let now = Timestamp::now();
    let at = |seconds: i64| (now + Duration::from_secs(seconds.unsigned_abs())).to_string();
    let mut claims = json!({
        "iss": "minute-credit", "aud": "minute-credit", "sub": user.to_string(),
        "jti": "0123456789abcdef0123456789abcdef",
        "iat": now.to_string(), "nbf": now.to_string(), "exp": at(3_600),
    });
    change(&mut claims);
    let footer = format!(r#"{{"kid":"{key_id}"}}"#);
    let message = claims.to_string();
    LocalToken::encrypt(
        &key,
        message.as_bytes(),
        Some(footer.as_bytes()),
        Some(b"minute-credit"),
    )
    .unwrap()
}

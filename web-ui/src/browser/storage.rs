//! What the browser keeps for the next visit and for other tabs: the token, and nothing else.

use web_sys::Storage;

use crate::api::Token;

/// The name under which the token is kept.
pub const TOKEN_KEY: &str = "minute-credit.token";

/// The token of the last login, if the browser keeps one.
pub fn token() -> Option<Token> {
    let text = storage()?.get_item(TOKEN_KEY).ok()??;
    (!text.is_empty()).then(|| Token::new(text))
}

/// Keeps the token. Where the browser refuses, the login lasts as long as the page.
pub fn remember(token: &Token) {
    if let Some(storage) = storage() {
        let _ = storage.set_item(TOKEN_KEY, token.as_str());
    }
}

/// Keeps `token` no longer. Another tab's newer token stays.
pub fn forget(token: &Token) {
    if self::token().as_ref() == Some(token)
        && let Some(storage) = storage()
    {
        let _ = storage.remove_item(TOKEN_KEY);
    }
}

fn storage() -> Option<Storage> {
    super::window()?.local_storage().ok()?
}

//! Bearer tokens: PASETO v4.local, made with the first key of a ring and read with any of it.
//!
//! A token says who, when it was made and when it ends, and has an id of its own so that it can be
//! revoked. Its claims are checked here against the engine's clock, and not by `pasetors`, whose
//! rules read the wall clock and know nothing of issuer and audience. Deliberately absent: what
//! becomes of a token after it was made (`access`).

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use engine::store::{AccountKey, TokenGeneration};
use jiff::Timestamp;
use pasetors::{
    Local,
    token::UntrustedToken,
    version4::{LocalToken, V4},
};
use schema::{Millis, UnixMillis, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    key_ring::{KeyId, KeyRing},
    recent::Recent,
};

/// Who makes our tokens and whom they are for.
const SELF: &str = "minute-credit";

/// The longest text that is looked at; ours have about 400 bytes.
const TOKEN_BYTES_MAX: usize = 1_024;

/// How far ahead of our clock a token may have been made: another process's clock may be ahead, and
/// so may ours have been before a crash.
const CLOCK_SKEW_MAX: Millis = match Millis::new(60_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// The id of a token, chosen at random: 32 hexadecimal digits as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(u128);

impl TokenId {
    fn random() -> Self {
        Self(rand::random())
    }

    /// The id with these digits, if they are some.
    pub fn parse(digits: &str) -> Option<Self> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (digits.len() == 32 && digits.bytes().all(is_digit))
            .then(|| u128::from_str_radix(digits, 16).ok().map(Self))
            .flatten()
    }
}

/// The digits.
impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a genuine token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Whose it is.
    pub user: UserId,
    /// The token's id.
    pub token: TokenId,
    /// The generation of the user's tokens that it belongs to.
    pub generation: TokenGeneration,
    /// The key of the account; `None` in tokens from before accounts had one.
    pub account: Option<AccountKey>,
    /// When it was made.
    pub issued_at: UnixMillis,
    /// When it ends.
    pub expires_at: UnixMillis,
    /// The key that it was made with.
    pub key: KeyId,
}

/// The token is none of ours, is over, or is not yet valid. Which of these is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not valid")]
pub struct InvalidToken;

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a token could not be made: {0}")]
pub struct TokenNotMade(pub(crate) String);

/// Makes and reads tokens.
pub struct Tokens {
    ring: RwLock<Arc<KeyRing>>,
    lifetime: Millis,
    /// What genuine tokens say, by their SHA-256. A client sends its token with every request; to open
    /// it takes some 10 µs, to find it here less than one.
    genuine: Mutex<Recent<[u8; 32], Bearer>>,
}

/// How many tokens are kept open at most, of 130 bytes each.
const GENUINE_MAX: usize = 400_000;

/// The claims as they stand in a token. RFC 3339 times are PASETO's convention.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    jti: String,
    /// Tokens from before there were generations have none, and belong to the first.
    #[serde(default)]
    generation: i64,
    /// Tokens from before accounts had keys have none. The name is short since old clients put tokens into
    /// addresses.
    #[serde(rename = "ac", default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    iat: Timestamp,
    nbf: Timestamp,
    exp: Timestamp,
}

impl Tokens {
    /// Tokens of the keys in `ring` that are valid for `lifetime`.
    pub fn new(ring: KeyRing, lifetime: Millis) -> Self {
        Self {
            ring: RwLock::new(Arc::new(ring)),
            lifetime,
            genuine: Mutex::new(Recent::new(GENUINE_MAX)),
        }
    }

    /// The keys as they are now.
    pub fn ring(&self) -> Arc<KeyRing> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&ring)
    }

    /// From now on these are the keys.
    pub fn replace_ring(&self, ring: KeyRing) {
        let mut place = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(ring);
        drop(place);
        self.known().clear();
    }

    /// A fresh token for `user`, for no other account that has the same id.
    pub fn issue(
        &self,
        user: UserId,
        account: Option<AccountKey>,
        generation: TokenGeneration,
        now: UnixMillis,
    ) -> Result<String, TokenNotMade> {
        let ends = now
            .checked_add(self.lifetime)
            .ok_or_else(|| TokenNotMade("it would never end".to_owned()))?;
        let (made, ends) = (timestamp(now)?, timestamp(ends)?);
        let claims = Claims {
            iss: SELF.to_owned(),
            aud: SELF.to_owned(),
            sub: user.to_string(),
            jti: TokenId::random().to_string(),
            generation: generation.get(),
            account: account.map(|account| account.to_string()),
            iat: made,
            nbf: made,
            exp: ends,
        };
        let message =
            serde_json::to_vec(&claims).map_err(|error| TokenNotMade(error.to_string()))?;
        let ring = self.ring();
        let key = ring.current();
        let (footer, assertion) = (Some(key.footer()), Some(SELF.as_bytes()));
        LocalToken::encrypt(key.secret(), &message, footer, assertion)
            .map_err(|error| TokenNotMade(error.to_string()))
    }

    /// What `token` says, if it is one of ours and valid at `now`. Whether it was revoked is not
    /// known here.
    pub fn read(&self, token: &str, now: UnixMillis) -> Result<Bearer, InvalidToken> {
        self.genuine(token, now)
            .ok()
            .filter(|bearer| now < bearer.expires_at)
            .ok_or(InvalidToken)
    }

    /// What `token` says, if it is one of ours and was valid at `now` or before.
    pub fn genuine(&self, token: &str, now: UnixMillis) -> Result<Bearer, InvalidToken> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(InvalidToken);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = self.known().get(&digest);
        if let Some(bearer) = known.filter(|bearer| has_begun(bearer, now)) {
            return Ok(bearer);
        }
        let ring = self.ring();
        let (claims, key) = claims(&ring, token).ok_or(InvalidToken)?;
        let bearer = bearer(&claims, key, now).ok_or(InvalidToken)?;
        // Not if the keys are others by now. Whoever replaces them clears this after that.
        let mut known = self.known();
        if Arc::ptr_eq(&ring, &self.ring()) {
            known.put(digest, bearer.clone());
        }
        Ok(bearer)
    }

    fn known(&self) -> MutexGuard<'_, Recent<[u8; 32], Bearer>> {
        self.genuine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The claims in `token`, and the key of the ring that it was made with.
fn claims(ring: &KeyRing, token: &str) -> Option<(Claims, KeyId)> {
    let sealed = UntrustedToken::<Local, V4>::try_from(token).ok()?;
    let key = ring.by_footer(sealed.untrusted_footer())?;
    let (footer, assertion) = (Some(key.footer()), Some(SELF.as_bytes()));
    let open = LocalToken::decrypt(key.secret(), &sealed, footer, assertion).ok()?;
    let claims = serde_json::from_str(open.payload()).ok()?;
    Some((claims, key.id().clone()))
}

/// Whether the token counts at `now` already, as far as our clocks agree.
fn has_begun(bearer: &Bearer, now: UnixMillis) -> bool {
    now.checked_add(CLOCK_SKEW_MAX)
        .is_some_and(|latest_start| bearer.issued_at <= latest_start)
}

/// What `claims` say, if they are for us and hold at `now`, or did before.
fn bearer(claims: &Claims, key: KeyId, now: UnixMillis) -> Option<Bearer> {
    let instant = |timestamp: Timestamp| UnixMillis::new(timestamp.as_millisecond()).ok();
    let (issued_at, not_before, expires_at) = (
        instant(claims.iat)?,
        instant(claims.nbf)?,
        instant(claims.exp)?,
    );
    let latest_start = now.checked_add(CLOCK_SKEW_MAX)?;
    let is_ours = claims.iss == SELF && claims.aud == SELF;
    let has_begun = issued_at <= latest_start && not_before <= latest_start;
    if !is_ours || !has_begun {
        return None;
    }
    let user = UserId::new(claims.sub.parse().ok()?).ok()?;
    let account = match &claims.account {
        Some(digits) => Some(AccountKey::parse(digits)?),
        None => None,
    };
    Some(Bearer {
        user,
        account,
        token: TokenId::parse(&claims.jti)?,
        generation: TokenGeneration::new(claims.generation),
        issued_at,
        expires_at,
        key,
    })
}

fn timestamp(instant: UnixMillis) -> Result<Timestamp, TokenNotMade> {
    Timestamp::from_millisecond(instant.get()).map_err(|error| TokenNotMade(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_ring::Key;

    const NOW: i64 = 1_800_000_000_123;

    fn ms(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    fn tokens() -> Tokens {
        Tokens::new(
            KeyRing::generate().unwrap(),
            Millis::new(86_400_000).unwrap(),
        )
    }

    fn generation() -> TokenGeneration {
        TokenGeneration::new(3)
    }

    fn user() -> UserId {
        UserId::new(7).unwrap()
    }

    fn account() -> AccountKey {
        AccountKey::parse("0123456789abcdef0123456789abcdef").unwrap()
    }

    #[test]
    fn a_token_says_who_and_until_when() {
        let tokens = tokens();
        let token = tokens
            .issue(user(), Some(account()), generation(), ms(NOW))
            .unwrap();
        assert!(token.starts_with("v4.local.") && token.len() < TOKEN_BYTES_MAX / 2);
        let bearer = tokens.read(&token, ms(NOW + 1)).unwrap();
        assert_eq!((bearer.user, bearer.issued_at), (user(), ms(NOW)));
        assert_eq!(bearer.generation, generation());
        assert_eq!(bearer.account, Some(account()));
        assert_eq!(bearer.expires_at, ms(NOW + 86_400_000));
        let other = tokens
            .read(
                &tokens
                    .issue(user(), Some(account()), generation(), ms(NOW))
                    .unwrap(),
                ms(NOW),
            )
            .unwrap();
        assert_ne!(other.token, bearer.token);
    }

    #[test]
    fn a_token_is_valid_for_its_lifetime_only() {
        let tokens = tokens();
        let token = tokens
            .issue(user(), Some(account()), generation(), ms(NOW))
            .unwrap();
        let is_valid = |at: i64| tokens.read(&token, ms(at)).is_ok();
        assert!(is_valid(NOW + 86_399_999));
        let ended = tokens.genuine(&token, ms(NOW + 86_400_000));
        assert!(ended.is_ok() && tokens.genuine(&token, ms(NOW - 60_001)).is_err());
        assert!(!is_valid(NOW + 86_400_000));
        assert!(is_valid(NOW - 60_000));
        assert!(!is_valid(NOW - 60_001));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let tokens = tokens();
        let token = tokens
            .issue(user(), Some(account()), generation(), ms(NOW))
            .unwrap();
        let refused =
            |text: &str| assert_eq!(tokens.read(text, ms(NOW)), Err(InvalidToken), "{text}");
        refused("");
        refused("v4.local.");
        refused("v4.local.AAAA");
        refused("v4.public.AAAA");
        refused(&token[..token.len() - 1]);
        refused(&format!("{token}A"));
        refused(&"v4.local.".repeat(1_000));
        let (body, _footer) = token.rsplit_once('.').unwrap();
        refused(body);
        for place in (9..token.len()).step_by(7) {
            let mut forged = token.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            refused(&String::from_utf8(forged).unwrap());
        }
        // Sealed by a stranger, with our footer on it.
        let (foreign, ring) = (Key::generate().unwrap(), tokens.ring());
        let (footer, assertion) = (ring.current().footer(), Some(SELF.as_bytes()));
        refused(&LocalToken::encrypt(foreign.secret(), b"{}", Some(footer), assertion).unwrap());
    }

    #[test]
    fn every_key_of_the_ring_reads_and_the_first_one_makes() {
        let tokens = tokens();
        let of_first = tokens
            .issue(user(), Some(account()), generation(), ms(NOW))
            .unwrap();
        let mut ring = KeyRing::clone(&tokens.ring());
        let (first, second) = (ring.current().id().clone(), Key::generate().unwrap());
        let second_id = second.id().clone();

        ring.push(second).unwrap();
        tokens.replace_ring(ring.clone());
        let key_of = |token: &str| tokens.read(token, ms(NOW)).map(|bearer| bearer.key);
        let made = || {
            tokens
                .issue(user(), Some(account()), generation(), ms(NOW))
                .unwrap()
        };
        assert_eq!(key_of(&made()), Ok(first.clone()));

        ring.make_current(&second_id);
        tokens.replace_ring(ring.clone());
        assert_eq!(key_of(&made()), Ok(second_id));
        assert_eq!(key_of(&of_first), Ok(first.clone()));

        assert!(ring.remove(&first));
        tokens.replace_ring(ring);
        assert_eq!(key_of(&of_first), Err(InvalidToken));
    }

    #[test]
    fn claims_are_all_checked() {
        let tokens = tokens();
        let check = |what: &str, change: fn(&mut Claims), is_valid: bool| {
            let at = |millis| Timestamp::from_millisecond(millis).unwrap();
            let mut claims = Claims {
                iss: SELF.to_owned(),
                aud: SELF.to_owned(),
                sub: "7".to_owned(),
                jti: "0123456789abcdef0123456789abcdef".to_owned(),
                generation: 3,
                account: Some("fedcba9876543210fedcba9876543210".to_owned()),
                iat: at(NOW),
                nbf: at(NOW),
                exp: at(NOW + 1),
            };
            change(&mut claims);
            let message = serde_json::to_vec(&claims).unwrap();
            let ring = tokens.ring();
            let key = ring.current();
            let (footer, assertion) = (Some(key.footer()), Some(SELF.as_bytes()));
            let token = LocalToken::encrypt(key.secret(), &message, footer, assertion).unwrap();
            assert_eq!(tokens.read(&token, ms(NOW)).is_ok(), is_valid, "{what}");
        };
        check("nothing changed", |_| {}, true);
        check(
            "another issuer",
            |claims| claims.iss = "other".to_owned(),
            false,
        );
        check(
            "another audience",
            |claims| claims.aud = "other".to_owned(),
            false,
        );
        check("no user", |claims| claims.sub = "0".to_owned(), false);
        check("no number", |claims| claims.sub = "x".to_owned(), false);
        check("no id", |claims| claims.jti = String::new(), false);
        check("no account", |claims| claims.account = None, true);
        check(
            "no key of an account",
            |claims| claims.account = Some("x".to_owned()),
            false,
        );
        check(
            "made later",
            |claims| claims.iat = Timestamp::from_millisecond(NOW + 60_001).unwrap(),
            false,
        );
        check(
            "valid later",
            |claims| claims.nbf = Timestamp::from_millisecond(NOW + 60_001).unwrap(),
            false,
        );
        check(
            "over",
            |claims| claims.exp = Timestamp::from_millisecond(NOW).unwrap(),
            false,
        );
    }
}

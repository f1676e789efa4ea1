//! Who may come: genuine tokens that were neither revoked nor voided since.
//!
//! A token dies with its log-out (by its id) or with a change of its user's password (all that were
//! made before). The first are few and all kept in memory; the second are one instant a user, read
//! from the database when first needed and forgotten when the database gives notice that somebody
//! wrote to that user. [`Access::follow_notices`] keeps it so within a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use engine::{
    Clock,
    store::{RevokedToken, Store, StoreError},
};
use hyper::{HeaderMap, header::AUTHORIZATION};
use schema::{UnixMillis, UserId};

use crate::{
    key_ring::KeyRing,
    tokens::{Bearer, TokenId, TokenNotMade, Tokens},
};

/// Of how many users the instant is kept that their tokens are valid from.
const USERS_KEPT_MAX: usize = 100_000;

/// How often the database is asked for notices.
const NOTICES_EVERY: Duration = Duration::from_millis(500);

/// How many notices are read at once.
const NOTICES_AT_ONCE: u32 = 500;

/// Why a caller may not come.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There was no token.
    #[error("a bearer token is required")]
    TokenRequired,
    /// The token is not valid; why is nobody's business.
    #[error("the token is not valid")]
    InvalidToken,
    /// Whether it is could not be found out.
    #[error("the token could not be checked")]
    Store(#[source] StoreError),
}

/// Checks tokens, and makes and revokes them.
pub struct Access {
    tokens: Tokens,
    clock: Clock,
    store: Arc<dyn Store>,
    known: Mutex<Known>,
}

/// What is known about tokens besides what they say.
#[derive(Default)]
struct Known {
    /// Revoked tokens and when they end.
    revoked: HashMap<TokenId, UnixMillis>,
    /// From when on a user's tokens are valid.
    valid_from: HashMap<UserId, UnixMillis>,
    /// Counts the times that something of `valid_from` was forgotten, so that what was read from
    /// the database before isn't put there after.
    forgotten: u64,
}

impl Access {
    /// Loads what was revoked.
    pub async fn load(
        tokens: Tokens,
        clock: Clock,
        store: Arc<dyn Store>,
    ) -> Result<Self, StoreError> {
        let revoked = store.revoked_tokens(clock.now()).await?;
        let revoked = revoked
            .into_iter()
            .filter_map(|token| Some((TokenId::parse(&token.token_id)?, token.expires_at)));
        let known = Known {
            revoked: revoked.collect(),
            ..Known::default()
        };
        Ok(Self {
            tokens,
            clock,
            store,
            known: Mutex::new(known),
        })
    }

    /// The keys of the tokens, as they are now.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.tokens.ring()
    }

    /// From now on these are the keys of the tokens: those of other keys are void.
    pub fn replace_ring(&self, ring: KeyRing) {
        self.tokens.replace_ring(ring);
    }

    /// A fresh token for `user`.
    pub fn issue(&self, user: UserId) -> Result<String, TokenNotMade> {
        self.tokens.issue(user, self.clock.now())
    }

    /// Who sent a request with these headers.
    pub async fn of_request(&self, headers: &HeaderMap) -> Result<Bearer, AccessError> {
        self.of_token(bearer_token(headers).ok_or(AccessError::TokenRequired)?)
            .await
    }

    /// Who has `token`.
    pub async fn of_token(&self, token: &str) -> Result<Bearer, AccessError> {
        let bearer = self.tokens.read(token, self.clock.now());
        let bearer = bearer.map_err(|_| AccessError::InvalidToken)?;
        self.check(&bearer).await?;
        Ok(bearer)
    }

    /// Whether the token that `bearer` came with is neither revoked nor voided.
    pub async fn check(&self, bearer: &Bearer) -> Result<(), AccessError> {
        let has_key = self.ring().has(&bearer.key);
        let is_revoked = self.known().revoked.contains_key(&bearer.token);
        if is_revoked || !has_key {
            return Err(AccessError::InvalidToken);
        }
        match self.valid_from(bearer.user).await? {
            Some(valid_from) if bearer.issued_at >= valid_from => Ok(()),
            _ => Err(AccessError::InvalidToken),
        }
    }

    /// Revokes the token that `bearer` came with; returns when that is durable and in force.
    pub async fn revoke(&self, bearer: &Bearer) -> Result<(), StoreError> {
        let token = RevokedToken {
            token_id: bearer.token.as_str().to_owned(),
            expires_at: bearer.expires_at,
        };
        self.store.revoke_token(token).await?;
        self.known()
            .revoked
            .insert(bearer.token.clone(), bearer.expires_at);
        Ok(())
    }

    /// From when on the tokens of `user` are valid; nothing if there is no such user.
    async fn valid_from(&self, user: UserId) -> Result<Option<UnixMillis>, AccessError> {
        let forgotten = {
            let known = self.known();
            if let Some(valid_from) = known.valid_from.get(&user) {
                return Ok(Some(*valid_from));
            }
            known.forgotten
        };
        let Some(record) = self.store.user(user).await.map_err(AccessError::Store)? else {
            return Ok(None);
        };
        let mut known = self.known();
        if known.forgotten == forgotten {
            known.remember(user, record.tokens_valid_from);
        }
        Ok(Some(record.tokens_valid_from))
    }

    /// Follows the database's notices for ever. `on_change` learns of each user that somebody wrote
    /// to, and from when on that user's tokens are valid now.
    pub async fn follow_notices(&self, after: i64, on_change: impl Fn(UserId, UnixMillis)) {
        let mut after = after;
        let mut ticks = tokio::time::interval(NOTICES_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.forget_expired();
            loop {
                match self.read_notices(&mut after, &on_change).await {
                    Ok(ReadNotices::Some) => {}
                    Ok(ReadNotices::All) => break,
                    Err(error) => {
                        tracing::debug!(%error, "notices could not be followed");
                        break;
                    }
                }
            }
        }
    }

    /// Acts on the notices after the one numbered `after`. One that can't be acted on, for want of
    /// the database, is read again the next time.
    async fn read_notices(
        &self,
        after: &mut i64,
        on_change: &impl Fn(UserId, UnixMillis),
    ) -> Result<ReadNotices, AccessError> {
        let notices = self.store.notices(Some(*after), NOTICES_AT_ONCE).await;
        let notices = notices.map_err(AccessError::Store)?;
        let is_full = notices.len() >= NOTICES_AT_ONCE as usize;
        for notice in notices {
            self.forget(notice.user);
            if let Some(valid_from) = self.valid_from(notice.user).await? {
                on_change(notice.user, valid_from);
            }
            *after = notice.id;
        }
        Ok(if is_full {
            ReadNotices::Some
        } else {
            ReadNotices::All
        })
    }

    fn forget(&self, user: UserId) {
        let mut known = self.known();
        known.valid_from.remove(&user);
        known.forgotten += 1;
    }

    fn forget_expired(&self) {
        let now = self.clock.now();
        self.known()
            .revoked
            .retain(|_, expires_at| *expires_at > now);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there may be more notices.
enum ReadNotices {
    Some,
    All,
}

impl Known {
    /// Keeps the instant, in the place of any other's where there are too many.
    fn remember(&mut self, user: UserId, valid_from: UnixMillis) {
        if self.valid_from.len() >= USERS_KEPT_MAX
            && let Some(other) = self.valid_from.keys().next().copied()
        {
            self.valid_from.remove(&other);
        }
        self.valid_from.insert(user, valid_from);
    }
}

/// The bearer token among `headers`, if there is one.
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

//! Who may come: genuine tokens that were neither revoked nor voided since.
//!
//! A token dies with its log-out (by its id), with all others of its user (by their generation), or
//! with its key. What the database says of a user's tokens is read when first needed, and forgotten
//! when the database gives notice that somebody wrote to that user. [`Access::follow_notices`] keeps it
//! so within a second, whichever process wrote.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use engine::{
    Clock,
    batched::{Batched, ReadError},
    notices::NoticeReader,
    retention::REVOKED_TOKENS_KEPT_FOR,
    store::{Notice, RevokedToken, Store, StoreError, TokenGeneration, TokenStanding, UserRecord},
};
use hyper::{HeaderMap, header::AUTHORIZATION};
use schema::{UserId, websocket::StreamPosition};

use crate::{
    epochs::Epochs,
    key_ring::KeyRing,
    recent::Recent,
    request,
    tickets::{Shown, TicketRefused, Tickets},
    tokens::{Bearer, TokenId, TokenNotMade, Tokens},
};

/// Of how many users it is kept which of their tokens are valid.
const USERS_KEPT_MAX: usize = 400_000;

/// How often the database is asked for notices.
const NOTICES_EVERY: Duration = Duration::from_millis(500);

/// Why a caller may not come.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There was no token.
    #[error("a bearer token is required")]
    TokenRequired,
    /// The token is not valid; why is nobody's business.
    #[error("the token is not valid")]
    InvalidToken,
    /// Too many tickets were used just now.
    #[error("too many tickets were used just now")]
    Busy,
    /// Whether it is could not be found out.
    #[error("the token could not be checked")]
    Store(#[source] ReadError),
}

/// How a stream is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamAsked {
    /// For the first time, as far as the client says.
    Anew,
    /// By an `EventSource` that comes back and has read as far as this.
    After(StreamPosition),
    /// Only whether the caller would get it.
    Whether,
}

/// Checks tokens, and makes and revokes them.
pub struct Access {
    tokens: Tokens,
    tickets: Tickets,
    epochs: Epochs,
    clock: Clock,
    store: Arc<dyn Store>,
    /// Reads which tokens of a user are valid, for many users at a time.
    standings: Batched<UserId, Option<TokenStanding>>,
    known: Mutex<Known>,
}

/// What is known about tokens besides what they say.
struct Known {
    /// Which tokens of a user are valid.
    standings: Recent<UserId, Arc<TokenStanding>>,
    /// Counts the times that something was forgotten, so that what was read from the database before
    /// isn't put there after.
    forgotten: u64,
}

impl Access {
    /// Access by `tokens`, and by tickets that they make, as far as `store` says.
    pub fn new(tokens: Tokens, clock: Clock, store: Arc<dyn Store>) -> Self {
        let standings = {
            let (store, clock) = (Arc::clone(&store), clock.clone());
            Batched::new(move |users: Vec<UserId>| {
                let (store, now) = (Arc::clone(&store), clock.now());
                Box::pin(async move { store.token_standings(&users, now).await })
            })
        };
        Self {
            epochs: Epochs::new(KeyRing::clone(&tokens.ring())),
            tickets: Tickets::default(),
            tokens,
            clock,
            store,
            standings,
            known: Mutex::new(Known {
                standings: Recent::new(USERS_KEPT_MAX),
                forgotten: 0,
            }),
        }
    }

    /// The keys of the tokens, as they are now.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.tokens.ring()
    }

    /// From now on these are the keys of the tokens: those of other keys are void.
    pub fn replace_ring(&self, ring: KeyRing) {
        self.epochs.replace_ring(ring.clone());
        self.tokens.replace_ring(ring);
    }

    /// What makes the epochs of streams, by the same keys.
    pub fn epochs(&self) -> Epochs {
        self.epochs.clone()
    }

    /// A fresh token for `user`, of the generation that was read with what let the user in.
    pub fn issue(&self, user: &UserRecord) -> Result<String, TokenNotMade> {
        let (account, generation) = (Some(user.account_key), user.token_generation);
        self.tokens
            .issue(user.id, account, generation, self.clock.now())
    }

    /// Who sent a request with these headers.
    pub async fn of_request(&self, headers: &HeaderMap) -> Result<Bearer, AccessError> {
        self.of_token(bearer_token(headers).ok_or(AccessError::TokenRequired)?)
            .await
    }

    /// The token among `headers`, if it shows that whoever sends it is the owner of `user`'s account:
    /// a genuine one of that user, not revoked, but perhaps ended a while ago.
    pub async fn token_of_owner(
        &self,
        headers: &HeaderMap,
        user: UserId,
    ) -> Result<Option<TokenId>, AccessError> {
        let now = self.clock.now();
        let genuine = bearer_token(headers).and_then(|token| self.tokens.genuine(token, now).ok());
        let Some(bearer) = genuine.filter(|bearer| bearer.user == user) else {
            return Ok(None);
        };
        if now.since(bearer.expires_at) >= REVOKED_TOKENS_KEPT_FOR {
            return Ok(None);
        }
        match self.check(&bearer).await {
            Ok(()) => {}
            Err(AccessError::Store(error)) => return Err(AccessError::Store(error)),
            Err(_) => return Ok(None),
        }
        // Of tokens that have ended, the check doesn't know which were revoked.
        let is_revoked = self.store.is_token_revoked(&bearer.token.to_string()).await;
        let is_revoked = is_revoked.map_err(of_store)?;
        Ok(Some(bearer.token).filter(|_| !is_revoked))
    }

    /// A ticket that opens one stream for whoever `bearer` is.
    pub fn issue_ticket(&self, bearer: &Bearer) -> Result<String, TokenNotMade> {
        self.tickets.issue(&self.ring(), bearer, self.clock.now())
    }

    /// Who asks for a stream: by a ticket or a token in the address's query, or by a token among the
    /// headers. A ticket is used up by it, unless it is only asked about.
    pub async fn of_stream(
        &self,
        query: Option<&str>,
        headers: &HeaderMap,
        asked: StreamAsked,
    ) -> Result<Bearer, AccessError> {
        let in_query = |name| {
            let value = request::query(query, name).map_err(|_| AccessError::InvalidToken)?;
            Ok::<_, AccessError>(value.filter(|value| !value.is_empty()))
        };
        if let Some(ticket) = in_query("ticket")? {
            let shown_for = |user| match asked {
                StreamAsked::Whether => Shown::Ask,
                StreamAsked::After(position) if self.epochs.is_of(user, position.epoch) => {
                    Shown::GoOn
                }
                StreamAsked::After(_) | StreamAsked::Anew => Shown::Open,
            };
            let (ring, now) = (self.ring(), self.clock.now());
            let bearer = self.tickets.redeem(&ring, &ticket, now, shown_for)?;
            self.check(&bearer).await?;
            return Ok(bearer);
        }
        match in_query("token")? {
            Some(token) => self.of_token(&token).await,
            None => self.of_request(headers).await,
        }
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
        if !self.ring().has(&bearer.key) {
            return Err(AccessError::InvalidToken);
        }
        let mut standing = self.standing(bearer.user).await?;
        if standing
            .as_ref()
            .is_some_and(|known| known.generation < bearer.generation)
        {
            // A genuine token of a later generation: another process has voided those before.
            self.forget(bearer.user);
            standing = self.standing(bearer.user).await?;
        }
        match standing {
            Some(standing) if is_valid(bearer, &standing) => Ok(()),
            _ => Err(AccessError::InvalidToken),
        }
    }

    /// The same by what the database says now, and the generation of the user's tokens then.
    pub async fn check_anew(&self, bearer: &Bearer) -> Result<TokenGeneration, AccessError> {
        self.forget(bearer.user);
        self.check(bearer).await?;
        let standing = self.standing(bearer.user).await?;
        Ok(standing.ok_or(AccessError::InvalidToken)?.generation)
    }

    /// Revokes the token that `bearer` came with; returns when that is durable and in force.
    pub async fn revoke(&self, bearer: &Bearer) -> Result<(), StoreError> {
        let token = RevokedToken {
            token_id: bearer.token.to_string(),
            expires_at: bearer.expires_at,
        };
        let now = self.clock.now();
        self.store.revoke_token(bearer.user, token, now).await?;
        self.forget(bearer.user);
        Ok(())
    }

    /// Voids all tokens of `user`; returns when that is durable and in force.
    pub async fn void_all(&self, user: UserId) -> Result<(), StoreError> {
        self.store.void_tokens(user, self.clock.now()).await?;
        self.forget(user);
        Ok(())
    }

    /// Which tokens of `user` are valid; nothing if there is no such user.
    pub async fn standing(&self, user: UserId) -> Result<Option<Arc<TokenStanding>>, AccessError> {
        let forgotten = {
            let mut known = self.known();
            if let Some(standing) = known.standings.get(&user) {
                return Ok(Some(standing));
            }
            known.forgotten
        };
        let standing = self.standings.get(user).await;
        let Some(standing) = standing.map_err(AccessError::Store)?.map(Arc::new) else {
            return Ok(None);
        };
        let mut known = self.known();
        if known.forgotten == forgotten {
            known.standings.put(user, Arc::clone(&standing));
        }
        Ok(Some(standing))
    }

    /// Forgets which tokens of `user` are valid: the database knows better.
    pub fn forget(&self, user: UserId) {
        let mut known = self.known();
        known.standings.forget(&user);
        known.forgotten += 1;
    }

    /// Follows the database's notices for ever. `on_change` learns of each user that somebody wrote
    /// to, and which of that user's tokens are valid now.
    pub async fn follow_notices(
        &self,
        mut reader: NoticeReader,
        on_change: impl Fn(UserId, Option<Arc<TokenStanding>>),
    ) {
        // Those that couldn't be acted on yet, for want of the database.
        let mut waiting: VecDeque<Notice> = VecDeque::new();
        let mut ticks = tokio::time::interval(NOTICES_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self
                .read_notices(&mut reader, &mut waiting, &on_change)
                .await
            {
                tracing::debug!(%error, "notices could not be followed");
            }
        }
    }

    /// Acts on what waits, and on all that is noticed since.
    async fn read_notices(
        &self,
        reader: &mut NoticeReader,
        waiting: &mut VecDeque<Notice>,
        on_change: &impl Fn(UserId, Option<Arc<TokenStanding>>),
    ) -> Result<(), AccessError> {
        loop {
            while let Some(notice) = waiting.front() {
                self.forget(notice.user);
                on_change(notice.user, self.standing(notice.user).await?);
                waiting.pop_front();
            }
            waiting.extend(reader.next().await.map_err(of_store)?);
            if waiting.is_empty() {
                return Ok(());
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the token that `bearer` came with is one of the valid ones of its user.
pub fn is_valid(bearer: &Bearer, standing: &TokenStanding) -> bool {
    let is_this = |id: &str| TokenId::parse(id) == Some(bearer.token);
    let is_current = bearer.generation == standing.generation;
    let is_kept = || standing.kept.as_deref().is_some_and(is_this);
    let is_revoked = || {
        let mut revoked = standing.revoked.iter();
        revoked.any(|revoked| is_this(&revoked.token_id))
    };
    // A token from before accounts had keys is no other account's if it was made after the user signed up.
    let is_of_account = match bearer.account {
        Some(account) => account == standing.account_key,
        None => bearer.issued_at >= standing.created_at,
    };
    is_of_account && (is_current || is_kept()) && !is_revoked()
}

fn of_store(error: StoreError) -> AccessError {
    AccessError::Store(Arc::new(error))
}

impl From<TicketRefused> for AccessError {
    fn from(refused: TicketRefused) -> Self {
        match refused {
            // A ticket that was used before is refused like one that never existed.
            TicketRefused::Invalid => Self::InvalidToken,
            TicketRefused::Busy => Self::Busy,
        }
    }
}

/// The bearer token among `headers`, if there is one.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

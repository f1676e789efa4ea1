//! Tickets: what opens one websocket or event stream in a token's place, so that no token need stand
//! in an address, where proxies and histories keep it.
//!
//! A ticket is sealed with a key that lives and dies with the process, and says which token it was
//! made by. So it costs no memory until it is used, no token is ever taken for a ticket or a ticket
//! for a token, and a token that dies takes its tickets with it. Those that were used are kept until
//! they would have ended.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use engine::store::{AccountKey, TokenGeneration};
use pasetors::{
    Local,
    keys::{Generate, SymmetricKey},
    token::UntrustedToken,
    version4::{LocalToken, V4},
};
use schema::{Millis, UnixMillis, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    key_ring::KeyId,
    tokens::{Bearer, TokenId, TokenNotMade},
};

/// How long a ticket may be used.
pub const LIFETIME: Millis = match Millis::new(30_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// How many used ones are kept. So many sockets in half a minute are more than one process opens.
const USED_MAX: usize = 100_000;

/// The longest text that is looked at; ours have about 500 bytes.
const TICKET_BYTES_MAX: usize = 1_024;

/// What only tickets are sealed for.
const PURPOSE: &[u8] = b"minute-credit ticket";

/// Why a ticket opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefused {
    /// It is none of this process's, is over, or was used.
    #[error("the ticket is not valid")]
    Invalid,
    /// Too many were used just now.
    #[error("too many tickets were used just now")]
    Busy,
}

/// Makes tickets, and takes each once.
pub struct Tickets {
    key: SymmetricKey<V4>,
    used: Mutex<Used>,
    used_max: usize,
}

/// The tickets that were used less than a lifetime ago.
#[derive(Default)]
struct Used {
    numbers: HashSet<u128>,
    /// In the order of their use.
    since: VecDeque<(UnixMillis, u128)>,
}

/// What a ticket says.
#[derive(Serialize, Deserialize)]
struct Claims {
    number: u128,
    ends: UnixMillis,
    user: UserId,
    token: String,
    generation: i64,
    account: Option<String>,
    issued_at: UnixMillis,
    expires_at: UnixMillis,
    key: String,
}

impl Tickets {
    /// Tickets of this process.
    pub fn new() -> Result<Self, TokenNotMade> {
        Ok(Self {
            key: SymmetricKey::generate().map_err(|error| TokenNotMade(error.to_string()))?,
            used: Mutex::default(),
            used_max: USED_MAX,
        })
    }

    /// A ticket for whoever `bearer` is.
    pub fn issue(&self, bearer: &Bearer, now: UnixMillis) -> Result<String, TokenNotMade> {
        let ends = now
            .checked_add(LIFETIME)
            .ok_or_else(|| TokenNotMade("it would never end".to_owned()))?;
        let claims = Claims {
            number: rand::random(),
            ends,
            user: bearer.user,
            token: bearer.token.to_string(),
            generation: bearer.generation.get(),
            account: bearer.account.map(|account| account.to_string()),
            issued_at: bearer.issued_at,
            expires_at: bearer.expires_at,
            key: bearer.key.as_str().to_owned(),
        };
        let message =
            serde_json::to_vec(&claims).map_err(|error| TokenNotMade(error.to_string()))?;
        LocalToken::encrypt(&self.key, &message, None, Some(PURPOSE))
            .map_err(|error| TokenNotMade(error.to_string()))
    }

    /// Uses `ticket` up, and tells by which token it was made. Whether that is still valid is not
    /// known here.
    pub fn redeem(&self, ticket: &str, now: UnixMillis) -> Result<Bearer, TicketRefused> {
        let claims = self.open(ticket).ok_or(TicketRefused::Invalid)?;
        if now >= claims.ends || now >= claims.expires_at {
            return Err(TicketRefused::Invalid);
        }
        let number = claims.number;
        let bearer = claims.into_bearer().ok_or(TicketRefused::Invalid)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.forget_ended(now);
        if used.numbers.contains(&number) {
            return Err(TicketRefused::Invalid);
        }
        if used.numbers.len() >= self.used_max {
            return Err(TicketRefused::Busy);
        }
        used.numbers.insert(number);
        used.since.push_back((now, number));
        Ok(bearer)
    }

    fn open(&self, ticket: &str) -> Option<Claims> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let sealed = UntrustedToken::<Local, V4>::try_from(ticket).ok()?;
        let open = LocalToken::decrypt(&self.key, &sealed, None, Some(PURPOSE)).ok()?;
        serde_json::from_str(open.payload()).ok()
    }
}

impl Used {
    /// A ticket that was used a lifetime ago has ended anyway.
    fn forget_ended(&mut self, now: UnixMillis) {
        while let Some((since, number)) = self.since.front()
            && now.since(*since) >= LIFETIME
        {
            self.numbers.remove(number);
            self.since.pop_front();
        }
    }
}

impl Claims {
    fn into_bearer(self) -> Option<Bearer> {
        let account = match &self.account {
            Some(digits) => Some(AccountKey::parse(digits)?),
            None => None,
        };
        Some(Bearer {
            user: self.user,
            account,
            token: TokenId::parse(&self.token)?,
            generation: TokenGeneration::new(self.generation),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            key: KeyId::new(&self.key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key_ring::KeyRing, tokens::Tokens};

    const NOW: i64 = 1_800_000_000_123;

    fn ms(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    /// Tokens that end after a minute, one of them, and who has it.
    fn somebody() -> (Tokens, String, Bearer) {
        let tokens = Tokens::new(KeyRing::generate().unwrap(), Millis::new(60_000).unwrap());
        let user = UserId::new(7).unwrap();
        let token = tokens
            .issue(user, None, TokenGeneration::new(3), ms(NOW))
            .unwrap();
        let bearer = tokens.read(&token, ms(NOW)).unwrap();
        (tokens, token, bearer)
    }

    #[test]
    fn a_ticket_says_which_token_it_was_made_by_and_once() {
        let (tickets, (_, _, bearer)) = (Tickets::new().unwrap(), somebody());
        let ticket = tickets.issue(&bearer, ms(NOW)).unwrap();
        assert!(ticket.len() < TICKET_BYTES_MAX * 3 / 4, "{}", ticket.len());
        assert_eq!(tickets.redeem(&ticket, ms(NOW + 1)), Ok(bearer.clone()));
        assert_eq!(
            tickets.redeem(&ticket, ms(NOW + 1)),
            Err(TicketRefused::Invalid)
        );
        let another = tickets.issue(&bearer, ms(NOW)).unwrap();
        assert_eq!(tickets.redeem(&another, ms(NOW + 1)), Ok(bearer));
    }

    #[test]
    fn a_ticket_ends() {
        let (tickets, (_, _, bearer)) = (Tickets::new().unwrap(), somebody());
        let check = |made: i64, used: i64, is_taken: bool| {
            let ticket = tickets.issue(&bearer, ms(made)).unwrap();
            assert_eq!(
                tickets.redeem(&ticket, ms(used)).is_ok(),
                is_taken,
                "{made} {used}"
            );
        };
        check(NOW, NOW + 29_999, true);
        check(NOW, NOW + 30_000, false);
        // With its token at the latest.
        check(NOW + 50_000, NOW + 59_999, true);
        check(NOW + 50_000, NOW + 60_000, false);
    }

    #[test]
    fn what_is_not_this_processes_ticket_is_refused() {
        let (tickets, (tokens, token, bearer)) = (Tickets::new().unwrap(), somebody());
        let ticket = tickets.issue(&bearer, ms(NOW)).unwrap();
        let other = Tickets::new().unwrap().issue(&bearer, ms(NOW)).unwrap();
        let mut tampered = ticket.clone().into_bytes();
        tampered[60] = if tampered[60] == b'A' { b'B' } else { b'A' };
        let tampered = String::from_utf8(tampered).unwrap();
        let endless = "v4.local.".repeat(1_000);
        for text in [
            "",
            "nonsense",
            "v4.local.AAAA",
            &token,
            &other,
            &tampered,
            &endless,
        ] {
            assert_eq!(
                tickets.redeem(text, ms(NOW)),
                Err(TicketRefused::Invalid),
                "{text}"
            );
        }
        assert!(
            tokens.read(&ticket, ms(NOW)).is_err(),
            "a ticket is no token"
        );
        assert!(tickets.redeem(&ticket, ms(NOW)).is_ok());
    }

    #[test]
    fn used_tickets_are_forgotten_when_they_have_ended() {
        let mut tickets = Tickets::new().unwrap();
        tickets.used_max = 2;
        let (_, _, bearer) = somebody();
        let made = |at: i64| tickets.issue(&bearer, ms(at)).unwrap();
        let redeem = |ticket: &str, at: i64| tickets.redeem(ticket, ms(at)).map(drop);
        let (first, third) = (made(NOW), made(NOW + 10_000));
        assert_eq!(redeem(&first, NOW), Ok(()));
        assert_eq!(redeem(&made(NOW), NOW + 1_000), Ok(()));
        assert_eq!(redeem(&third, NOW + 29_999), Err(TicketRefused::Busy));
        assert_eq!(redeem(&third, NOW + 30_000), Ok(()));
        assert_eq!(redeem(&first, NOW + 30_000), Err(TicketRefused::Invalid));
        assert_eq!(tickets.used.lock().unwrap().numbers.len(), 2);
    }
}

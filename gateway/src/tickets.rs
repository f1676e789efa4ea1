//! Tickets: what opens one websocket or event stream in a token's place, so that no token need stand
//! in an address, where proxies and histories keep it.
//!
//! A ticket is sealed with a key of the tokens, but for another purpose, and says which token it was made
//! by. So it costs no memory until it is used, no token is ever taken for a ticket or a ticket for a token,
//! and a token that dies takes its tickets with it. It opens one stream, within half a minute, on the
//! process that made it; that it was used is kept for as long.
//!
//! An `EventSource` can't fetch another ticket: where its stream breaks, it comes back to the same address
//! and says in `Last-Event-ID` what it got last. So a client that shows that it has read the user's stream
//! (`epochs`) may use the ticket again, for a day at most and never longer than the token is valid, also
//! after a restart and on other processes with the same keys.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use engine::store::{AccountKey, TokenGeneration};
use pasetors::{
    Local,
    token::UntrustedToken,
    version4::{LocalToken, V4},
};
use schema::{Millis, UnixMillis, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    key_ring::{KeyId, KeyRing},
    tokens::{Bearer, TokenId, TokenNotMade},
};

/// How long a ticket may be used.
pub const LIFETIME: Millis = match Millis::new(30_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// For how long after a ticket was made its stream may be gone on with, if its token is valid so long.
const COMES_BACK_FOR: Millis = match Millis::new(24 * 3_600_000) {
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
    /// It is none of ours, is over, or was used.
    #[error("the ticket is not valid")]
    Invalid,
    /// Too many were used just now.
    #[error("too many tickets were used just now")]
    Busy,
}

/// What a ticket is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// To open a stream, which uses it up.
    Open,
    /// To go on with a stream, by a client that has read it. It is used up too, if it wasn't.
    GoOn,
    /// To see whether it would open a stream.
    Ask,
}

/// Makes tickets, and takes each once.
pub struct Tickets {
    /// Tells this process's tickets from those of others with the same keys.
    process: u64,
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
    process: u64,
    number: u128,
    made: UnixMillis,
    ends: UnixMillis,
    user: UserId,
    token: String,
    generation: i64,
    account: Option<String>,
    issued_at: UnixMillis,
    expires_at: UnixMillis,
    key: String,
}

impl Default for Tickets {
    fn default() -> Self {
        Self {
            process: rand::random(),
            used: Mutex::default(),
            used_max: USED_MAX,
        }
    }
}

impl Tickets {
    /// A ticket for whoever `bearer` is.
    pub fn issue(
        &self,
        ring: &KeyRing,
        bearer: &Bearer,
        now: UnixMillis,
    ) -> Result<String, TokenNotMade> {
        let ends = now
            .checked_add(LIFETIME)
            .ok_or_else(|| TokenNotMade("it would never end".to_owned()))?;
        let claims = Claims {
            process: self.process,
            number: rand::random(),
            made: now,
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
        let key = ring.current();
        LocalToken::encrypt(key.secret(), &message, Some(key.footer()), Some(PURPOSE))
            .map_err(|error| TokenNotMade(error.to_string()))
    }

    /// By which token `ticket` was made, if it may be used for what `shown_for` says of its user.
    /// Whether that token is still valid is not known here.
    pub fn redeem(
        &self,
        ring: &KeyRing,
        ticket: &str,
        now: UnixMillis,
        shown_for: impl FnOnce(UserId) -> Shown,
    ) -> Result<Bearer, TicketRefused> {
        let claims = open(ring, ticket).ok_or(TicketRefused::Invalid)?;
        let (process, number, made, ends) =
            (claims.process, claims.number, claims.made, claims.ends);
        let bearer = claims.into_bearer().ok_or(TicketRefused::Invalid)?;
        let shown_for = shown_for(bearer.user);
        let comes_back_until = made.checked_add(COMES_BACK_FOR).unwrap_or(ends);
        let is_over = match shown_for {
            Shown::GoOn => now >= comes_back_until,
            Shown::Open | Shown::Ask => now >= ends || process != self.process,
        };
        if is_over || now >= bearer.expires_at {
            return Err(TicketRefused::Invalid);
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.forget_ended(now);
        if used.numbers.contains(&number) {
            return match shown_for {
                Shown::GoOn => Ok(bearer),
                Shown::Open | Shown::Ask => Err(TicketRefused::Invalid),
            };
        }
        // What has ended opens nothing, whether it was used or not.
        if shown_for == Shown::Ask || now >= ends {
            return Ok(bearer);
        }
        if used.numbers.len() >= self.used_max {
            return Err(TicketRefused::Busy);
        }
        used.numbers.insert(number);
        used.since.push_back((now, number));
        Ok(bearer)
    }
}

/// What `ticket` says, if it was sealed with a key of `ring`.
fn open(ring: &KeyRing, ticket: &str) -> Option<Claims> {
    if ticket.len() > TICKET_BYTES_MAX {
        return None;
    }
    let sealed = UntrustedToken::<Local, V4>::try_from(ticket).ok()?;
    let key = ring.by_footer(sealed.untrusted_footer())?;
    let footer = Some(key.footer());
    let open = LocalToken::decrypt(key.secret(), &sealed, footer, Some(PURPOSE)).ok()?;
    serde_json::from_str(open.payload()).ok()
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
    use crate::{key_ring::Key, tokens::Tokens};

    const NOW: i64 = 1_800_000_000_123;
    const DAY: i64 = 24 * 3_600_000;

    fn ms(millis: i64) -> UnixMillis {
        UnixMillis::new(millis).unwrap()
    }

    /// Tokens that are valid for `lifetime_ms`, one of them, and who has it.
    fn somebody(lifetime_ms: i64) -> (Tokens, String, Bearer) {
        let lifetime = Millis::new(lifetime_ms).unwrap();
        let tokens = Tokens::new(KeyRing::generate().unwrap(), lifetime);
        let user = UserId::new(7).unwrap();
        let token = tokens
            .issue(user, None, TokenGeneration::new(3), ms(NOW))
            .unwrap();
        let bearer = tokens.read(&token, ms(NOW)).unwrap();
        (tokens, token, bearer)
    }

    #[test]
    fn a_ticket_says_which_token_it_was_made_by_and_once() {
        let (tickets, (tokens, _, bearer)) = (Tickets::default(), somebody(60_000));
        let ring = tokens.ring();
        let ticket = tickets.issue(&ring, &bearer, ms(NOW)).unwrap();
        assert!(ticket.len() < TICKET_BYTES_MAX * 3 / 4, "{}", ticket.len());
        let redeem = |ticket: &str| tickets.redeem(&ring, ticket, ms(NOW + 1), |_| Shown::Open);
        let ask = |ticket: &str| tickets.redeem(&ring, ticket, ms(NOW + 1), |_| Shown::Ask);
        assert_eq!(ask(&ticket), Ok(bearer.clone()));
        assert_eq!(redeem(&ticket), Ok(bearer.clone()));
        assert_eq!(redeem(&ticket), Err(TicketRefused::Invalid));
        assert_eq!(ask(&ticket), Err(TicketRefused::Invalid));
        let another = tickets.issue(&ring, &bearer, ms(NOW)).unwrap();
        assert_eq!(redeem(&another), Ok(bearer));
    }

    #[test]
    fn a_ticket_ends() {
        let (tickets, (tokens, _, bearer)) = (Tickets::default(), somebody(60_000));
        let ring = tokens.ring();
        let check = |made: i64, used: i64, is_taken: bool| {
            let ticket = tickets.issue(&ring, &bearer, ms(made)).unwrap();
            let redeemed = tickets.redeem(&ring, &ticket, ms(used), |_| Shown::Open);
            assert_eq!(redeemed.is_ok(), is_taken, "{made} {used}");
        };
        check(NOW, NOW + 29_999, true);
        check(NOW, NOW + 30_000, false);
        // With its token at the latest.
        check(NOW + 50_000, NOW + 59_999, true);
        check(NOW + 50_000, NOW + 60_000, false);
    }

    #[test]
    fn a_stream_is_gone_on_with_for_a_day_also_elsewhere() {
        for (lifetime, until) in [(10 * DAY, DAY), (DAY / 2, DAY / 2)] {
            let (tokens, _, bearer) = somebody(lifetime);
            let ring = tokens.ring();
            let (here, there) = (Tickets::default(), Tickets::default());
            let ticket = here.issue(&ring, &bearer, ms(NOW)).unwrap();
            let redeem = |tickets: &Tickets, shown, at: i64| {
                let redeemed = tickets.redeem(&ring, &ticket, ms(NOW + at), |_| shown);
                redeemed.is_ok()
            };
            assert!(redeem(&here, Shown::GoOn, 0), "it need not have been used");
            assert!(!redeem(&here, Shown::Open, 1), "but then it is used up");
            for at in [1, 2, 29_999, 30_000, until - 1] {
                assert!(redeem(&here, Shown::GoOn, at), "{at}");
                assert!(redeem(&there, Shown::GoOn, at), "{at}");
                assert!(!redeem(&here, Shown::Open, at), "{at}");
                assert!(!redeem(&there, Shown::Open, at), "{at}");
            }
            assert!(!redeem(&here, Shown::GoOn, until));
        }
    }

    #[test]
    fn what_is_not_this_processes_ticket_is_refused() {
        let (tickets, (tokens, token, bearer)) = (Tickets::default(), somebody(60_000));
        let ring = tokens.ring();
        let ticket = tickets.issue(&ring, &bearer, ms(NOW)).unwrap();
        let other = Tickets::default().issue(&ring, &bearer, ms(NOW)).unwrap();
        let foreign = KeyRing::generate().unwrap();
        let foreign = tickets.issue(&foreign, &bearer, ms(NOW)).unwrap();
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
            &foreign,
            &tampered,
            &endless,
        ] {
            assert_eq!(
                tickets.redeem(&ring, text, ms(NOW), |_| Shown::Open),
                Err(TicketRefused::Invalid),
                "{text}"
            );
        }
        assert!(
            tokens.read(&ticket, ms(NOW)).is_err(),
            "a ticket is no token"
        );
        let redeemed = tickets.redeem(&ring, &ticket, ms(NOW), |_| Shown::Open);
        assert!(redeemed.is_ok());

        // A key that was retired takes its tickets with it.
        let mut keys = KeyRing::clone(&ring);
        let (old, new) = (keys.current().id().clone(), Key::generate().unwrap());
        let id = new.id().clone();
        keys.push(new).unwrap();
        keys.make_current(&id);
        let go_on = |ring: &KeyRing| tickets.redeem(ring, &ticket, ms(NOW), |_| Shown::GoOn);
        assert!(go_on(&keys).is_ok());
        keys.remove(&old);
        assert_eq!(go_on(&keys), Err(TicketRefused::Invalid));
    }

    #[test]
    fn used_tickets_are_forgotten_when_they_have_ended() {
        let tickets = Tickets {
            used_max: 2,
            ..Tickets::default()
        };
        let (tokens, _, bearer) = somebody(60_000);
        let ring = tokens.ring();
        let made = |at: i64| tickets.issue(&ring, &bearer, ms(at)).unwrap();
        let redeem = |ticket: &str, at: i64| {
            let redeemed = tickets.redeem(&ring, ticket, ms(at), |_| Shown::Open);
            redeemed.map(drop)
        };
        let (first, third) = (made(NOW), made(NOW + 10_000));
        assert_eq!(redeem(&first, NOW), Ok(()));
        assert_eq!(redeem(&made(NOW), NOW + 1_000), Ok(()));
        assert_eq!(redeem(&third, NOW + 29_999), Err(TicketRefused::Busy));
        assert_eq!(redeem(&third, NOW + 30_000), Ok(()));
        assert_eq!(redeem(&first, NOW + 30_000), Err(TicketRefused::Invalid));
        assert_eq!(tickets.used.lock().unwrap().numbers.len(), 2);
    }
}

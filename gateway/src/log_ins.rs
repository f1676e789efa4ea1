//! How often passwords may be tried, so that nobody can guess one, and nobody can lock its owner out.
//!
//! Only wrong passwords count: for the address that they come from, for the account, and for the two
//! together. Whoever has no more tries gets no answer to another one, right or wrong. An account that is under
//! attack takes tries all the same from an address that its owner has logged in from before; and who
//! shows a genuine token of the account, be it expired, has tries of their own that nobody else can
//! use up (what OWASP calls a device cookie).
//!
//! An account is its email, whether somebody has it or not: so nothing here tells who is known. All of
//! it is in memory, and of bounded size.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use schema::{Millis, UnixMillis};

use crate::{
    client::ClientNetwork,
    limits::Limit,
    throttle::{Rate, Throttle},
    tokens::TokenId,
};

/// Of how many addresses, accounts and so on it is known at most how often they were tried.
const KEYS_MAX: usize = 100_000;

/// How many addresses of an account are remembered, those of the latest log-ins.
const PLACES_MAX: usize = 8;

/// The window of all limits.
const HOUR: Millis = match Millis::new(3_600_000) {
    Ok(millis) => millis,
    Err(_) => Millis::ZERO,
};

/// How many wrong passwords there may be in an hour; 0 for any number.
#[derive(Clone, Copy, Debug)]
pub struct LogInSettings {
    /// From one address, for whatever accounts.
    pub from_address: u32,
    /// For one account from addresses that its owner has not logged in from before.
    pub to_account: u32,
    /// For one account from one address, or by one token.
    pub from_address_to_account: u32,
}

/// An account, whether it exists or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(u64);

/// A token that has shown its owner to belong to the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device(u64);

/// There were too many wrong passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// Which limit it is.
    pub limit: Limit,
    /// How long until another one may be tried.
    pub retry_after: Millis,
}

/// Knows who has tried how many wrong passwords.
pub struct LogIns {
    state: Mutex<State>,
    /// With a secret of this process, so that nobody can choose what falls together.
    hasher: RandomState,
}

struct State {
    by_address: Throttle<ClientNetwork>,
    by_account: Throttle<Account>,
    by_pair: Throttle<(Account, ClientNetwork)>,
    by_device: Throttle<(Account, Device)>,
    places: Places,
}

/// A password that is being tried. It counts as wrong meanwhile, so that many at once are no more than
/// many in turn.
pub struct Attempt<'a> {
    log_ins: &'a LogIns,
    account: Account,
    from: ClientNetwork,
    counted: Counted,
    is_wrong: bool,
}

/// What a wrong password counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// The token alone.
    Device(Device),
    /// The address, and the account with it.
    KnownPlace,
    /// The address, the account, and both together.
    NewPlace,
}

impl LogIns {
    /// Nobody has tried anything yet.
    pub fn new(settings: LogInSettings) -> Self {
        let hourly = |times| Rate {
            times,
            window: HOUR,
        };
        let together = hourly(settings.from_address_to_account);
        Self {
            state: Mutex::new(State {
                by_address: Throttle::new(hourly(settings.from_address), KEYS_MAX),
                by_account: Throttle::new(hourly(settings.to_account), KEYS_MAX),
                by_pair: Throttle::new(together, KEYS_MAX),
                by_device: Throttle::new(together, KEYS_MAX),
                places: Places::new(KEYS_MAX),
            }),
            hasher: RandomState::new(),
        }
    }

    /// The account with this email; upper and lower case are the same, as they are to the database.
    pub fn account(&self, email: &str) -> Account {
        Account(self.hasher.hash_one(email.to_ascii_lowercase()))
    }

    /// Begins to try a password of `account`. A `token` must be a genuine one of the account's owner.
    pub fn begin(
        &self,
        account: Account,
        from: ClientNetwork,
        token: Option<&TokenId>,
        now: UnixMillis,
    ) -> Result<Attempt<'_>, TooMany> {
        let mut state = self.state();
        let counted = match token {
            Some(token) => Counted::Device(Device(self.hasher.hash_one(token))),
            None if state.places.has(account, from) => Counted::KnownPlace,
            None => Counted::NewPlace,
        };
        if let Some(refused) = state.wait(account, from, counted, now) {
            return Err(refused);
        }
        state.count(account, from, counted, now);
        drop(state);
        Ok(Attempt {
            log_ins: self,
            account,
            from,
            counted,
            is_wrong: false,
        })
    }

    /// The owner of `account` was here.
    pub fn remember(&self, account: Account, from: ClientNetwork, now: UnixMillis) {
        self.state().places.remember(account, from, now);
    }

    /// The state is valid after any panic: each change of it ends what it began.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The password was wrong.
    pub fn wrong(mut self) {
        self.is_wrong = true;
    }

    /// The password was right.
    pub fn right(self, now: UnixMillis) {
        self.log_ins.remember(self.account, self.from, now);
    }
}

impl Drop for Attempt<'_> {
    /// What was not wrong did not count: neither a right password nor one that could not be checked.
    fn drop(&mut self) {
        if !self.is_wrong {
            let mut state = self.log_ins.state();
            state.take_back(self.account, self.from, self.counted);
        }
    }
}

impl State {
    fn wait(
        &self,
        account: Account,
        from: ClientNetwork,
        counted: Counted,
        now: UnixMillis,
    ) -> Option<TooMany> {
        let too_many =
            |limit, wait: Option<Millis>| wait.map(|retry_after| TooMany { limit, retry_after });
        let by_address = || too_many(Limit::LogInsPerAddress, self.by_address.wait(from, now));
        let together = || {
            let wait = self.by_pair.wait((account, from), now);
            too_many(Limit::LogInsPerAccount, wait)
        };
        match counted {
            Counted::Device(device) => {
                let wait = self.by_device.wait((account, device), now);
                too_many(Limit::LogInsPerAccount, wait)
            }
            Counted::KnownPlace => by_address().or_else(together),
            Counted::NewPlace => {
                let by_account = || {
                    let wait = self.by_account.wait(account, now);
                    too_many(Limit::LogInsPerAccount, wait)
                };
                by_address().or_else(together).or_else(by_account)
            }
        }
    }

    fn count(&mut self, account: Account, from: ClientNetwork, counted: Counted, now: UnixMillis) {
        match counted {
            Counted::Device(device) => self.by_device.count((account, device), now),
            Counted::KnownPlace => {
                self.by_address.count(from, now);
                self.by_pair.count((account, from), now);
            }
            Counted::NewPlace => {
                self.by_address.count(from, now);
                self.by_pair.count((account, from), now);
                self.by_account.count(account, now);
            }
        }
    }

    fn take_back(&mut self, account: Account, from: ClientNetwork, counted: Counted) {
        match counted {
            Counted::Device(device) => self.by_device.take_back((account, device)),
            Counted::KnownPlace => {
                self.by_address.take_back(from);
                self.by_pair.take_back((account, from));
            }
            Counted::NewPlace => {
                self.by_address.take_back(from);
                self.by_pair.take_back((account, from));
                self.by_account.take_back(account);
            }
        }
    }
}

/// From where accounts were logged in to: the latest few addresses of each. Where there are too many
/// accounts, the one is forgotten that nobody has logged in to for longest.
struct Places {
    accounts_max: usize,
    of: HashMap<Account, OwnPlaces>,
    order: BTreeSet<(UnixMillis, Account)>,
}

/// The addresses of an account, the latest last.
struct OwnPlaces {
    latest: UnixMillis,
    addresses: Vec<ClientNetwork>,
}

impl Places {
    fn new(accounts_max: usize) -> Self {
        Self {
            accounts_max,
            of: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    fn has(&self, account: Account, address: ClientNetwork) -> bool {
        self.of
            .get(&account)
            .is_some_and(|own| own.addresses.contains(&address))
    }

    fn remember(&mut self, account: Account, address: ClientNetwork, now: UnixMillis) {
        let own = self.of.entry(account).or_insert_with(|| OwnPlaces {
            latest: now,
            addresses: Vec::new(),
        });
        self.order.remove(&(own.latest, account));
        own.latest = now;
        own.addresses.retain(|other| *other != address);
        if own.addresses.len() >= PLACES_MAX {
            own.addresses.remove(0);
        }
        own.addresses.push(address);
        self.order.insert((now, account));
        if self.of.len() > self.accounts_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.of.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientAddress;

    const SETTINGS: LogInSettings = LogInSettings {
        from_address: 10,
        to_account: 6,
        from_address_to_account: 3,
    };

    fn at(offset_ms: i64) -> UnixMillis {
        UnixMillis::new(1_800_000_000_000 + offset_ms).unwrap()
    }

    fn place(number: u8) -> ClientNetwork {
        let address = std::net::Ipv4Addr::new(192, 0, 2, number);
        ClientAddress::of_peer(address.into()).network()
    }

    /// Tries a wrong password, and tells whether it might be tried.
    fn wrong(log_ins: &LogIns, email: &str, from: u8, token: Option<&TokenId>) -> bool {
        let attempt = log_ins.begin(log_ins.account(email), place(from), token, at(0));
        attempt.map(Attempt::wrong).is_ok()
    }

    /// Tries wrong passwords until that is refused, and tells how many there were.
    fn wrong_ones(log_ins: &LogIns, email: &str, from: u8) -> usize {
        (0..1_000)
            .take_while(|_| wrong(log_ins, email, from, None))
            .count()
    }

    fn is_open(log_ins: &LogIns, email: &str, from: u8, token: Option<&TokenId>) -> bool {
        log_ins
            .begin(log_ins.account(email), place(from), token, at(0))
            .is_ok()
    }

    fn log_in(log_ins: &LogIns, email: &str, from: u8) {
        let attempt = log_ins.begin(log_ins.account(email), place(from), None, at(0));
        attempt.unwrap_or_else(|_| panic!("{email}")).right(at(0));
    }

    #[test]
    fn one_address_has_few_tries_at_an_account() {
        let log_ins = LogIns::new(SETTINGS);
        assert_eq!(wrong_ones(&log_ins, "ada@example.com", 1), 3);
        assert!(
            !is_open(&log_ins, "ADA@example.com", 1, None),
            "however it is spelt"
        );
        assert!(is_open(&log_ins, "ada@example.com", 2, None));
        let refused = log_ins.begin(log_ins.account("ada@example.com"), place(1), None, at(0));
        let refused = refused.err().unwrap();
        assert_eq!(refused.limit, Limit::LogInsPerAccount);
        assert_eq!(refused.retry_after.get(), 20 * 60_000);
        let later = log_ins.begin(
            log_ins.account("ada@example.com"),
            place(1),
            None,
            at(1_200_000),
        );
        assert!(later.is_ok());
    }

    #[test]
    fn one_address_has_so_many_tries_at_all_accounts() {
        let log_ins = LogIns::new(SETTINGS);
        let tried =
            (0..1_000).filter(|n| wrong(&log_ins, &format!("user{n}@example.com"), 1, None));
        assert_eq!(tried.count(), 10);
        let refused = log_ins.begin(log_ins.account("x"), place(1), None, at(0));
        assert_eq!(refused.err().unwrap().limit, Limit::LogInsPerAddress);
        assert!(is_open(&log_ins, "user7@example.com", 2, None));
    }

    #[test]
    fn all_addresses_together_have_so_many_tries_at_an_account() {
        let log_ins = LogIns::new(SETTINGS);
        let tried = (1..=200).filter(|from| wrong(&log_ins, "ada@example.com", *from, None));
        assert_eq!(tried.count(), 6);
        assert!(is_open(&log_ins, "bob@example.com", 1, None));
    }

    #[test]
    fn the_owner_is_not_locked_out_by_others() {
        let log_ins = LogIns::new(SETTINGS);
        log_in(&log_ins, "ada@example.com", 77);
        for from in 1..=20 {
            wrong_ones(&log_ins, "ada@example.com", from);
        }
        assert!(!is_open(&log_ins, "ada@example.com", 78, None));
        assert!(
            is_open(&log_ins, "ada@example.com", 77, None),
            "from where she was before"
        );
        assert!(!is_open(&log_ins, "ada@example.com", 1, None));
        let token = TokenId::parse(&"a".repeat(32)).unwrap();
        assert!(
            is_open(&log_ins, "ada@example.com", 1, Some(&token)),
            "with a token"
        );

        // These ways are not open to endless tries either.
        assert_eq!(wrong_ones(&log_ins, "ada@example.com", 77), 3);
        let tried = (0..1_000).filter(|_| wrong(&log_ins, "ada@example.com", 1, Some(&token)));
        assert_eq!(tried.count(), 3);
        let another = TokenId::parse(&"b".repeat(32)).unwrap();
        assert!(is_open(&log_ins, "ada@example.com", 1, Some(&another)));
    }

    #[test]
    fn right_passwords_and_unfinished_tries_don_t_count() {
        let log_ins = LogIns::new(SETTINGS);
        for _ in 0..100 {
            log_in(&log_ins, "ada@example.com", 1);
            assert!(is_open(&log_ins, "bob@example.com", 1, None));
        }
        assert_eq!(wrong_ones(&log_ins, "ada@example.com", 1), 3);
    }

    #[test]
    fn tries_at_once_are_no_more_than_tries_in_turn() {
        let log_ins = LogIns::new(SETTINGS);
        let account = log_ins.account("ada@example.com");
        let begin = || log_ins.begin(account, place(1), None, at(0));
        let at_once: Vec<_> = (0..100).filter_map(|_| begin().ok()).collect();
        assert_eq!(at_once.len(), 3);
        drop(at_once);
        assert!(begin().is_ok());
    }

    #[test]
    fn zero_is_no_limit() {
        let log_ins = LogIns::new(LogInSettings {
            from_address: 0,
            to_account: 0,
            from_address_to_account: 0,
        });
        assert_eq!(wrong_ones(&log_ins, "ada@example.com", 1), 1_000);
    }

    #[test]
    fn the_latest_places_of_the_latest_accounts_are_remembered() {
        let mut places = Places::new(2);
        let account = |number: u64| Account(number);
        for number in 1..=10 {
            places.remember(account(1), place(number), at(0));
            places.remember(account(1), place(10), at(0));
        }
        let has = |places: &Places, of: u64, number: u8| places.has(account(of), place(number));
        assert!(has(&places, 1, 10) && has(&places, 1, 9) && !has(&places, 1, 1));
        places.remember(account(2), place(1), at(1));
        places.remember(account(1), place(3), at(2));
        places.remember(account(3), place(1), at(3));
        assert!(has(&places, 1, 3) && has(&places, 3, 1) && !has(&places, 2, 1));
        assert_eq!((places.of.len(), places.order.len()), (2, 2));
        assert!(
            places
                .of
                .values()
                .all(|own| own.addresses.len() <= PLACES_MAX)
        );
    }
}

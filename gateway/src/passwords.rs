//! Passwords: which may be chosen, and argon2id with its default parameters, on a few threads of its own.
//!
//! A password is hashed in Unicode's normal form (NFC), since keyboards differ in how they write an
//! accented letter. Hashes from before that are of what was typed, which is tried after it.
//!
//! Each takes 25 ms of a core and more. So that no balance is pushed late because many log in, the
//! threads have a low priority: where both want a core, it is the others' nine times out of ten.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
};

use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::{self, phc::PasswordHash},
};
#[cfg(target_os = "linux")]
use rustix::{process::setpriority_process, thread::gettid};
use tokio::sync::{Semaphore, oneshot};

use crate::settings::PasswordSettings;
use passwords::analyzer::is_common_password;
use schema::account::{PASSWORD_BYTES_MAX, PASSWORD_CHARACTERS_MIN};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// The nice value of the threads: about a tenth of the weight of others. Only on Linux it is a thread's.
#[cfg(target_os = "linux")]
const LOW_PRIORITY: i32 = 10;

/// Why a password was neither hashed nor checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many wait already.
    #[error("too many passwords wait to be hashed")]
    Busy,
    /// The hashing failed, or a stored hash is none.
    #[error("a password could not be hashed or checked: {0}")]
    Failed(String),
}

/// Why a password may not be chosen. The message is for whoever chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// It has too few characters.
    #[error("The password must have at least {PASSWORD_CHARACTERS_MIN} characters.")]
    TooShort,
    /// It has too many bytes.
    #[error("The password must have at most {PASSWORD_BYTES_MAX} bytes.")]
    TooLong,
    /// Many people have it, so it is among the first that are tried.
    #[error(
        "Many people use this password, so it is among the first that are tried. Please choose another one, for \
         example three words that don't belong together."
    )]
    Common,
    /// It is the user's email, or begins it.
    #[error("The password must not be your email. Please choose another one.")]
    Email,
}

/// A password that may be chosen, in normal form.
// It has no `Debug`, so that a password can't reach a log by accident.
pub struct ChosenPassword(String);

impl ChosenPassword {
    /// `given`, if the user with this email may choose it.
    pub fn new(given: &str, email: &str) -> Result<Self, WeakPassword> {
        if given.len() > PASSWORD_BYTES_MAX {
            return Err(WeakPassword::TooLong);
        }
        let password: String = given.nfc().collect();
        if password.chars().count() < PASSWORD_CHARACTERS_MIN {
            return Err(WeakPassword::TooShort);
        }
        // As people vary a common one: with capitals, spaces around it, or full-width letters.
        let plain = password.nfkc().collect::<String>().trim().to_lowercase();
        if is_common_password(&password) || is_common_password(&plain) {
            return Err(WeakPassword::Common);
        }
        let email = email.to_lowercase();
        let name = email
            .rsplit_once('@')
            .map_or(email.as_str(), |(name, _)| name);
        if plain == email || plain == name {
            return Err(WeakPassword::Email);
        }
        Ok(Self(password))
    }

    /// Its hash in PHC form; takes about 25 ms of a core.
    pub fn hash(&self) -> Result<String, PasswordError> {
        hash(&self.0)
    }
}

/// Hashes and checks passwords.
pub struct Passwords {
    /// To the threads. It holds no more than are admitted.
    jobs: Sender<Job>,
    /// One permit for each hashing at work or waiting.
    admitted: Arc<Semaphore>,
    admitted_max: usize,
    /// What the password of an unknown user is compared with, so that it takes as long.
    dummy_hash: Arc<str>,
}

impl Passwords {
    /// As much hashing as `settings` allow.
    pub fn new(settings: PasswordSettings) -> Result<Self, PasswordError> {
        let admitted_max = settings.hashes_at_once + settings.waiting_max;
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 1..=settings.hashes_at_once {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("password-{number}"))
                .spawn(move || work_off(&queue))
                .map_err(|error| PasswordError::Failed(error.to_string()))?;
        }
        Ok(Self {
            jobs,
            admitted: Arc::new(Semaphore::new(admitted_max)),
            admitted_max,
            dummy_hash: hash("nobody has this password")?.into(),
        })
    }

    /// How many are being hashed or wait to be.
    pub fn waiting(&self) -> usize {
        self.admitted_max - self.admitted.available_permits()
    }

    /// The hash of `password`, in PHC form.
    pub async fn hash(&self, password: ChosenPassword) -> Result<String, PasswordError> {
        self.work(move || password.hash()).await
    }

    /// Whether `password` is the one of `stored`. Without a stored hash it takes as long, and is not. A
    /// wrong one that is not in normal form takes twice as long, whether there is a hash or not.
    pub async fn verify(
        &self,
        password: String,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        let dummy = Arc::clone(&self.dummy_hash);
        self.work(move || match stored {
            Some(stored) => verify_either_form(&password, &stored),
            None => verify_either_form(&password, &dummy).map(|_| false),
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let admitted = Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| PasswordError::Busy)?;
        let (reply, done) = oneshot::channel();
        let job = move || {
            // Whoever has gone away meanwhile needs no answer.
            if !reply.is_closed() {
                let _gone = reply.send(job());
            }
            drop(admitted);
        };
        let gone = || PasswordError::Failed("its thread is gone".to_owned());
        self.jobs.send(Box::new(job)).map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

/// Something to be hashed or checked.
type Job = Box<dyn FnOnce() + Send>;

/// Does what comes, in order, until nothing can come any more.
fn work_off(queue: &Mutex<Receiver<Job>>) {
    #[cfg(target_os = "linux")]
    if let Err(error) = setpriority_process(Some(gettid()), LOW_PRIORITY) {
        tracing::debug!(%error, "passwords are hashed at full priority");
    }
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // One that panics takes its reply with it, and nothing else.
        let _panicked = catch_unwind(AssertUnwindSafe(job));
    }
}

/// Whether `password` is the one of `stored`: in normal form, as hashes are made now, or as it was typed.
fn verify_either_form(password: &str, stored: &str) -> Result<bool, PasswordError> {
    if is_nfc(password) {
        return verify(password, stored);
    }
    let normal: String = password.nfc().collect();
    Ok(verify(&normal, stored)? || verify(password, stored)?)
}

fn hash(password: &str) -> Result<String, PasswordError> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    Ok(hash
        .map_err(|error| PasswordError::Failed(error.to_string()))?
        .to_string())
}

fn verify(password: &str, stored: &str) -> Result<bool, PasswordError> {
    let stored =
        PasswordHash::new(stored).map_err(|error| PasswordError::Failed(error.to_string()))?;
    match Argon2::default().verify_password(password.as_bytes(), &stored) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(password: &str) -> ChosenPassword {
        ChosenPassword::new(password, "ada@example.com")
            .ok()
            .unwrap()
    }

    #[test]
    fn a_weak_password_is_refused() {
        use WeakPassword::{Common, Email, TooLong, TooShort};
        let check = |password: &str, expected: Option<WeakPassword>| {
            let refused = ChosenPassword::new(password, "Ada.Lovelace@Example.com").err();
            assert_eq!(refused, expected, "{password:?}");
        };
        check("correct horse", None);
        check("battery staple", None);
        check("kfhe72b1", None);
        check(&"x".repeat(1_024), None);
        check("", Some(TooShort));
        check("seven 7", Some(TooShort));
        // Characters count, not bytes: these are 7 of 14 and 28 bytes, and 8.
        check("äöüßéèê", Some(TooShort));
        check("🐎🔋📎🦄🌋🪐🧊", Some(TooShort));
        check("🐎🔋📎🦄🌋🪐🧊🎷", None);
        // One character of two parts counts once.
        check("a\u{308}bcdefg", Some(TooShort));
        check(&format!("{}ab", "äö".repeat(255)), None);
        check(&format!("{}abcde", "äö".repeat(255)), Some(TooLong));
        for common in [
            "password",
            "12345678",
            "PASSWORD",
            "iLoveYou",
            "Password1",
            "qwertyuiop",
            "trustno1",
            " password ",
            "ｐａｓｓｗｏｒｄ",
        ] {
            check(common, Some(Common));
        }
        check("ada.lovelace@example.com", Some(Email));
        check("Ada.Lovelace", Some(Email));
        check("Ada.Lovelace 1815", None);
    }

    #[tokio::test]
    async fn a_password_is_the_same_on_every_keyboard() {
        let passwords = Passwords::new(PasswordSettings {
            hashes_at_once: 1,
            waiting_max: 1,
        })
        .unwrap();
        let (together, apart) = ("pferdestärke", "pferdesta\u{308}rke");
        let made_now = passwords.hash(chosen(apart)).await.unwrap();
        // As hashes were made before there was one form.
        let made_before = hash(apart).unwrap();
        let is = async |password: &str, stored: &str| {
            let stored = Some(stored.to_owned());
            passwords.verify(password.to_owned(), stored).await.unwrap()
        };
        assert!(is(together, &made_now).await && is(apart, &made_now).await);
        assert!(is(apart, &made_before).await, "an old hash goes on working");
        assert!(!is("pferdestarke", &made_now).await);
        assert!(!passwords.verify(apart.to_owned(), None).await.unwrap());
    }

    #[tokio::test]
    async fn passwords_are_told_apart() {
        let passwords = Passwords::new(PasswordSettings {
            hashes_at_once: 1,
            waiting_max: 1,
        })
        .unwrap();
        let stored = passwords.hash(chosen("correct horse")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let is = async |password: &str, stored: Option<&str>| {
            passwords
                .verify(password.to_owned(), stored.map(ToOwned::to_owned))
                .await
        };
        assert!(is("correct horse", Some(&stored)).await.unwrap());
        assert!(!is("correct hors", Some(&stored)).await.unwrap());
        assert!(!is("nobody has this password", None).await.unwrap());
        assert!(matches!(
            is("x", Some("no hash")).await,
            Err(PasswordError::Failed(_))
        ));
    }

    #[tokio::test]
    async fn too_many_at_once_are_refused() {
        let passwords = Passwords::new(PasswordSettings {
            hashes_at_once: 1,
            waiting_max: 1,
        })
        .unwrap();
        let hash = || passwords.hash(chosen("correct horse"));
        let (first, second, third) = tokio::join!(hash(), hash(), hash());
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(third, Err(PasswordError::Busy)));
    }
}

//! Passwords: argon2id with its default parameters, on a few threads of its own.
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
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        self.work(move || hash(&password)).await
    }

    /// Whether `password` is the one of `stored`. Without a stored hash it takes as long, and is not.
    pub async fn verify(
        &self,
        password: String,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        let dummy = Arc::clone(&self.dummy_hash);
        self.work(move || match stored {
            Some(stored) => verify(&password, &stored),
            None => verify(&password, &dummy).map(|_| false),
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

/// The hash of `password` in PHC form; takes about 25 ms of a core.
pub fn hash(password: &str) -> Result<String, PasswordError> {
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

    #[tokio::test]
    async fn passwords_are_told_apart() {
        let passwords = Passwords::new(PasswordSettings {
            hashes_at_once: 1,
            waiting_max: 1,
        })
        .unwrap();
        let stored = passwords.hash("correct horse".to_owned()).await.unwrap();
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
        let hash = || passwords.hash("12345678".to_owned());
        let (first, second, third) = tokio::join!(hash(), hash(), hash());
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(third, Err(PasswordError::Busy)));
    }
}

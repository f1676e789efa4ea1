//! Passwords: argon2id with its default parameters, on threads of its own and not too many at once.

use std::sync::Arc;

use argon2::{
    Argon2, PasswordHasher, PasswordVerifier,
    password_hash::{self, phc::PasswordHash},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::PasswordSettings;

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
    /// One permit for each hashing at work.
    at_work: Arc<Semaphore>,
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
        Ok(Self {
            at_work: Arc::new(Semaphore::new(settings.hashes_at_once)),
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
        let at_work = Arc::clone(&self.at_work)
            .acquire_owned()
            .await
            .map_err(|_| PasswordError::Busy)?;
        // The permits go with the job: it works on when the caller has gone away.
        let permits: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (admitted, at_work);
        tokio::task::spawn_blocking(move || {
            let done = job();
            drop(permits);
            done
        })
        .await
        .map_err(|error| PasswordError::Failed(error.to_string()))?
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

//! Erasing a user, from the API and from the command line alike: live sessions end first, on whichever
//! process, and the person goes in one transaction when none is left.

use std::time::Duration;

use engine::{
    Clock,
    store::{EraseError, Erasure, Store},
};
use schema::UserId;
use tokio::time::{Instant, sleep};

/// How often it is tried again while a session ends.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Erases the user of `erasure`, once no session is live. If that takes longer than `patience`,
/// nothing is erased, and sessions may start again.
pub async fn erase(
    store: &dyn Store,
    clock: &Clock,
    erasure: &Erasure,
    patience: Duration,
) -> Result<(), EraseError> {
    match attempt(store, clock, erasure).await {
        Err(EraseError::SessionLive) => {}
        erased => return erased,
    }
    store.begin_erasure(erasure.user, clock.now()).await?;
    let gives_up_at = Instant::now() + patience;
    let erased = loop {
        match attempt(store, clock, erasure).await {
            Err(EraseError::SessionLive) if Instant::now() < gives_up_at => {
                sleep(RETRY_EVERY).await;
            }
            erased => break erased,
        }
    };
    if erased.is_err() {
        cancel(store, clock, erasure.user).await;
    }
    erased
}

async fn attempt(store: &dyn Store, clock: &Clock, erasure: &Erasure) -> Result<(), EraseError> {
    let erasure = Erasure {
        at: clock.now(),
        ..erasure.clone()
    };
    store.erase_user(erasure).await
}

/// Lets sessions start again. Of a user who was erased after all, this changes nothing.
async fn cancel(store: &dyn Store, clock: &Clock, user: UserId) {
    if let Err(error) = store.cancel_erasure(user, clock.now()).await {
        tracing::warn!(
            user = user.get(),
            error = &error as &dyn std::error::Error,
            "sessions of a user who was to be erased stay barred"
        );
    }
}

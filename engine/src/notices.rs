//! Hears what other writers did to wallets, the command line for one: they leave notices in the
//! database, which are read several times a second.

use std::{sync::Arc, time::Duration};

use ractor::ActorRef;

use crate::{
    session::Request,
    store::{Store, StoreError},
    supervisor::SupervisorMessage,
};

/// How often notices are read. What a notice tells takes effect within a second.
const READ_EVERY: Duration = Duration::from_millis(400);
/// How many notices are read at a time.
const PAGE: u32 = 1_000;

/// Hands every notice after the one numbered `after` to the supervisor, until that has stopped.
pub async fn listen(
    store: Arc<dyn Store>,
    supervisor: ActorRef<SupervisorMessage>,
    mut after: i64,
) {
    let mut is_reading = true;
    loop {
        tokio::time::sleep(READ_EVERY).await;
        match read(store.as_ref(), &supervisor, &mut after).await {
            Ok(true) => is_reading = true,
            Ok(false) => return,
            Err(error) => {
                if is_reading {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "can't read notices"
                    );
                }
                is_reading = false;
            }
        }
    }
}

/// Reads all new notices. Returns whether there is a supervisor to hand them to.
async fn read(
    store: &dyn Store,
    supervisor: &ActorRef<SupervisorMessage>,
    after: &mut i64,
) -> Result<bool, StoreError> {
    loop {
        let notices = store.notices(Some(*after), PAGE).await?;
        for notice in &notices {
            if supervisor
                .cast(SupervisorMessage::Request(notice.user, Request::Notice))
                .is_err()
            {
                return Ok(false);
            }
            *after = notice.id;
        }
        if notices.len() < PAGE as usize {
            return Ok(true);
        }
    }
}

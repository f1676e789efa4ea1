//! Session ids, taken from the database in blocks: a session has its id before it is written, so
//! that writing it can be retried.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use schema::SessionId;

use crate::store::{Store, StoreError};

/// How many ids a block has. What is left of it at the process's end is never used.
const BLOCK: u32 = 1_000;

/// Ids to give out. Clones share them.
#[derive(Clone)]
pub struct SessionIds {
    store: Arc<dyn Store>,
    /// The block in use and the one after it.
    blocks: Arc<Mutex<[Range<i64>; 2]>>,
    is_taking: Arc<AtomicBool>,
}

impl SessionIds {
    /// Takes the first block.
    pub async fn start(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let block = store.take_session_ids(BLOCK).await?;
        Ok(Self {
            store,
            blocks: Arc::new(Mutex::new([block, 0..0])),
            is_taking: Arc::default(),
        })
    }

    /// The next id, or nothing where the database has not given a new block in time.
    pub fn next(&self) -> Option<SessionId> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks[0].is_empty() {
            blocks.swap(0, 1);
        }
        let id = blocks[0].next();
        let is_low = blocks[1].is_empty();
        drop(blocks);
        if is_low {
            self.take_block();
        }
        id.and_then(|id| SessionId::new(id).ok())
    }

    /// Takes another block in the background, unless one is being taken.
    fn take_block(&self) {
        if self.is_taking.swap(true, Ordering::AcqRel) {
            return;
        }
        let ids = self.clone();
        tokio::spawn(async move {
            match ids.store.take_session_ids(BLOCK).await {
                Ok(block) => ids.blocks.lock().unwrap_or_else(PoisonError::into_inner)[1] = block,
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "can't take session ids"
                ),
            }
            ids.is_taking.store(false, Ordering::Release);
        });
    }
}

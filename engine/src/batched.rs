//! Reading many things at once, without a timer: while one batch is being read the next one gathers,
//! so batches grow with the load by themselves, as the journal's do.
//!
//! A thousand users who come in the same moment then cost the database a few statements and not some
//! thousand. What is read is what the database says after it was asked for: nothing is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::store::StoreError;

/// How many things one batch reads at most.
const BATCH_MAX: usize = 1_000;

/// Why something could not be read. All that were in the batch share it.
pub type ReadError = Arc<StoreError>;

/// Reads values by keys. Clones share the batches.
pub struct Batched<K, V> {
    shared: Arc<Shared<K, V>>,
}

impl<K, V> Clone for Batched<K, V> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Reads the values of these keys, in their order.
type Read<K, V> = dyn Fn(Vec<K>) -> BoxFuture<'static, Result<Vec<V>, StoreError>> + Send + Sync;

struct Shared<K, V> {
    read: Box<Read<K, V>>,
    gathering: Mutex<Gathering<K, V>>,
}

struct Gathering<K, V> {
    waiting: Vec<Waiting<K, V>>,
    is_reading: bool,
}

struct Waiting<K, V> {
    key: K,
    reply: oneshot::Sender<Result<V, ReadError>>,
}

impl<K: Send + 'static, V: Send + 'static> Batched<K, V> {
    /// Reads by `read`, which gives a value for each key, in their order.
    pub fn new(
        read: impl Fn(Vec<K>) -> BoxFuture<'static, Result<Vec<V>, StoreError>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                read: Box::new(read),
                gathering: Mutex::new(Gathering {
                    waiting: Vec::new(),
                    is_reading: false,
                }),
            }),
        }
    }

    /// The value of `key`, as it was at this moment or later.
    pub async fn get(&self, key: K) -> Result<V, ReadError> {
        let (reply, value) = oneshot::channel();
        let begins = {
            let mut gathering = self.shared.gathering();
            gathering.waiting.push(Waiting { key, reply });
            !std::mem::replace(&mut gathering.is_reading, true)
        };
        if begins {
            tokio::spawn(read_all(Arc::clone(&self.shared)));
        }
        value.await.unwrap_or_else(|_| Err(never_read()))
    }
}

impl<K, V> Shared<K, V> {
    /// It is valid after any panic: each change of it is a single step.
    fn gathering(&self) -> MutexGuard<'_, Gathering<K, V>> {
        self.gathering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; the reading is over if there is none.
    fn next(&self) -> Option<Vec<Waiting<K, V>>> {
        let mut gathering = self.gathering();
        if gathering.waiting.is_empty() {
            // After a crowd the memory comes back.
            gathering.waiting = Vec::new();
            gathering.is_reading = false;
            return None;
        }
        let count = gathering.waiting.len().min(BATCH_MAX);
        Some(gathering.waiting.drain(..count).collect())
    }
}

/// Reads one batch after the other until nobody waits.
async fn read_all<K: Send + 'static, V: Send + 'static>(shared: Arc<Shared<K, V>>) {
    while let Some(batch) = shared.next() {
        let (keys, replies): (Vec<K>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.key, waiting.reply))
            .unzip();
        // In a task of its own: if it panics, those who wait hear of it and the next ones are read.
        match tokio::spawn((shared.read)(keys)).await {
            Ok(Ok(values)) => {
                for (reply, value) in replies.into_iter().zip(values) {
                    let _gone = reply.send(Ok(value));
                }
            }
            Ok(Err(error)) => {
                let error = Arc::new(error);
                for reply in replies {
                    let _gone = reply.send(Err(Arc::clone(&error)));
                }
            }
            Err(_) => drop(replies),
        }
    }
}

fn never_read() -> ReadError {
    Arc::new(StoreError::Unavailable(sqlx::Error::WorkerCrashed))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    /// Doubles numbers, slowly, and notes how many there were in each batch.
    fn doubling() -> (Batched<u64, u64>, Arc<Mutex<Vec<usize>>>) {
        let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
        let noted = Arc::clone(&sizes);
        let batched = Batched::new(move |keys: Vec<u64>| {
            noted.lock().unwrap().push(keys.len());
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if keys.contains(&13) {
                    return Err(StoreError::TimedOut(Duration::ZERO));
                }
                assert!(!keys.contains(&14), "a fault, for the test");
                Ok(keys.into_iter().map(|key| 2 * key).collect())
            })
        });
        (batched, sizes)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_during_a_batch_is_the_next_one() {
        let (batched, sizes) = doubling();
        let first = tokio::spawn({
            let batched = batched.clone();
            async move { batched.get(1).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        let others = join_all((100..1_601).map(|key| batched.get(key))).await;
        assert_eq!(first.await.unwrap().unwrap(), 2);
        let others: Vec<u64> = others.into_iter().map(Result::unwrap).collect();
        assert_eq!(others, (100..1_601).map(|key| 2 * key).collect::<Vec<_>>());
        assert_eq!(*sizes.lock().unwrap(), [1, 1_000, 501]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_everybodys_and_the_next_batch_is_read() {
        let (batched, _) = doubling();
        for wrong in [13, 14] {
            let all = join_all([batched.get(1), batched.get(wrong)]).await;
            assert!(all.iter().all(Result::is_err), "{wrong}");
            assert_eq!(batched.get(2).await.unwrap(), 4);
        }
    }
}

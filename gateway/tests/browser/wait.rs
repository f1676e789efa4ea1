//! Waiting for conditions. How long it takes is never what is tested; that it never comes is.

use std::time::Duration;

/// How long a condition may take to come true before it is taken for one that never does.
const PATIENCE: Duration = Duration::from_mins(1);

/// Returns once `is_true` is.
pub(crate) async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    until_some(what, async || is_true().await.then_some(())).await;
}

/// Returns the first thing that `find` finds.
pub(crate) async fn until_some<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

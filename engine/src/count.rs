//! A share in a common count that is given back when its owner goes, however it goes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::context::Context;

/// What one owner adds to one of the context's counts.
pub struct Count {
    context: Arc<Context>,
    of: fn(&Context) -> &AtomicUsize,
    share: usize,
}

impl Count {
    /// Adds nothing yet to the count that `of` picks.
    pub fn new(context: Arc<Context>, of: fn(&Context) -> &AtomicUsize) -> Self {
        Self {
            context,
            of,
            share: 0,
        }
    }

    /// Adds `share` instead of what it added before.
    pub fn set(&mut self, share: usize) {
        if share != self.share {
            let count = (self.of)(&self.context);
            count.fetch_add(share, Ordering::Relaxed);
            count.fetch_sub(self.share, Ordering::Relaxed);
            self.share = share;
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.set(0);
    }
}

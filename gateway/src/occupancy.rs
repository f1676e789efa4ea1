//! How many of something each client has, so that none takes the place of all others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::client::ClientNetwork;

/// Counts by client. Clones share their counts.
#[derive(Clone, Debug)]
pub struct Occupancy(Arc<Shared>);

/// Each place refers to it, and there is one for each connection and socket: hence a single pointer.
#[derive(Debug)]
struct Shared {
    counts: Mutex<HashMap<ClientNetwork, usize>>,
    each_max: usize,
}

/// A place that a client takes, until this is dropped.
#[derive(Debug)]
pub struct Place {
    occupancy: Occupancy,
    network: ClientNetwork,
}

impl Occupancy {
    /// Up to `each_max` places for each client; any number if that is 0.
    pub fn new(each_max: usize) -> Self {
        Self(Arc::new(Shared {
            counts: Mutex::default(),
            each_max: if each_max == 0 { usize::MAX } else { each_max },
        }))
    }

    /// Takes a place for the client in `network`, unless it has as many as it may.
    pub fn enter(&self, network: ClientNetwork) -> Option<Place> {
        let mut counts = self.counts();
        let count = counts.entry(network).or_default();
        if *count >= self.0.each_max {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place {
            occupancy: self.clone(),
            network,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<ClientNetwork, usize>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.occupancy.counts();
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
                // After a crowd the memory comes back.
                if counts.capacity() > 4 * counts.len() + 64 {
                    counts.shrink_to_fit();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientAddress;

    #[test]
    fn each_client_has_its_own_places() {
        let network = |text: &str| ClientAddress::of_peer(text.parse().unwrap()).network();
        let occupancy = Occupancy::new(2);
        let (one, other) = (network("192.0.2.1"), network("192.0.2.2"));
        let first = occupancy.enter(one).unwrap();
        let _second = occupancy.enter(one).unwrap();
        assert!(occupancy.enter(one).is_none());
        assert!(occupancy.enter(other).is_some());
        drop(first);
        assert!(occupancy.enter(one).is_some());
        assert_eq!(occupancy.counts().len(), 1, "who has none is forgotten");

        let unlimited = Occupancy::new(0);
        let places: Vec<_> = (0..100).map_while(|_| unlimited.enter(one)).collect();
        assert_eq!(places.len(), 100);
    }
}

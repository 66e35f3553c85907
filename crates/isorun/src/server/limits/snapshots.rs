//! The account of snapshots, which stay until they are deleted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::ledger::{Hold, Ledger};
use crate::server::ApiError;

/// Places of snapshots, by their ids.
pub struct Snapshots {
    ledger: Arc<Ledger>,
    held: Mutex<HashMap<String, Hold>>,
}

impl Snapshots {
    pub fn new(total: u64, percent: u8) -> Self {
        let ledger = Ledger::new("snapshots", "--max-snapshots", total, percent);
        Self { ledger, held: Mutex::default() }
    }

    /// A place for a snapshot to be. It is given back unless it is [kept](Self::keep).
    pub fn take(&self, tenant: &str) -> Result<Hold, ApiError> {
        self.ledger.take(tenant, 1).map_err(|exhausted| self.ledger.refusal(exhausted))
    }

    /// A snapshot that is there has its place until it is deleted.
    pub fn keep(&self, id: &str, place: Hold) {
        self.held().insert(id.to_owned(), place);
    }

    /// Counts one that was there before the server was, even if it is over a limit
    /// that was lowered since.
    pub fn found(&self, id: &str, tenant: &str) {
        if let Ok(place) = self.ledger.take_within(tenant, 1, u64::MAX) {
            self.keep(id, place);
        }
    }

    pub fn deleted(&self, id: &str) {
        self.held().remove(id);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Hold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_a_place_until_it_is_deleted() {
        let snapshots = Snapshots::new(64, 50);
        for number in 0..32 {
            let place = snapshots.take("a").unwrap();
            snapshots.keep(&number.to_string(), place);
        }
        let error = snapshots.take("a").unwrap_err();
        assert!(error.message.contains("too many snapshots"), "{}", error.message);
        // One that fails gives its place back.
        drop(snapshots.take("b").unwrap());
        snapshots.deleted("7");
        snapshots.take("a").unwrap();
        for number in 100..200 {
            snapshots.found(&number.to_string(), "c");
        }
        assert!(snapshots.take("b").is_err(), "the server has all that it can have");
    }
}

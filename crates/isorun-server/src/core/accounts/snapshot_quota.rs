//! The account of stored snapshots, which exist until they are deleted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::ledger::{Hold, Ledger};
use crate::core::error::Error;

/// The quota of snapshots, with the slots that are in use by their ids.
pub struct SnapshotQuota {
    ledger: Arc<Ledger>,
    held: Mutex<HashMap<String, Hold>>,
}

impl SnapshotQuota {
    pub fn new(total: u64, percent: u8) -> Self {
        let ledger = Ledger::new("snapshots", "--max-snapshots", total, percent);
        Self { ledger, held: Mutex::default() }
    }

    /// Takes a slot for a new snapshot. It is released on drop unless it is [kept](Self::keep).
    pub fn take(&self, tenant: &str) -> Result<Hold, Error> {
        self.ledger.take(tenant, 1).map_err(|exhausted| self.ledger.refusal(exhausted))
    }

    /// Keeps the slot of a snapshot until the snapshot is deleted.
    pub fn keep(&self, id: &str, slot: Hold) {
        self.held().insert(id.to_owned(), slot);
    }

    /// Counts a snapshot from before the start of the server, even above a limit that
    /// was lowered since.
    pub fn register(&self, id: &str, tenant: &str) {
        if let Ok(slot) = self.ledger.take_within(tenant, 1, u64::MAX) {
            self.keep(id, slot);
        }
    }

    /// Releases the slot of a snapshot.
    pub fn release(&self, id: &str) {
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
    fn snapshot_slots_are_limited_and_released() {
        let snapshots = SnapshotQuota::new(64, 50);
        for number in 0..32 {
            let slot = snapshots.take("a").unwrap();
            snapshots.keep(&number.to_string(), slot);
        }
        let error = snapshots.take("a").unwrap_err();
        assert!(error.message.contains("too many snapshots"), "{}", error.message);
        // A slot that is dropped is released.
        drop(snapshots.take("b").unwrap());
        snapshots.release("7");
        snapshots.take("a").unwrap();
        for number in 100..200 {
            snapshots.register(&number.to_string(), "c");
        }
        assert!(snapshots.take("b").is_err(), "the total is reached");
    }
}

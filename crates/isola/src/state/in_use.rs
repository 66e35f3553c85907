//! States that were read from files and are in use. Reading the same file again
//! returns the same memory.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::GuestState;
use crate::cache::Identity;

/// The largest number of shared states. Each keeps a file descriptor open as long
/// as a sandbox of it exists, and a process often has at most a thousand.
const MAX_SHARED_STATES: usize = 64;

/// The states that sandboxes can share, by the identities of their files.
#[derive(Default)]
pub(crate) struct SharedStates(Mutex<Vec<(Identity, Weak<GuestState>)>>);

impl SharedStates {
    /// Returns the state of a file, if it is in use and the file is unchanged.
    pub(crate) fn find(&self, file: &Identity) -> Option<Arc<GuestState>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(known, _)| known == file).and_then(|(_, state)| state.upgrade())
    }

    /// Shares a state if fewer than [`MAX_SHARED_STATES`] are shared.
    pub(crate) fn share(&self, file: Identity, mut state: GuestState) -> Arc<GuestState> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(known, state)| *known != file && state.strong_count() > 0);
        state.shared = known.len() < MAX_SHARED_STATES;
        let state = Arc::new(state);
        if state.shared {
            known.push((file, Arc::downgrade(&state)));
        }
        state
    }
}

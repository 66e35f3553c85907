//! States that were read from files and are in use: whoever reads the same file
//! gets the same memory.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::state::State;
use crate::cache::Identity;

/// So many are shared. Each keeps a descriptor open as long as a sandbox lives
/// that goes on from it, and a process often has no more than a thousand.
const MOST: usize = 64;

/// The states that others can have, by their files.
#[derive(Default)]
pub(crate) struct InUse(Mutex<Vec<(Identity, Weak<State>)>>);

impl InUse {
    /// The state of a file, if it is in use and the file is as it was.
    pub(crate) fn find(&self, file: &Identity) -> Option<Arc<State>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(known, _)| known == file).and_then(|(_, state)| state.upgrade())
    }

    /// Lets others have a state, if there are not too many.
    pub(crate) fn share(&self, file: Identity, mut state: State) -> Arc<State> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(known, state)| *known != file && state.strong_count() > 0);
        state.shared = known.len() < MOST;
        let state = Arc::new(state);
        if state.shared {
            known.push((file, Arc::downgrade(&state)));
        }
        state
    }
}

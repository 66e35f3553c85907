//! Cancels the task of a handler whose request was dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use crate::bridge::{attach, post};

/// The state by which a dropped request cancels its handler's task.
pub struct Cancellation {
    state: Mutex<CancellationState>,
    event_loop: Py<PyAny>,
}

enum CancellationState {
    Waiting,
    /// The function that cancels the handler.
    Bound(Py<PyAny>),
    /// The request was dropped.
    Dropped,
}

impl Cancellation {
    fn lock(&self) -> MutexGuard<'_, CancellationState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the function that cancels the handler. Returns false if the request
    /// was dropped already.
    pub fn bind(&self, cancel: Py<PyAny>) -> bool {
        let mut state = self.lock();
        let pending = !matches!(*state, CancellationState::Dropped);
        if pending {
            *state = CancellationState::Bound(cancel);
        }
        pending
    }
}

/// A guard that cancels the handler when the request is dropped: its call has
/// ended, or the guest abandoned it.
pub struct Guard(Arc<Cancellation>);

impl Guard {
    /// Creates a guard of a handler that runs on the event loop.
    pub fn new(event_loop: Py<PyAny>) -> Self {
        Self(Arc::new(Cancellation { state: Mutex::new(CancellationState::Waiting), event_loop }))
    }

    /// Returns the state through which the handler's task is bound to this guard.
    pub fn cancellation(&self) -> Arc<Cancellation> {
        Arc::clone(&self.0)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.0.lock(), CancellationState::Dropped);
        if let CancellationState::Bound(cancel) = before {
            attach(|py| {
                let _ = post(self.0.event_loop.bind(py), cancel.bind(py), ());
            });
        }
    }
}

//! The state machine of a sandbox, which is drawn in the parent module.

use std::{
    fmt, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::instance::GuestInstance;
use crate::error::{Closed, Error};

/// The state of a sandbox. It owns the guest while no operation has taken it.
pub(super) struct Lifecycle {
    state: Mutex<LifecycleState>,
    closing: Notify,
}

/// The state in the diagram of the module's documentation.
enum LifecycleState {
    Pending(Box<GuestInstance>),
    Idle(Box<GuestInstance>),
    Busy,
    Closed(Closed),
}

impl Lifecycle {
    /// Returns the state of a sandbox that has not been started.
    pub(super) fn pending(guest: Box<GuestInstance>) -> Self {
        Self { state: Mutex::new(LifecycleState::Pending(guest)), closing: Notify::new() }
    }

    /// Takes the guest for an operation, or returns why it cannot be taken.
    pub(super) fn take(&self, start: bool) -> Result<Box<GuestInstance>, Error> {
        let mut state = self.lock();
        match (mem::replace(&mut *state, LifecycleState::Busy), start) {
            (LifecycleState::Pending(guest), true) | (LifecycleState::Idle(guest), false) => {
                Ok(guest)
            }
            (other, _) => {
                let error = match &other {
                    LifecycleState::Pending(_) => Error::NotRunning,
                    LifecycleState::Idle(_) => Error::NotPending,
                    LifecycleState::Busy if start => Error::NotPending,
                    LifecycleState::Busy => Error::Busy,
                    LifecycleState::Closed(why) => Error::Closed(why.clone()),
                };
                *state = other;
                Err(error)
            }
        }
    }

    /// Returns the guest for the next operation.
    pub(super) fn put_back(&self, guest: Box<GuestInstance>) {
        let mut state = self.lock();
        // The sandbox may have been closed in the meantime.
        if matches!(*state, LifecycleState::Busy) {
            *state = LifecycleState::Idle(guest);
        }
    }

    /// Closes the sandbox and drops its guest, unless an operation has taken it.
    pub(super) fn close(&self, why: Closed) {
        let mut state = self.lock();
        if matches!(*state, LifecycleState::Closed(_)) {
            return;
        }
        let guest = mem::replace(&mut *state, LifecycleState::Closed(why));
        drop(state);
        self.closing.notify_waiters();
        // Unmapping a guest takes long, so it is done without the lock.
        drop(guest);
    }

    /// Waits until the sandbox is closed.
    pub(super) async fn wait_closed(&self) -> Closed {
        loop {
            let closing = self.closing.notified();
            if let LifecycleState::Closed(why) = &*self.lock() {
                return why.clone();
            }
            closing.await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.lock(), LifecycleState::Closed(_))
    }

    /// Reports whether the sandbox is open and no operation has taken its guest.
    pub(super) fn has_guest(&self) -> bool {
        matches!(*self.lock(), LifecycleState::Pending(_) | LifecycleState::Idle(_))
    }

    fn lock(&self) -> MutexGuard<'_, LifecycleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self.lock() {
            LifecycleState::Pending(_) => "pending",
            LifecycleState::Idle(_) => "idle",
            LifecycleState::Busy => "busy",
            LifecycleState::Closed(_) => "closed",
        })
    }
}

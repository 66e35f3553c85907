//! Interruption of the code that `run_code` runs.
//!
//! ```text
//!  embedder            host                               guest (Python)
//!  ────────            ────                               ──────────────
//!                      run-code ────────────────────────▶ stores KeyboardInterrupt
//!                      target ◀─────────────────────────  interrupt-word(address, mask)
//!  interrupt() ──────▶ requested                          while True: pass
//!                      epoch callback: word |= mask ────▶ raises KeyboardInterrupt
//! ```
//!
//! CPython reads a word of its thread's state in every loop and call. The guest tells the
//! host that word and the bit upon which it raises an exception, and the host sets the bit
//! at the next epoch, when the guest is suspended on the same thread. A guest that waits
//! for the host is woken. A guest without such a word, as a JavaScript guest, only has its
//! waits ended; `sandbox/call.rs` closes the sandbox if code does not end in time.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;

pub(crate) use self::{delivery::Delivery, word::GuestMemory};

mod delivery;
mod word;

/// The interruption of one sandbox, shared by its handle and its guest.
#[derive(Default)]
pub(crate) struct Interrupt {
    state: Mutex<InterruptState>,
    /// `true` from a request until it is delivered, for the epoch callback and for waits.
    undelivered: AtomicBool,
    arrived: Notify,
}

#[derive(Default)]
struct InterruptState {
    /// The context of the code that runs.
    context: Option<String>,
    requested: bool,
    /// `true` if the guest has told the word by which it is interrupted.
    armed: bool,
    /// The time limit that has interrupted the code.
    exceeded: Option<Duration>,
}

impl Interrupt {
    /// Begins code in a context.
    pub(crate) fn begin(&self, context: &str) {
        let mut state = self.lock();
        *state = InterruptState { context: Some(context.to_owned()), ..Default::default() };
        self.undelivered.store(false, Relaxed);
    }

    /// Ends the code, which leaves the time limit that has interrupted it.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.context = None;
        state.requested = false;
        state.armed = false;
        self.undelivered.store(false, Relaxed);
    }

    /// Interrupts the code that runs, if it is in this context. Reports whether it is.
    pub(crate) fn request(&self, context: Option<&str>) -> bool {
        let mut state = self.lock();
        let matches = match (&state.context, context) {
            (Some(running), Some(wanted)) => running == wanted,
            (running, None) => running.is_some(),
            (None, Some(_)) => false,
        };
        if matches {
            state.requested = true;
            self.undelivered.store(true, Relaxed);
            self.arrived.notify_waiters();
        }
        matches
    }

    /// Interrupts the code because it has exceeded a time limit. Reports whether the guest
    /// can be interrupted in the middle of its code.
    pub(crate) fn request_after(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        if state.context.is_none() || !state.armed {
            return false;
        }
        state.requested = true;
        state.exceeded = Some(limit);
        self.undelivered.store(true, Relaxed);
        self.arrived.notify_waiters();
        true
    }

    /// Returns the time limit that has interrupted the last code.
    pub(crate) fn exceeded(&self) -> Option<Duration> {
        self.lock().exceeded
    }

    pub(crate) fn set_armed(&self, armed: bool) {
        self.lock().armed = armed;
    }

    /// Reports whether an interrupt is requested and not delivered.
    pub(crate) fn is_undelivered(&self) -> bool {
        self.undelivered.load(Relaxed)
    }

    /// Records that the guest has got the interrupt, so that its next waits last.
    pub(crate) fn set_delivered(&self) {
        self.undelivered.store(false, Relaxed);
    }

    /// Waits until an interrupt is requested.
    pub(crate) async fn requested(&self) {
        self.until(|| self.lock().requested).await;
    }

    /// Waits until an interrupt is requested that is not delivered.
    pub(crate) async fn arrived(&self) {
        self.until(|| self.is_undelivered()).await;
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let arrived = self.arrived.notified();
            if condition() {
                return;
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, InterruptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_code_of_the_context_is_interrupted() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.request(None));
        interrupt.begin("a");
        assert!(!interrupt.request(Some("b")) && !interrupt.is_undelivered());
        assert!(!interrupt.request_after(Duration::ZERO));
        assert!(interrupt.request(Some("a")) && interrupt.is_undelivered());
        interrupt.end();
        assert!(!interrupt.is_undelivered() && !interrupt.request(Some("a")));
        interrupt.begin("a");
        interrupt.set_armed(true);
        assert!(interrupt.request_after(Duration::from_secs(1)));
        interrupt.end();
        assert_eq!(interrupt.exceeded(), Some(Duration::from_secs(1)));
        interrupt.begin("a");
        assert_eq!(interrupt.exceeded(), None);
    }
}

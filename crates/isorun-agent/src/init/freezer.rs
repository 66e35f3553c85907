//! The state of a freeze, from the preparation of a checkpoint to the next request,
//! and deadlines that are postponed by it.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A deadline that is postponed by the time that the sandbox is frozen. Under
/// gVisor the monotonic clock continues meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The state of a freeze, and the number of open connections.
pub struct Freezer {
    /// The total time that the sandbox was frozen: from each freeze until the next
    /// request to the original or to a copy.
    frozen_time: Cell<Duration>,
    /// The start of the present freeze.
    frozen_since: Cell<Option<Instant>>,
    frozen: watch::Sender<bool>,
    connections: watch::Sender<usize>,
}

impl Default for Freezer {
    fn default() -> Self {
        Self {
            frozen_time: Cell::default(),
            frozen_since: Cell::default(),
            frozen: watch::Sender::new(false),
            connections: watch::Sender::new(0),
        }
    }
}

/// A guard that counts a connection as open until it is dropped.
pub struct ConnectionGuard(watch::Sender<usize>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Freezer {
    /// Counts a connection as open.
    pub fn count_connection(&self) -> ConnectionGuard {
        self.connections.send_modify(|open| *open += 1);
        ConnectionGuard(self.connections.clone())
    }

    /// Returns a receiver that reports whether the sandbox is frozen, so that sessions
    /// have to be detached.
    pub fn frozen(&self) -> watch::Receiver<bool> {
        self.frozen.subscribe()
    }

    /// Requests that all sessions are detached, and waits until only the caller's
    /// connection is left.
    pub async fn freeze(&self) {
        if self.frozen_since.get().is_none() {
            self.frozen_since.set(Some(Instant::now()));
        }
        self.frozen.send_replace(true);
        let mut connections = self.connections.subscribe();
        // It cannot be closed: the sender is here.
        let _ = connections.wait_for(|open| *open <= 1).await;
    }

    /// Ends the freeze after a checkpoint.
    pub fn thaw(&self) {
        if let Some(since) = self.frozen_since.take() {
            self.frozen_time.set(self.frozen_time.get() + since.elapsed());
        }
        self.frozen.send_if_modified(|frozen| std::mem::replace(frozen, false));
    }

    /// Returns the deadline after that time.
    pub fn deadline(&self, after: Duration) -> Deadline {
        let since = self.frozen_since.get().map_or(Duration::ZERO, |since| since.elapsed());
        // The subtraction cannot underflow in practice: the sandbox was running before
        // it was frozen.
        let now = Instant::now();
        let running = now.checked_sub(self.frozen_time.get() + since).unwrap_or(now);
        Deadline(running + after)
    }

    /// Resolves at a deadline.
    pub async fn until(&self, deadline: Option<Deadline>) {
        let Some(Deadline(deadline)) = deadline else { return std::future::pending().await };
        let mut frozen = self.frozen.subscribe();
        loop {
            // It cannot be closed: the sender is here.
            let _ = frozen.wait_for(|frozen| !frozen).await;
            tokio::select! {
                () = sleep_until(deadline + self.frozen_time.get()) => {
                    if self.frozen_since.get().is_none() {
                        return;
                    }
                }
                _ = frozen.wait_for(|frozen| *frozen) => {}
            }
        }
    }
}

/// Resolves when the sandbox is frozen and sessions have to be detached.
pub async fn until_frozen(frozen: Option<&mut watch::Receiver<bool>>) {
    match frozen {
        Some(frozen) => {
            // It cannot be closed: the agent has the sender.
            let _ = frozen.wait_for(|frozen| *frozen).await;
        }
        None => std::future::pending().await,
    }
}

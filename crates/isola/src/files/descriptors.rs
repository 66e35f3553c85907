//! How many descriptors of the process guests may hold.
//!
//! A process has a limited number of them (`RLIMIT_NOFILE`, often 1,024), and
//! what guests take the embedder lacks. So half of them is for the embedder.
//! Of three quarters of the other half a sandbox gets no more than it leaves:
//! one alone has at most half of that. The rest is for those that have few, so
//! that there are some for another when all others took what they could.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

/// Files and directories that one sandbox has open at once.
pub(crate) const MAX_OPEN_FILES: usize = 256;

/// Files and directories that a sandbox may have open when others took all that
/// they could.
const MIN_OPEN_FILES: usize = 16;

/// Descriptors that are assumed where the limit cannot be read, or is none.
const MANY: usize = 1 << 16;

/// The descriptors that guests hold, over all sandboxes of this process.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// The descriptors that one sandbox holds.
#[derive(Clone, Default)]
pub(super) struct Descriptors(Arc<AtomicUsize>);

impl Descriptors {
    /// Takes one descriptor. `None` if the sandbox has its share already.
    pub(super) fn take(&self) -> Option<Descriptor> {
        let available = limit() / 2;
        let own = self.0.load(SeqCst);
        let take = |held: usize| {
            let left = (available / 4 * 3).saturating_sub(held);
            let few = own < MIN_OPEN_FILES && held < available;
            (own < MAX_OPEN_FILES.min(left) || few).then_some(held + 1)
        };
        PROCESS.fetch_update(SeqCst, SeqCst, take).ok()?;
        self.0.fetch_add(1, SeqCst);
        Some(Descriptor(Arc::clone(&self.0)))
    }
}

/// A descriptor that was taken, until it is dropped.
pub(super) struct Descriptor(Arc<AtomicUsize>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
        PROCESS.fetch_sub(1, SeqCst);
    }
}

/// The descriptors that this process may have open. It is read each time, since
/// the embedder may change it.
#[cfg(unix)]
fn limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MANY)
}

#[cfg(not(unix))]
fn limit() -> usize {
    MANY
}

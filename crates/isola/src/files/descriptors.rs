//! The quota of file descriptors that guests may hold.
//!
//! A process has a limited number of descriptors (`RLIMIT_NOFILE`, often 1,024),
//! shared by guests and embedder. Half of them is reserved for the embedder. From
//! three quarters of the other half a sandbox may hold at most as many as remain
//! free: a single sandbox gets at most half of that part. The last quarter is
//! reserved for sandboxes with few open files, so that a new one gets some even
//! if all others hold their maximum.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

/// The maximum number of files and directories that one sandbox has open at once.
pub(crate) const MAX_OPEN_FILES: usize = 256;

/// The number of files and directories that a sandbox may have open even if the
/// other sandboxes hold their maximum.
const MIN_OPEN_FILES: usize = 16;

/// The assumed number of descriptors if the limit cannot be read or there is none.
const DEFAULT_DESCRIPTOR_LIMIT: usize = 1 << 16;

/// The number of descriptors that the guests of all sandboxes in this process hold.
static HELD_BY_ALL_GUESTS: AtomicUsize = AtomicUsize::new(0);

/// The descriptor quota of one sandbox: the number of descriptors that it holds.
#[derive(Clone, Default)]
pub(super) struct DescriptorQuota(Arc<AtomicUsize>);

impl DescriptorQuota {
    /// Acquires a permit for one descriptor. Returns `None` if the quota is used up.
    pub(super) fn acquire(&self) -> Option<DescriptorPermit> {
        let available = limit() / 2;
        let own = self.0.load(SeqCst);
        let take = |held: usize| {
            let left = (available / 4 * 3).saturating_sub(held);
            let few = own < MIN_OPEN_FILES && held < available;
            (own < MAX_OPEN_FILES.min(left) || few).then_some(held + 1)
        };
        HELD_BY_ALL_GUESTS.fetch_update(SeqCst, SeqCst, take).ok()?;
        self.0.fetch_add(1, SeqCst);
        Some(DescriptorPermit { own: Arc::clone(&self.0), of_process: true })
    }

    /// Acquires a permit for a private file, which takes no descriptor of the process.
    pub(super) fn acquire_private(&self) -> Option<DescriptorPermit> {
        let take = |own: usize| (own < MAX_OPEN_FILES).then_some(own + 1);
        self.0.fetch_update(SeqCst, SeqCst, take).ok()?;
        Some(DescriptorPermit { own: Arc::clone(&self.0), of_process: false })
    }
}

/// A permit to hold one descriptor. Dropping it returns the descriptor.
pub(super) struct DescriptorPermit {
    own: Arc<AtomicUsize>,
    of_process: bool,
}

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        self.own.fetch_sub(1, SeqCst);
        if self.of_process {
            HELD_BY_ALL_GUESTS.fetch_sub(1, SeqCst);
        }
    }
}

/// Returns the number of descriptors that this process may have open. It is read
/// each time, because the embedder may change it.
#[cfg(unix)]
fn limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(DEFAULT_DESCRIPTOR_LIMIT)
}

#[cfg(not(unix))]
fn limit() -> usize {
    DEFAULT_DESCRIPTOR_LIMIT
}

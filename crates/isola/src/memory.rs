//! The memory limit of one sandbox.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use wasmtime::{ResourceLimiter, Result};

/// The total size of the linear memories of one store. Growth beyond the limit
/// is refused.
pub(crate) struct MemoryMeter {
    limit: usize,
    /// Shared with the sandbox's handle, which reports it.
    used: Arc<AtomicUsize>,
    refused: bool,
}

/// The largest number of table elements, which take 16 bytes each on the host.
/// No guest needs as many.
const MAX_TABLE_ELEMENTS: usize = 1 << 20;

impl MemoryMeter {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: Arc::default(), refused: false }
    }

    /// Returns the current size of the memories, in bytes, which changes as they grow.
    pub(crate) fn size(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.used)
    }

    /// Counts a memory that begins with an image of this size. The limit must allow it.
    #[cfg(target_os = "linux")]
    pub(crate) fn begin_with(&self, size: usize) {
        self.used.fetch_max(size, Relaxed);
    }

    /// Reports whether growth was refused since the last call of this function.
    pub(crate) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool> {
        let used = self.used.load(Relaxed) + desired.saturating_sub(current);
        if used > self.limit {
            self.refused = true;
            return Ok(false);
        }
        self.used.store(used, Relaxed);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

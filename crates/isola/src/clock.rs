//! The monotonic clock of a guest.

use std::time::Instant;

use wasmtime_wasi::HostMonotonicClock;

/// A clock that counts nanoseconds from an offset. For a guest that is restored
/// from a snapshot, the offset is the clock's reading when the snapshot was
/// taken, because a monotonic clock never goes back.
pub(crate) struct Monotonic {
    offset_nanos: u64,
    created: Instant,
}

impl Monotonic {
    pub(crate) fn from(offset_nanos: u64) -> Self {
        Self { offset_nanos, created: Instant::now() }
    }
}

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let elapsed = u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.offset_nanos.saturating_add(elapsed)
    }
}

//! The monotonic clock of a guest.

use std::time::Instant;

use wasmtime_wasi::HostMonotonicClock;

/// Counts nanoseconds from a beginning, which for a guest that goes on from a
/// snapshot is what the clock said when that was taken: a monotonic clock never
/// goes back.
pub(crate) struct Monotonic {
    beginning: u64,
    since: Instant,
}

impl Monotonic {
    pub(crate) fn from(beginning: u64) -> Self {
        Self { beginning, since: Instant::now() }
    }
}

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let elapsed = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.beginning.saturating_add(elapsed)
    }
}

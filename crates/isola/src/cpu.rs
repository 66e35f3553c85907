//! The CPU time of a call.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use crate::error::{Limit, LimitExceeded};

/// Counts the CPU time that a guest's future takes while it is polled, and the
/// CPU time that other threads spend on file operations for the guest.
///
/// Between polls a guest waits for its host, and that costs it nothing. Only
/// the thread that polls writes `spent`, and the guest's epoch callback, which
/// reads, runs on that same thread.
#[derive(Default)]
pub(crate) struct CpuClock {
    /// Nanoseconds, over all finished polls of this call.
    spent: AtomicU64,
    /// Nanoseconds of all earlier calls.
    earlier: AtomicU64,
    /// The thread's CPU time when the running poll began.
    since: AtomicU64,
    /// Nanoseconds that other threads spent for this call.
    elsewhere: AtomicU64,
    /// What the call may take; the largest number for no limit.
    limit: AtomicU64,
}

impl CpuClock {
    /// Begins a call.
    pub(crate) fn reset(&self, limit: Option<Duration>) {
        let spent = self.spent.swap(0, Relaxed).saturating_add(self.elsewhere.swap(0, Relaxed));
        self.earlier.fetch_add(spent, Relaxed);
        self.limit.store(limit.map_or(u64::MAX, nanos), Relaxed);
    }

    /// Returns the error for a call that took more than it may. To be asked
    /// from within a poll.
    pub(crate) fn exceeded(&self) -> Option<LimitExceeded> {
        let limit = self.limit.load(Relaxed);
        let taken = self.polled().saturating_add(self.elsewhere.load(Relaxed));
        (limit != u64::MAX && taken >= limit)
            .then(|| LimitExceeded::time(Limit::CpuTime, Duration::from_nanos(limit)))
    }

    /// Runs `work` on this thread, which does not poll the call, and adds the
    /// CPU time that it takes to that of the call.
    pub(crate) fn charge<R>(&self, work: impl FnOnce() -> R) -> R {
        let begun = thread_cpu_nanos();
        let result = work();
        self.elsewhere.fetch_add(thread_cpu_nanos().saturating_sub(begun), Relaxed);
        result
    }

    /// Nanoseconds that the call took while it was polled.
    fn polled(&self) -> u64 {
        let running = thread_cpu_nanos().saturating_sub(self.since.load(Relaxed));
        self.spent.load(Relaxed).saturating_add(running)
    }

    /// What all calls took so far, this one included. To be asked from within a
    /// poll.
    pub(crate) fn total(&self) -> Duration {
        let call = self.polled().saturating_add(self.elsewhere.load(Relaxed));
        Duration::from_nanos(self.earlier.load(Relaxed).saturating_add(call))
    }

    fn resume(&self) {
        self.since.store(thread_cpu_nanos(), Relaxed);
    }

    fn pause(&self) {
        self.spent.store(self.polled(), Relaxed);
    }
}

/// Runs a future on a CPU clock.
pub(crate) async fn metered<F: Future>(clock: &CpuClock, future: F) -> F::Output {
    struct Metered<'a, F> {
        clock: &'a CpuClock,
        future: Pin<&'a mut F>,
    }

    impl<F: Future> Future for Metered<'_, F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            self.clock.resume();
            let poll = self.future.as_mut().poll(cx);
            self.clock.pause();
            poll
        }
    }

    let future = std::pin::pin!(future);
    Metered { clock, future }.await
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(unix)]
fn thread_cpu_nanos() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither part of a CPU time is negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Elsewhere wall time while polling stands in for it: never less.
#[cfg(not(unix))]
fn thread_cpu_nanos() -> u64 {
    use std::{sync::LazyLock, time::Instant};
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

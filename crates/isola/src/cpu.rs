//! The CPU time of a call.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use crate::error::{Limit, LimitExceeded};

/// The CPU time that a guest's future takes while it is polled, and the CPU
/// time that other threads spend on file operations for the guest.
///
/// Between polls a guest waits for its host, which is not counted. Only the
/// thread that polls writes `spent`, and the guest's epoch callback, which
/// reads it, runs on the same thread.
#[derive(Default)]
pub(crate) struct CpuClock {
    /// The nanoseconds of all finished polls of this call.
    spent: AtomicU64,
    /// The nanoseconds of all earlier calls.
    earlier_calls: AtomicU64,
    /// The thread's CPU time at the start of the current poll, in nanoseconds.
    poll_start: AtomicU64,
    /// The nanoseconds that other threads spent for this call.
    other_threads: AtomicU64,
    /// The limit of the call in nanoseconds; `u64::MAX` for no limit.
    limit: AtomicU64,
}

impl CpuClock {
    /// Starts counting for a new call.
    pub(crate) fn reset(&self, limit: Option<Duration>) {
        let spent = self.spent.swap(0, Relaxed).saturating_add(self.other_threads.swap(0, Relaxed));
        self.earlier_calls.fetch_add(spent, Relaxed);
        self.limit.store(limit.map_or(u64::MAX, nanos), Relaxed);
    }

    /// Returns the error for a call that exceeded its limit. Must be called from
    /// within a poll.
    pub(crate) fn exceeded(&self) -> Option<LimitExceeded> {
        let limit = self.limit.load(Relaxed);
        let taken = self.polled().saturating_add(self.other_threads.load(Relaxed));
        (limit != u64::MAX && taken >= limit)
            .then(|| LimitExceeded::time(Limit::CpuTime, Duration::from_nanos(limit)))
    }

    /// Runs `work` on this thread, which does not poll the call, and adds the
    /// CPU time that it takes to that of the call.
    pub(crate) fn charge<R>(&self, work: impl FnOnce() -> R) -> R {
        let start = thread_cpu_nanos();
        let result = work();
        self.other_threads.fetch_add(thread_cpu_nanos().saturating_sub(start), Relaxed);
        result
    }

    /// Returns the nanoseconds that the call took while it was polled.
    fn polled(&self) -> u64 {
        let running = thread_cpu_nanos().saturating_sub(self.poll_start.load(Relaxed));
        self.spent.load(Relaxed).saturating_add(running)
    }

    /// Returns the time of all calls so far, including this one. Must be called
    /// from within a poll.
    pub(crate) fn total(&self) -> Duration {
        let call = self.polled().saturating_add(self.other_threads.load(Relaxed));
        Duration::from_nanos(self.earlier_calls.load(Relaxed).saturating_add(call))
    }

    /// Returns the time of all finished polls so far. May be called from any thread.
    pub(crate) fn finished(&self) -> Duration {
        let call = self.spent.load(Relaxed).saturating_add(self.other_threads.load(Relaxed));
        Duration::from_nanos(self.earlier_calls.load(Relaxed).saturating_add(call))
    }

    fn resume(&self) {
        self.poll_start.store(thread_cpu_nanos(), Relaxed);
    }

    fn pause(&self) {
        self.spent.store(self.polled(), Relaxed);
    }
}

/// Runs a future and counts its CPU time on a clock.
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
    // Neither field of a CPU time is negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Returns the wall time as a substitute, which is never less than the CPU time.
#[cfg(not(unix))]
fn thread_cpu_nanos() -> u64 {
    use std::{sync::LazyLock, time::Instant};
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

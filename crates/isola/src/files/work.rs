//! The execution of file operations: on blocking threads, one at a time for each
//! sandbox, with their CPU time charged to the call.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use wasmtime::format_err;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn, spawn_blocking};

use crate::cpu::CpuClock;

/// The maximum number of file operations that run at once in this process, over
/// all sandboxes. Tokio has 512 blocking threads by default; the rest of them
/// remains available to the embedder even if a file system hangs.
const MAX_RUNNING_OPERATIONS: usize = 64;

static OPERATION_PERMITS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(MAX_RUNNING_OPERATIONS)));

/// The executor of one sandbox's file operations.
#[derive(Clone)]
pub(crate) struct Worker {
    cpu: Arc<CpuClock>,
    /// One permit: a guest has one thread, and concurrent operations would use more
    /// CPU at once than the call's limits permit.
    turn: Arc<Semaphore>,
    /// The reserved buffers, in bytes.
    buffers: Arc<AtomicUsize>,
    max_buffers: usize,
}

impl Worker {
    /// Creates a worker that reserves at most `max_buffers` bytes for buffers.
    pub(crate) fn new(cpu: Arc<CpuClock>, max_buffers: usize) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { cpu, turn, buffers: Arc::default(), max_buffers }
    }

    /// Runs one operation. Returns the error that ends the call if the call's CPU
    /// time is used up.
    ///
    /// Must be awaited within the call. If the call is cancelled in the meantime,
    /// the operation is not started, or runs to its end and its result is dropped.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        operation: impl FnOnce() -> R + Send + 'static,
    ) -> wasmtime::Result<R> {
        let cpu = Arc::clone(&self.cpu);
        let permits = self.permits().await?;
        let result = spawn_blocking(move || run_charged(&cpu, permits, operation)).await;
        match self.cpu.exceeded() {
            Some(exceeded) => Err(exceeded.into()),
            None => result,
        }
    }

    /// Starts an operation that the guest may await later. Its CPU time is charged,
    /// and compared with the limit when the guest runs again.
    pub(super) fn start<R: Send + 'static>(
        &self,
        operation: impl FnOnce() -> R + Send + 'static,
    ) -> AbortOnDropJoinHandle<wasmtime::Result<R>> {
        let cpu = Arc::clone(&self.cpu);
        let permits = Arc::clone(&self.turn)
            .try_acquire_owned()
            .and_then(|turn| Ok((turn, Arc::clone(&OPERATION_PERMITS).try_acquire_owned()?)));
        match permits {
            Ok(permits) => spawn_blocking(move || run_charged(&cpu, permits, operation)),
            Err(_) => {
                let worker = self.clone();
                spawn(async move {
                    let permits = worker.permits().await?;
                    spawn_blocking(move || run_charged(&cpu, permits, operation)).await
                })
            }
        }
    }

    async fn permits(&self) -> Result<Permits, AcquireError> {
        let turn = Arc::clone(&self.turn).acquire_owned().await?;
        Ok((turn, Arc::clone(&OPERATION_PERMITS).acquire_owned().await?))
    }

    /// Reserves memory for a buffer that the host holds between two calls of the
    /// guest. Returns `None` if that exceeds the maximum.
    pub(super) fn reserve_buffer(&self, bytes: usize) -> Option<BufferReservation> {
        let reserve = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.max_buffers);
        self.buffers.fetch_update(Relaxed, Relaxed, reserve).ok()?;
        Some(BufferReservation { bytes, held: Arc::clone(&self.buffers) })
    }
}

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Runs an operation on this thread and charges its CPU time. A panic ends the
/// guest, not the embedder's task that polls the call.
fn run_charged<R>(
    cpu: &CpuClock,
    permits: Permits,
    operation: impl FnOnce() -> R,
) -> wasmtime::Result<R> {
    let result = catch_unwind(AssertUnwindSafe(|| cpu.charge(operation)));
    drop(permits);
    result.map_err(|_| format_err!("a file operation panicked"))
}

/// A reservation of memory for a buffer. Dropping it releases the memory.
pub(super) struct BufferReservation {
    bytes: usize,
    held: Arc<AtomicUsize>,
}

impl Drop for BufferReservation {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{Limit, LimitExceeded};

    fn worker(limit: Option<Duration>) -> Worker {
        let cpu = Arc::new(CpuClock::default());
        cpu.reset(limit);
        Worker::new(cpu, 100)
    }

    /// Uses 20 ms of CPU time.
    fn busy() {
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            std::hint::black_box(());
        }
    }

    #[tokio::test]
    async fn total_size_of_buffers_is_limited() {
        let worker = worker(None);
        let first = worker.reserve_buffer(60).unwrap();
        assert!(worker.reserve_buffer(41).is_none() && worker.reserve_buffer(usize::MAX).is_none());
        let second = worker.reserve_buffer(40).unwrap();
        drop(first);
        assert!(worker.reserve_buffer(61).is_none() && worker.reserve_buffer(60).is_some());
        drop(second);
        assert!(worker.reserve_buffer(100).is_some());
    }

    #[tokio::test]
    async fn cpu_time_of_other_threads_is_charged() {
        let worker = worker(Some(Duration::from_millis(50)));
        let ended = crate::cpu::metered(&worker.cpu, async {
            for round in 0..1_000 {
                if let Err(error) = worker.run(busy).await {
                    return Some((round, error));
                }
            }
            None
        });
        let (_, error) = ended.await.unwrap();
        assert_eq!(error.downcast_ref::<LimitExceeded>().unwrap().limit, Limit::CpuTime);
        // So is an operation that was only started.
        worker.cpu.reset(Some(Duration::from_millis(10)));
        for _ in 0..20 {
            worker.start(busy).await.unwrap();
        }
        crate::cpu::metered(&worker.cpu, async {
            assert!(worker.cpu.exceeded().is_some());
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn concurrent_operations_are_limited() {
        let running = Arc::new(AtomicUsize::new(0));
        let count = |max_running: usize| {
            let running = Arc::clone(&running);
            move || {
                assert!(running.fetch_add(1, Relaxed) < max_running);
                std::thread::yield_now();
                running.fetch_sub(1, Relaxed);
            }
        };
        let own = worker(None);
        let started: Vec<_> = (0..200).map(|_| own.start(count(1))).collect();
        for operation in started {
            operation.await.unwrap();
        }
        let workers: Vec<_> = (0..200).map(|_| worker(None)).collect();
        let started: Vec<_> =
            workers.iter().map(|worker| worker.start(count(MAX_RUNNING_OPERATIONS))).collect();
        for operation in started {
            operation.await.unwrap();
        }
    }

    #[tokio::test]
    async fn panic_in_an_operation_is_an_error() {
        fn fails() {
            panic!("a bug");
        }
        let worker = worker(None);
        assert!(worker.run(fails).await.is_err());
        assert!(worker.start(fails).await.is_err());
        // Its permits are released.
        worker.run(|| ()).await.unwrap();
    }

    #[tokio::test]
    async fn dropped_operation_is_not_started() {
        let worker = worker(None);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let first = worker.start(move || wait.recv());
        let started = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&started);
        let second = worker.start(move || counted.fetch_add(1, Relaxed));
        tokio::task::yield_now().await;
        drop(second);
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        worker.run(|| ()).await.unwrap();
        assert_eq!(started.load(Relaxed), 0);
    }
}

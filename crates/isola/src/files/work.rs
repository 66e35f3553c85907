//! Where file operations run: on threads that may block, one at a time for each
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

/// File operations that run at once in this process, over all sandboxes. Tokio
/// has 512 threads for blocking work, unless its runtime was built with less;
/// the rest of them stays for the embedder, also when a file system hangs.
const MAX_RUNNING_OPERATIONS: usize = 64;

static OPERATIONS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(MAX_RUNNING_OPERATIONS)));

/// Runs the file operations of one sandbox.
#[derive(Clone)]
pub(crate) struct Worker {
    cpu: Arc<CpuClock>,
    /// One permit: a guest has one thread, so more at once would only be a way
    /// to take more of the machine than the call's limits say.
    turn: Arc<Semaphore>,
    buffers: Arc<AtomicUsize>,
    max_buffers: usize,
}

impl Worker {
    /// `max_buffers` is in bytes.
    pub(crate) fn new(cpu: Arc<CpuClock>, max_buffers: usize) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { cpu, turn, buffers: Arc::default(), max_buffers }
    }

    /// Runs one operation, and ends the call if its CPU time is used up.
    ///
    /// To be awaited within the call. If the call is cancelled meanwhile, the
    /// operation is not started, or runs to its end with nobody waiting.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        operation: impl FnOnce() -> R + Send + 'static,
    ) -> wasmtime::Result<R> {
        let cpu = Arc::clone(&self.cpu);
        let permits = self.permits().await?;
        let result = spawn_blocking(move || charged(&cpu, permits, operation)).await;
        match self.cpu.exceeded() {
            Some(exceeded) => Err(exceeded.into()),
            None => result,
        }
    }

    /// Begins an operation that the guest waits for later, or never. Its CPU
    /// time is charged, and compared with the limit when the guest runs again.
    pub(super) fn begin<R: Send + 'static>(
        &self,
        operation: impl FnOnce() -> R + Send + 'static,
    ) -> AbortOnDropJoinHandle<wasmtime::Result<R>> {
        let cpu = Arc::clone(&self.cpu);
        let at_once = Arc::clone(&self.turn)
            .try_acquire_owned()
            .and_then(|turn| Ok((turn, Arc::clone(&OPERATIONS).try_acquire_owned()?)));
        match at_once {
            Ok(permits) => spawn_blocking(move || charged(&cpu, permits, operation)),
            Err(_) => {
                let worker = self.clone();
                spawn(async move {
                    let permits = worker.permits().await?;
                    spawn_blocking(move || charged(&cpu, permits, operation)).await
                })
            }
        }
    }

    async fn permits(&self) -> Result<Permits, AcquireError> {
        let turn = Arc::clone(&self.turn).acquire_owned().await?;
        Ok((turn, Arc::clone(&OPERATIONS).acquire_owned().await?))
    }

    /// Makes room for a buffer that the host holds between two calls of the
    /// guest. `None` if there is too much of that already.
    pub(super) fn buffer(&self, bytes: usize) -> Option<Buffer> {
        let room = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.max_buffers);
        self.buffers.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(Buffer { bytes, held: Arc::clone(&self.buffers) })
    }
}

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Runs an operation on this thread. If it panics, that ends its guest, and not
/// the embedder's task that polls the call.
fn charged<R>(
    cpu: &CpuClock,
    permits: Permits,
    operation: impl FnOnce() -> R,
) -> wasmtime::Result<R> {
    let result = catch_unwind(AssertUnwindSafe(|| cpu.charge(operation)));
    drop(permits);
    result.map_err(|_| format_err!("a file operation panicked"))
}

/// Room for a buffer, until it is dropped.
pub(super) struct Buffer {
    bytes: usize,
    held: Arc<AtomicUsize>,
}

impl Drop for Buffer {
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

    /// Takes CPU time.
    fn busy() {
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            std::hint::black_box(());
        }
    }

    #[tokio::test]
    async fn buffers_have_a_limit() {
        let worker = worker(None);
        let first = worker.buffer(60).unwrap();
        assert!(worker.buffer(41).is_none() && worker.buffer(usize::MAX).is_none());
        let second = worker.buffer(40).unwrap();
        drop(first);
        assert!(worker.buffer(61).is_none() && worker.buffer(60).is_some());
        drop(second);
        assert!(worker.buffer(100).is_some());
    }

    #[tokio::test]
    async fn work_elsewhere_is_charged() {
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
        // So is what was only begun.
        worker.cpu.reset(Some(Duration::from_millis(10)));
        for _ in 0..20 {
            worker.begin(busy).await.unwrap();
        }
        crate::cpu::metered(&worker.cpu, async {
            assert!(worker.cpu.exceeded().is_some());
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_sandbox_has_one_thread_and_the_process_a_few() {
        let running = Arc::new(AtomicUsize::new(0));
        let count = |most: usize| {
            let running = Arc::clone(&running);
            move || {
                assert!(running.fetch_add(1, Relaxed) < most);
                std::thread::yield_now();
                running.fetch_sub(1, Relaxed);
            }
        };
        let own = worker(None);
        let begun: Vec<_> = (0..200).map(|_| own.begin(count(1))).collect();
        for operation in begun {
            operation.await.unwrap();
        }
        let workers: Vec<_> = (0..200).map(|_| worker(None)).collect();
        let begun: Vec<_> =
            workers.iter().map(|worker| worker.begin(count(MAX_RUNNING_OPERATIONS))).collect();
        for operation in begun {
            operation.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_guest() {
        fn fails() {
            panic!("a bug");
        }
        let worker = worker(None);
        assert!(worker.run(fails).await.is_err());
        assert!(worker.begin(fails).await.is_err());
        // What it had taken is free.
        worker.run(|| ()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_given_up_is_not_begun() {
        let worker = worker(None);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let first = worker.begin(move || wait.recv());
        let began = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&began);
        let second = worker.begin(move || counted.fetch_add(1, Relaxed));
        tokio::task::yield_now().await;
        drop(second);
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        worker.run(|| ()).await.unwrap();
        assert_eq!(began.load(Relaxed), 0);
    }
}

//! The threads on which guests compute, and the division of their time between tenants.
//!
//! A guest computes for at most a few milliseconds and then yields. Guests that can run wait
//! in a queue of their tenant, and tenants take turns: so a tenant with a hundred busy guests
//! gets as much CPU time as a tenant with one. These threads do nothing else. Timers and
//! requests of guests run on a tokio runtime.
//!
//! ```text
//!         ┌──────────── yields, or is woken ────────────┐
//!         ▼                                             │
//!  woken ──▶ queued in its tenant's queue ──▶ polled ───┴──▶ done
//! ```

use std::{
    collections::{HashMap, VecDeque},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Wake, Waker},
    thread,
};

use tokio::{runtime::Handle, sync::oneshot};

/// The threads of guests.
pub(crate) struct Turns {
    shared: Arc<Shared>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

struct Shared {
    queues: Mutex<Queues>,
    changed: Condvar,
}

#[derive(Default)]
struct Queues {
    /// The guests of each tenant that can run.
    waiting: HashMap<Arc<str>, VecDeque<Arc<Task>>>,
    /// The tenants with such guests; the first is the next.
    order: VecDeque<Arc<str>>,
    /// True once the threads have to end.
    stopping: bool,
}

/// The work of a guest.
struct Task {
    tenant: Arc<str>,
    shared: Arc<Shared>,
    state: Mutex<TaskState>,
}

struct TaskState {
    /// The future, unless it is being polled or is done.
    future: Option<BoxFuture>,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It waits to be woken.
    Idle,
    Queued,
    Polled,
    /// It was woken while it was polled, and is queued again after that.
    PolledAndWoken,
}

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Turns {
    /// Starts so many threads, at least one. Futures on them use the timers of `runtime`.
    pub(crate) fn start(count: usize, runtime: &Handle, prepare: fn()) -> io::Result<Self> {
        let shared = Arc::new(Shared { queues: Mutex::default(), changed: Condvar::new() });
        let mut threads = Vec::new();
        for _ in 0..count.max(1) {
            let (shared, runtime) = (Arc::clone(&shared), runtime.clone());
            let builder = thread::Builder::new().name("guests".to_owned());
            threads.push(builder.spawn(move || {
                prepare();
                let _context = runtime.enter();
                while let Some(task) = shared.next() {
                    task.poll();
                }
            })?);
        }
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Runs a future in turns of its tenant. It continues if the result is dropped; the
    /// result is an error if it panicked.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        tenant: &Arc<str>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let future = Box::pin(async move {
            let _ = sender.send(future.await);
        });
        let state = TaskState { future: Some(future), progress: Progress::Idle };
        let (tenant, shared) = (Arc::clone(tenant), Arc::clone(&self.shared));
        Arc::new(Task { tenant, shared, state: Mutex::new(state) }).wake();
        receiver
    }

    /// Ends the threads, each after the slice that it computes. Guests that wait are
    /// dropped. The runtime of their timers must exist until then.
    pub(crate) fn stop(&self) {
        let mut queues = self.shared.lock();
        queues.stopping = true;
        // Dropped without the lock, since the end of a future can wake others.
        let waiting = std::mem::take(&mut queues.waiting);
        queues.order.clear();
        drop(queues);
        self.shared.changed.notify_all();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let current = thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != current) {
            // A panic of a guest was caught on its thread.
            let _ = thread.join();
        }
        drop(waiting);
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Waits for a guest that can run, and moves its tenant to the end of the order. Returns
    /// `None` when the thread has to end.
    fn next(&self) -> Option<Arc<Task>> {
        let mut queues = self.lock();
        loop {
            if queues.stopping {
                return None;
            }
            if let Some(task) = queues.next() {
                return Some(task);
            }
            queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn push(&mut self, task: Arc<Task>) {
        let tenant = Arc::clone(&task.tenant);
        let queue = self.waiting.entry(Arc::clone(&tenant)).or_default();
        queue.push_back(task);
        if queue.len() == 1 {
            self.order.push_back(tenant);
        }
    }

    fn next(&mut self) -> Option<Arc<Task>> {
        let tenant = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&tenant)?;
        let task = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&tenant);
        } else {
            self.order.push_back(tenant);
        }
        task
    }
}

impl Task {
    fn poll(self: &Arc<Self>) {
        let future = {
            let mut state = self.lock();
            state.progress = Progress::Polled;
            state.future.take()
        };
        let Some(mut future) = future else { return };
        let waker = Waker::from(Arc::clone(self));
        let polling = AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
        // After a panic the future is dropped, which the receiver of its result notices.
        let Ok(polled) = catch_unwind(polling) else { return };
        if polled.is_ready() {
            return;
        }
        let mut state = self.lock();
        state.future = Some(future);
        if state.progress == Progress::PolledAndWoken {
            state.progress = Progress::Queued;
            drop(state);
            self.enqueue();
        } else {
            state.progress = Progress::Idle;
        }
    }

    fn enqueue(self: &Arc<Self>) {
        let mut queues = self.shared.lock();
        if !queues.stopping {
            queues.push(Arc::clone(self));
        }
        drop(queues);
        self.shared.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.lock();
        match state.progress {
            Progress::Idle => state.progress = Progress::Queued,
            Progress::Polled => {
                state.progress = Progress::PolledAndWoken;
                return;
            }
            Progress::Queued | Progress::PolledAndWoken => return,
        }
        drop(state);
        self.enqueue();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
        task::Poll,
        time::Duration,
    };

    use super::*;

    /// Computes for a millisecond `count` times, and counts the slices.
    async fn slices(count: usize, done: Arc<AtomicUsize>) {
        let mut left = count;
        poll_fn(|cx| {
            std::thread::sleep(Duration::from_millis(1));
            done.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn tenants_get_equal_shares() {
        let turns = Turns::start(2, &Handle::current(), || ()).unwrap();
        let (many, one): (Arc<str>, Arc<str>) = ("many".into(), "one".into());
        let of_many = Arc::new(AtomicUsize::new(0));
        let of_one = Arc::new(AtomicUsize::new(0));
        let _busy: Vec<_> =
            (0..50).map(|_| turns.spawn(&many, slices(usize::MAX, Arc::clone(&of_many)))).collect();
        turns.spawn(&one, slices(200, Arc::clone(&of_one))).await.unwrap();
        let (of_many, of_one) = (of_many.load(Ordering::Relaxed), of_one.load(Ordering::Relaxed));
        assert_eq!(of_one, 201);
        // Its single guest takes one of two threads. Without turns it would get a fiftieth.
        assert!(of_many < 6 * of_one, "{of_many} slices of one tenant, {of_one} of the other");
    }

    #[tokio::test]
    async fn waiting_and_panicking_guests_keep_no_thread() {
        let turns = Turns::start(1, &Handle::current(), || ()).unwrap();
        let tenant: Arc<str> = "one".into();
        let _waiting = turns.spawn(&tenant, std::future::pending::<()>());
        let panicked = turns.spawn(&tenant, async { assert!(tenant_is_right(), "a bug") });
        assert!(panicked.await.is_err());
        let (sender, receiver) = oneshot::channel();
        let woken = turns.spawn(&tenant, receiver);
        turns.spawn(&tenant, tokio::time::sleep(Duration::from_millis(1))).await.unwrap();
        turns.spawn(&tenant, slices(10, Arc::default())).await.unwrap();
        sender.send(7).unwrap();
        assert_eq!(woken.await.unwrap(), Ok(7));
    }

    fn tenant_is_right() -> bool {
        std::hint::black_box(false)
    }
}

//! A pool of containers that are prepared before they are needed: running ones for
//! new sandboxes, and created ones to restore checkpoints in.
//!
//! All containers of a kind have one shape, that of the latest request, since most
//! servers create sandboxes of one kind. A request of another shape empties the
//! queue.
//!
//! Preparing a container takes as much CPU time as an operation that a client waits
//! for. So as long as one container is left, more are prepared only when no such
//! foreground operation is in progress.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::container::{self, Container, CreatedContainer};
use super::spec::Shape;
use crate::engine::Result;

/// The time without a foreground operation after which the next container is
/// prepared.
const REFILL_DELAY: Duration = Duration::from_millis(30);
/// The time after which the next container is prepared even during foreground
/// operations.
const MAX_REFILL_DELAY: Duration = Duration::from_secs(1);

/// The containers that are ready, and the tasks that prepare more.
pub struct Pool {
    running: PoolQueue<Container>,
    created: PoolQueue<CreatedContainer>,
    /// The number of operations that a caller waits for.
    foreground_ops: watch::Sender<usize>,
    /// The number of tasks that prepare containers. Changed only with a queue locked.
    filling: watch::Sender<usize>,
}

/// The containers of one kind.
struct PoolQueue<T> {
    size: usize,
    state: Mutex<QueueState<T>>,
}

struct QueueState<T> {
    shape: Option<Shape>,
    ready: VecDeque<T>,
    filling: bool,
    closed: bool,
}

/// A kind of container that a queue can hold.
trait Pooled: Sized + Send + 'static {
    fn queue(pool: &Pool) -> &PoolQueue<Self>;
    fn name(&self) -> &str;
    fn shape(&self) -> &Shape;
    fn is_running(&self) -> bool;
    fn prepare(inner: &Arc<Inner>, shape: Shape) -> impl Future<Output = Result<Self>> + Send;
}

impl Pooled for Container {
    fn queue(pool: &Pool) -> &PoolQueue<Self> {
        &pool.running
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn is_running(&self) -> bool {
        self.exit().is_none()
    }

    fn prepare(inner: &Arc<Inner>, shape: Shape) -> impl Future<Output = Result<Self>> + Send {
        container::start(inner, shape)
    }
}

impl Pooled for CreatedContainer {
    fn queue(pool: &Pool) -> &PoolQueue<Self> {
        &pool.created
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn is_running(&self) -> bool {
        CreatedContainer::is_running(self)
    }

    fn prepare(inner: &Arc<Inner>, shape: Shape) -> impl Future<Output = Result<Self>> + Send {
        container::create(inner, shape)
    }
}

impl Pool {
    pub fn new(running: usize, created: usize) -> Self {
        Self {
            running: PoolQueue::new(running),
            created: PoolQueue::new(created),
            foreground_ops: watch::Sender::new(0),
            filling: watch::Sender::new(0),
        }
    }

    /// Takes a running container of that shape, if there is one.
    pub fn take(&self, shape: &Shape) -> Option<Container> {
        self.running.take(shape)
    }

    /// Takes a created container of that shape, if there is one.
    pub fn take_created(&self, shape: &Shape) -> Option<CreatedContainer> {
        self.created.take(shape)
    }

    /// Closes the pool, and returns the names of the containers that were ready.
    pub fn close(&self) -> Vec<String> {
        let mut names = self.running.close();
        names.extend(self.created.close());
        names
    }

    /// Returns the number of running containers.
    pub fn ready(&self) -> usize {
        self.running.state().matching()
    }

    /// Returns the number of created containers.
    pub fn ready_created(&self) -> usize {
        self.created.state().matching()
    }

    /// Registers an operation that a caller waits for, until the result is dropped.
    pub fn foreground_op(&self) -> ForegroundOp<'_> {
        self.foreground_ops.send_modify(|foreground_ops| *foreground_ops += 1);
        ForegroundOp(&self.foreground_ops)
    }

    /// Waits until no task prepares containers any more.
    pub async fn wait_for_refills(&self) {
        let mut filling = self.filling.subscribe();
        // The sender is in this pool.
        let _ = filling.wait_for(|filling| *filling == 0).await;
    }
}

/// An operation in progress that a caller waits for. It delays the preparation of
/// containers.
pub struct ForegroundOp<'a>(&'a watch::Sender<usize>);

impl Drop for ForegroundOp<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|foreground_ops| *foreground_ops -= 1);
    }
}

impl<T: Pooled> QueueState<T> {
    /// Returns the number of ready containers that have the requested shape.
    fn matching(&self) -> usize {
        self.ready.iter().filter(|item| Some(item.shape()) == self.shape.as_ref()).count()
    }
}

impl<T: Pooled> PoolQueue<T> {
    fn new(size: usize) -> Self {
        let state =
            QueueState { shape: None, ready: VecDeque::new(), filling: false, closed: false };
        Self { size, state: Mutex::new(state) }
    }

    fn take(&self, shape: &Shape) -> Option<T> {
        let mut state = self.state();
        let fits = |item: &T| item.shape() == shape && item.is_running();
        let index = state.ready.iter().position(fits)?;
        state.ready.remove(index)
    }

    fn close(&self) -> Vec<String> {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.ready).iter().map(|item| item.name().to_owned()).collect()
    }

    /// Returns the shape of the next container to prepare and the containers that are
    /// to be removed first, or `None` if the queue is full or closed.
    fn next(&self, filling: &watch::Sender<usize>) -> Option<(Shape, Vec<T>)> {
        let mut state = self.state();
        let shape = state.shape.clone();
        let (keep, unwanted): (Vec<_>, Vec<_>) = std::mem::take(&mut state.ready)
            .into_iter()
            .partition(|item| Some(item.shape()) == shape.as_ref() && item.is_running());
        state.ready = keep.into();
        match shape {
            Some(shape) if !state.closed && state.ready.len() < self.size => {
                Some((shape, unwanted))
            }
            _ => {
                state.ready.extend(unwanted);
                Self::stop_filling(&mut state, filling);
                None
            }
        }
    }

    /// Waits until there is no foreground operation, or no container is ready.
    async fn wait_until_calm(&self, foreground_ops: &watch::Sender<usize>) {
        let end = Instant::now() + MAX_REFILL_DELAY;
        let mut foreground_ops = foreground_ops.subscribe();
        while Instant::now() < end && self.state().matching() > 0 {
            foreground_ops.mark_unchanged();
            sleep(REFILL_DELAY).await;
            if matches!(foreground_ops.has_changed(), Ok(false)) && *foreground_ops.borrow() == 0 {
                return;
            }
        }
    }

    fn stop_filling(state: &mut QueueState<T>, filling: &watch::Sender<usize>) {
        state.filling = false;
        filling.send_modify(|filling| *filling -= 1);
    }

    fn state(&self) -> MutexGuard<'_, QueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prepares running containers of that shape in the background.
pub fn refill(inner: &Arc<Inner>, shape: Shape) {
    fill::<Container>(inner, shape);
}

/// Prepares created containers of that shape in the background.
pub fn refill_created(inner: &Arc<Inner>, shape: Shape) {
    fill::<CreatedContainer>(inner, shape);
}

fn fill<T: Pooled>(inner: &Arc<Inner>, shape: Shape) {
    let shape = inner.with_view(shape);
    {
        let queue = T::queue(&inner.pool);
        let mut state = queue.state();
        if state.closed || queue.size == 0 {
            return;
        }
        state.shape = Some(shape);
        if std::mem::replace(&mut state.filling, true) {
            return;
        }
        inner.pool.filling.send_modify(|filling| *filling += 1);
    }
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        let queue = T::queue(&inner.pool);
        loop {
            queue.wait_until_calm(&inner.pool.foreground_ops).await;
            let Some((shape, unwanted)) = queue.next(&inner.pool.filling) else { return };
            for item in unwanted {
                discard(&inner, item.name()).await;
            }
            match T::prepare(&inner, shape).await {
                Ok(item) => {
                    let late = {
                        let mut state = queue.state();
                        if state.closed {
                            Some(item)
                        } else {
                            state.ready.push_back(item);
                            None
                        }
                    };
                    if let Some(item) = late {
                        discard(&inner, item.name()).await;
                    }
                }
                Err(error) => {
                    // The next request fails for the same reason, and reports it.
                    tracing::warn!(%error, "cannot prepare a container for the pool");
                    PoolQueue::<T>::stop_filling(&mut queue.state(), &inner.pool.filling);
                    return;
                }
            }
        }
    });
}

async fn discard(inner: &Inner, name: &str) {
    if let Err(error) = container::remove(inner, name).await {
        tracing::warn!(%error, "cannot remove an unneeded container of the pool");
    }
}

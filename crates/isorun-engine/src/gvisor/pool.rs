//! Containers that are ready before somebody wants them.
//!
//! All in the pool have one shape, that of the latest sandbox: most servers make
//! sandboxes of one kind. Another shape empties it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Inner;
use super::container::{self, Container};
use super::spec::Shape;

/// What is ready, and what is being made.
pub struct Pool {
    size: usize,
    state: Mutex<State>,
    /// Whether a task makes more. Changed only with the state locked.
    filling: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    shape: Option<Shape>,
    ready: VecDeque<Container>,
    closed: bool,
}

impl Pool {
    pub fn new(size: usize) -> Self {
        Self { size, state: Mutex::default(), filling: watch::Sender::new(false) }
    }

    /// One of that shape that is alive, if there is one.
    pub fn take(&self, shape: &Shape) -> Option<Container> {
        let mut state = self.state();
        let index = state
            .ready
            .iter()
            .position(|container| container.shape == *shape && container.exit().is_none())?;
        state.ready.remove(index)
    }

    /// No more from now on; gives what was ready.
    pub fn close(&self) -> VecDeque<Container> {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.ready)
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.state().ready.len()
    }

    /// Waits until no task makes more.
    pub async fn quiet(&self) {
        let mut filling = self.filling.subscribe();
        // The sender is in this pool.
        let _ = filling.wait_for(|filling| !filling).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes more of that shape, behind the scenes.
pub fn refill(inner: &Arc<Inner>, shape: Shape) {
    {
        let mut state = inner.pool.state();
        if state.closed || inner.pool.size == 0 {
            return;
        }
        state.shape = Some(shape);
        if inner.pool.filling.send_replace(true) {
            return;
        }
    }
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        while let Some((shape, unwanted)) = next(&inner.pool) {
            for container in unwanted {
                discard(&inner, container).await;
            }
            match container::make(&inner, shape, None).await {
                Ok(container) => {
                    let late = {
                        let mut state = inner.pool.state();
                        if state.closed {
                            Some(container)
                        } else {
                            state.ready.push_back(container);
                            None
                        }
                    };
                    if let Some(container) = late {
                        discard(&inner, container).await;
                    }
                }
                Err(error) => {
                    // The next `create` meets the same trouble, and reports it.
                    tracing::warn!(%error, "cannot make a container ahead of time");
                    inner.pool.filling.send_replace(false);
                    return;
                }
            }
        }
    });
}

/// What to make next, and what is in the way of it. `None`: nothing.
fn next(pool: &Pool) -> Option<(Shape, Vec<Container>)> {
    let mut state = pool.state();
    let shape = state.shape.clone();
    let (keep, unwanted): (Vec<_>, Vec<_>) =
        std::mem::take(&mut state.ready).into_iter().partition(|container| {
            Some(&container.shape) == shape.as_ref() && container.exit().is_none()
        });
    state.ready = keep.into();
    match shape {
        Some(shape) if !state.closed && state.ready.len() < pool.size => Some((shape, unwanted)),
        _ => {
            pool.filling.send_replace(false);
            None
        }
    }
}

async fn discard(inner: &Inner, container: Container) {
    if let Err(error) = container::remove(inner, &container.name).await {
        tracing::warn!(%error, "cannot remove a container that is not wanted any more");
    }
}

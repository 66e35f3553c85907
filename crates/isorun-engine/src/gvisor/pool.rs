//! Containers that are ready before somebody wants them: running ones for new
//! sandboxes, and blank ones to restore checkpoints in.
//!
//! All of a kind have one shape, that of the latest use: most servers make
//! sandboxes of one kind. Another shape empties it.
//!
//! To make one takes as much of the processors as what somebody waits for, so as
//! long as one is left, more are made when nobody waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::container::{self, Blank, Container};
use super::spec::Shape;
use crate::engine::Result;

/// For so long nobody waits before the next one is made.
const CALM: Duration = Duration::from_millis(30);
/// After so long it is made all the same.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// What is ready, and what is being made.
pub struct Pool {
    running: Shelf<Container>,
    blank: Shelf<Blank>,
    /// Operations that somebody waits for.
    awaited: watch::Sender<usize>,
    /// Tasks that make more. Changed only with a shelf locked.
    filling: watch::Sender<usize>,
}

/// Containers of one kind.
struct Shelf<T> {
    size: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    shape: Option<Shape>,
    ready: VecDeque<T>,
    filling: bool,
    closed: bool,
}

/// What a shelf can hold.
trait Item: Sized + Send + 'static {
    fn shelf(pool: &Pool) -> &Shelf<Self>;
    fn name(&self) -> &str;
    fn shape(&self) -> &Shape;
    fn is_alive(&self) -> bool;
    fn make(inner: &Arc<Inner>, shape: Shape) -> impl Future<Output = Result<Self>> + Send;
}

impl Item for Container {
    fn shelf(pool: &Pool) -> &Shelf<Self> {
        &pool.running
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn is_alive(&self) -> bool {
        self.exit().is_none()
    }

    fn make(inner: &Arc<Inner>, shape: Shape) -> impl Future<Output = Result<Self>> + Send {
        container::make(inner, shape)
    }
}

impl Item for Blank {
    fn shelf(pool: &Pool) -> &Shelf<Self> {
        &pool.blank
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn is_alive(&self) -> bool {
        Blank::is_alive(self)
    }

    fn make(inner: &Arc<Inner>, shape: Shape) -> impl Future<Output = Result<Self>> + Send {
        container::make_blank(inner, shape)
    }
}

impl Pool {
    pub fn new(running: usize, blank: usize) -> Self {
        Self {
            running: Shelf::new(running),
            blank: Shelf::new(blank),
            awaited: watch::Sender::new(0),
            filling: watch::Sender::new(0),
        }
    }

    /// A running one of that shape, if there is one.
    pub fn take(&self, shape: &Shape) -> Option<Container> {
        self.running.take(shape)
    }

    /// A blank one of that shape, if there is one.
    pub fn take_blank(&self, shape: &Shape) -> Option<Blank> {
        self.blank.take(shape)
    }

    /// No more from now on; gives the names of what was ready.
    pub fn close(&self) -> Vec<String> {
        let mut names = self.running.close();
        names.extend(self.blank.close());
        names
    }

    /// How many run.
    pub fn ready(&self) -> usize {
        self.running.state().fitting()
    }

    /// How many are blank.
    pub fn ready_blanks(&self) -> usize {
        self.blank.state().fitting()
    }

    /// Somebody waits for something as long as the result lives.
    pub fn awaited(&self) -> Awaited<'_> {
        self.awaited.send_modify(|awaited| *awaited += 1);
        Awaited(&self.awaited)
    }

    /// Waits until no task makes more.
    pub async fn quiet(&self) {
        let mut filling = self.filling.subscribe();
        // The sender is in this pool.
        let _ = filling.wait_for(|filling| *filling == 0).await;
    }
}

/// While it lives, the making of more waits.
pub struct Awaited<'a>(&'a watch::Sender<usize>);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|awaited| *awaited -= 1);
    }
}

impl<T: Item> State<T> {
    /// How many are ready of the shape that is wanted.
    fn fitting(&self) -> usize {
        self.ready.iter().filter(|item| Some(item.shape()) == self.shape.as_ref()).count()
    }
}

impl<T: Item> Shelf<T> {
    fn new(size: usize) -> Self {
        let state = State { shape: None, ready: VecDeque::new(), filling: false, closed: false };
        Self { size, state: Mutex::new(state) }
    }

    fn take(&self, shape: &Shape) -> Option<T> {
        let mut state = self.state();
        let fits = |item: &T| item.shape() == shape && item.is_alive();
        let index = state.ready.iter().position(fits)?;
        state.ready.remove(index)
    }

    fn close(&self) -> Vec<String> {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.ready).iter().map(|item| item.name().to_owned()).collect()
    }

    /// What to make next, and what is in the way of it. `None`: nothing.
    fn next(&self, filling: &watch::Sender<usize>) -> Option<(Shape, Vec<T>)> {
        let mut state = self.state();
        let shape = state.shape.clone();
        let (keep, unwanted): (Vec<_>, Vec<_>) = std::mem::take(&mut state.ready)
            .into_iter()
            .partition(|item| Some(item.shape()) == shape.as_ref() && item.is_alive());
        state.ready = keep.into();
        match shape {
            Some(shape) if !state.closed && state.ready.len() < self.size => {
                Some((shape, unwanted))
            }
            _ => {
                state.ready.extend(unwanted);
                Self::rest(&mut state, filling);
                None
            }
        }
    }

    /// Waits until nobody waits for anything, or nothing is ready.
    async fn until_calm(&self, awaited: &watch::Sender<usize>) {
        let end = Instant::now() + IMPATIENCE;
        let mut awaited = awaited.subscribe();
        while Instant::now() < end && self.state().fitting() > 0 {
            awaited.mark_unchanged();
            sleep(CALM).await;
            if matches!(awaited.has_changed(), Ok(false)) && *awaited.borrow() == 0 {
                return;
            }
        }
    }

    fn rest(state: &mut State<T>, filling: &watch::Sender<usize>) {
        state.filling = false;
        filling.send_modify(|filling| *filling -= 1);
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes more running ones of that shape, behind the scenes.
pub fn refill(inner: &Arc<Inner>, shape: Shape) {
    fill::<Container>(inner, shape);
}

/// Makes more blank ones of that shape, behind the scenes.
pub fn refill_blanks(inner: &Arc<Inner>, shape: Shape) {
    fill::<Blank>(inner, shape);
}

fn fill<T: Item>(inner: &Arc<Inner>, shape: Shape) {
    let shape = inner.with_view(shape);
    {
        let shelf = T::shelf(&inner.pool);
        let mut state = shelf.state();
        if state.closed || shelf.size == 0 {
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
        let shelf = T::shelf(&inner.pool);
        loop {
            shelf.until_calm(&inner.pool.awaited).await;
            let Some((shape, unwanted)) = shelf.next(&inner.pool.filling) else { return };
            for item in unwanted {
                discard(&inner, item.name()).await;
            }
            match T::make(&inner, shape).await {
                Ok(item) => {
                    let late = {
                        let mut state = shelf.state();
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
                    // The next one who wants it meets the same trouble, and
                    // reports it.
                    tracing::warn!(%error, "cannot make a container ahead of time");
                    Shelf::<T>::rest(&mut shelf.state(), &inner.pool.filling);
                    return;
                }
            }
        }
    });
}

async fn discard(inner: &Inner, name: &str) {
    if let Err(error) = container::remove(inner, name).await {
        tracing::warn!(%error, "cannot remove a container that is not wanted any more");
    }
}

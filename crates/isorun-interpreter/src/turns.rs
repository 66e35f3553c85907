//! Divides CPU time between tenants.
//!
//! A guest computes for at most a few milliseconds and then yields. Each such slice needs
//! a turn, of which there is one for each CPU; tenants with waiting guests get turns in
//! rotation. There are more threads than turns, so that guests which could run join the
//! waiting ones while others compute. So a tenant with a hundred busy guests gets as much CPU time as a tenant with
//! one.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

/// The turns of all tenants.
pub(crate) struct Turns(Mutex<State>);

struct State {
    /// Turns that no guest has.
    free: usize,
    /// The waiting guests of each tenant.
    waiting: HashMap<Arc<str>, VecDeque<oneshot::Sender<Turn>>>,
    /// The tenants with waiting guests; the first is the next.
    order: VecDeque<Arc<str>>,
}

/// A turn, which passes to the next waiting guest when it is dropped.
struct Turn(Option<Arc<Turns>>);

impl Turns {
    /// Creates so many turns, at least one.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let state =
            State { free: count.max(1), waiting: HashMap::new(), order: VecDeque::new() };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Runs a future of a guest, each poll in a turn of its tenant.
    pub(crate) fn run<F: Future>(self: &Arc<Self>, tenant: &Arc<str>, future: F) -> InTurns<F> {
        InTurns {
            turns: Arc::clone(self),
            tenant: Arc::clone(tenant),
            waiting: None,
            future: Box::pin(future),
        }
    }

    /// Takes a free turn, or joins the waiting guests of the tenant.
    fn take(self: &Arc<Self>, tenant: &Arc<str>) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.free > 0 {
            state.free -= 1;
            return Ok(Turn(Some(Arc::clone(self))));
        }
        let (sender, receiver) = oneshot::channel();
        let queue = state.waiting.entry(Arc::clone(tenant)).or_default();
        queue.push_back(sender);
        if queue.len() == 1 {
            state.order.push_back(Arc::clone(tenant));
        }
        Err(receiver)
    }
}

impl State {
    /// Returns the next waiting guest, and moves its tenant to the end of the rotation.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let tenant = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&tenant)?;
        let sender = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&tenant);
        } else {
            self.order.push_back(tenant);
        }
        sender
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = turns.0.lock().unwrap_or_else(PoisonError::into_inner);
                match state.next() {
                    Some(next) => next,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // That guest was cancelled: its turn is passed on here.
                Err(mut refused) => refused.0 = None,
            }
        }
    }
}

/// A future that is polled only in turns of its tenant.
pub(crate) struct InTurns<F> {
    turns: Arc<Turns>,
    tenant: Arc<str>,
    waiting: Option<oneshot::Receiver<Turn>>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let turn = loop {
            if let Some(waiting) = &mut this.waiting {
                let received = ready!(Pin::new(waiting).poll(cx));
                this.waiting = None;
                if let Ok(turn) = received {
                    break turn;
                }
            }
            match this.turns.take(&this.tenant) {
                Ok(turn) => break turn,
                Err(waiting) => this.waiting = Some(waiting),
            }
        };
        let polled = this.future.as_mut().poll(cx);
        drop(turn);
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn tenants_get_equal_shares() {
        let turns = Turns::new(2);
        let (many, one): (Arc<str>, Arc<str>) = ("many".into(), "one".into());
        let of_many = Arc::new(AtomicUsize::new(0));
        let of_one = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            tasks.spawn(turns.run(&many, slices(usize::MAX, Arc::clone(&of_many))));
        }
        let single = turns.run(&one, slices(200, Arc::clone(&of_one)));
        tokio::spawn(single).await.unwrap();
        let (of_many, of_one) = (of_many.load(Ordering::Relaxed), of_one.load(Ordering::Relaxed));
        assert_eq!(of_one, 201);
        // Without turns it would get a fiftieth.
        assert!(of_many < 8 * of_one, "{of_many} slices of one tenant, {of_one} of the other");
        tasks.shutdown().await;
        // No turn is lost with cancelled futures.
        let state = turns.0.lock().unwrap();
        assert_eq!((state.free, state.waiting.len(), state.order.len()), (2, 0, 0));
    }

    #[tokio::test]
    async fn a_waiting_guest_keeps_no_turn() {
        let turns = Turns::new(1);
        let tenant: Arc<str> = "one".into();
        let waiting = tokio::spawn(turns.run(&tenant, std::future::pending::<()>()));
        turns.run(&tenant, slices(10, Arc::default())).await;
        waiting.abort();
    }
}

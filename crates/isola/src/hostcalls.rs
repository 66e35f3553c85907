//! The hostcalls that a guest has under way.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::FutureExt as _;
use tokio::{sync::Notify, task::AbortHandle};

use crate::{host::Host, limits::Limits, value::Value};

/// The hostcalls of one sandbox. Dropping it aborts what is under way.
pub(crate) struct Hostcalls {
    host: Arc<dyn Host>,
    running: HashMap<u64, Running>,
    done: Arc<Done>,
    max_pending: usize,
    max_held: usize,
    max_value: usize,
}

struct Running {
    task: AbortHandle,
    /// What the payload takes.
    held: usize,
}

/// Where tasks put their outcomes. The guest takes them from here.
#[derive(Default)]
struct Done {
    queue: Mutex<Outcomes>,
    arrived: Notify,
}

#[derive(Default)]
struct Outcomes {
    list: VecDeque<(u64, Outcome)>,
    /// Payloads of running hostcalls and outcomes that were not taken yet.
    held: usize,
}

type Outcome = Result<String, String>;

impl Hostcalls {
    pub(crate) fn new(host: Arc<dyn Host>, limits: &Limits) -> Self {
        Self {
            host,
            running: HashMap::new(),
            done: Arc::default(),
            max_pending: limits.max_pending_hostcalls,
            max_held: limits.max_held_memory,
            max_value: limits.max_value_size,
        }
    }

    /// Starts a hostcall as a task of its own. The error is for the guest.
    pub(crate) fn start(&mut self, id: u64, name: String, payload: Value) -> Result<(), String> {
        if self.running.contains_key(&id) {
            return Err(format!("hostcall {id} is under way already"));
        }
        if self.running.len() >= self.max_pending {
            return Err(format!("more than {} hostcalls are under way", self.max_pending));
        }
        let held = payload.as_str().len() + name.len();
        {
            let mut outcomes = self.done.lock();
            if outcomes.held + held > self.max_held {
                return Err(format!("hostcalls under way hold more than {} bytes", self.max_held));
            }
            outcomes.held += held;
        }
        let host = Arc::clone(&self.host);
        let done = Arc::clone(&self.done);
        let (max_held, max_value) = (self.max_held, self.max_value);
        let task = tokio::spawn(async move {
            let answer = AssertUnwindSafe(host.hostcall(&name, payload)).catch_unwind().await;
            let outcome = match answer {
                Ok(Ok(value)) if value.as_str().len() > max_value => {
                    Err(format!("the result of {name:?} is larger than {max_value} bytes"))
                }
                Ok(Ok(value)) => Ok(value.into_text()),
                Ok(Err(error)) => Err(error.message().to_owned()),
                Err(_) => Err(format!("the host function {name:?} panicked")),
            };
            done.put(id, outcome, max_held);
        });
        self.running.insert(id, Running { task: task.abort_handle(), held });
        Ok(())
    }

    /// Stops a hostcall, and forgets its outcome.
    pub(crate) fn abandon(&mut self, id: u64) {
        let Some(running) = self.running.remove(&id) else { return };
        running.task.abort();
        let mut outcomes = self.done.lock();
        outcomes.held = outcomes.held.saturating_sub(running.held);
        if let Some(index) = outcomes.list.iter().position(|(other, _)| *other == id)
            && let Some((_, outcome)) = outcomes.list.remove(index)
        {
            outcomes.held = outcomes.held.saturating_sub(size(&outcome));
        }
    }

    /// Takes the outcomes that are there.
    pub(crate) fn take(&mut self) -> Vec<(u64, Outcome)> {
        let mut outcomes = self.done.lock();
        let mut taken = Vec::with_capacity(outcomes.list.len());
        while let Some((id, outcome)) = outcomes.list.pop_front() {
            outcomes.held = outcomes.held.saturating_sub(size(&outcome));
            // An abandoned hostcall may still have put its outcome there.
            if let Some(running) = self.running.remove(&id) {
                outcomes.held = outcomes.held.saturating_sub(running.held);
                taken.push((id, outcome));
            }
        }
        taken
    }

    /// Whether nothing is under way and nothing waits to be taken.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Ends when there is an outcome to take.
    pub(crate) fn arrival(&self) -> impl Future<Output = ()> + Send + 'static {
        let done = Arc::clone(&self.done);
        async move {
            loop {
                let arrived = done.arrived.notified();
                if !done.lock().list.is_empty() {
                    return;
                }
                arrived.await;
            }
        }
    }

    /// Stops all of them, at the end of a call.
    pub(crate) fn abandon_all(&mut self) {
        if self.running.is_empty() {
            return;
        }
        for (_, running) in self.running.drain() {
            running.task.abort();
        }
        // A task that is just ending keeps the old place to put its outcome.
        self.done = Arc::default();
    }
}

impl Drop for Hostcalls {
    fn drop(&mut self) {
        self.abandon_all();
    }
}

impl Done {
    fn lock(&self) -> std::sync::MutexGuard<'_, Outcomes> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, id: u64, outcome: Outcome, max_held: usize) {
        let mut outcomes = self.lock();
        let outcome = if outcomes.held + size(&outcome) > max_held {
            Err(format!("results of hostcalls hold more than {max_held} bytes"))
        } else {
            outcome
        };
        outcomes.held += size(&outcome);
        outcomes.list.push_back((id, outcome));
        drop(outcomes);
        self.arrived.notify_waiters();
    }
}

fn size(outcome: &Outcome) -> usize {
    match outcome {
        Ok(text) | Err(text) => text.len(),
    }
}

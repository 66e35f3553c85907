//! What a guest has started and the host works on: hostcalls and HTTP
//! requests.
//!
//! Each is a task. Tasks put their news into one queue, and the guest takes it
//! from there when it looks or waits. So a guest holds numbers, not handles,
//! and waits for any number of things with one call.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, task::AbortHandle};

use self::upload::Upload;
use crate::{
    contract::{Completion, Outcome, Request},
    host::Host,
    limits::Limits,
    value::Value,
};

mod exchange;
mod hostcall;
mod upload;

/// Everything that one guest has under way. Dropping it aborts it all.
pub(crate) struct Pending {
    host: Arc<dyn Host>,
    running: HashMap<u64, Task>,
    news: Arc<News>,
    limits: Arc<Limits>,
}

struct Task {
    abort: AbortHandle,
    kind: Kind,
    /// What the host holds for it until it is over, in bytes.
    held: usize,
}

enum Kind {
    Hostcall,
    Exchange {
        /// Says that the guest asks for more of the response.
        more: Arc<Notify>,
        /// The request's body, if it comes in pieces.
        upload: Option<Upload>,
    },
}

/// Where tasks put their news.
#[derive(Default)]
struct News {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    list: VecDeque<Completion>,
    /// What running tasks and news that was not taken hold, in bytes.
    held: usize,
}

impl Pending {
    pub(crate) fn new(host: Arc<dyn Host>, limits: Arc<Limits>) -> Self {
        Self { host, running: HashMap::new(), news: Arc::default(), limits }
    }

    /// Starts a hostcall. The error is for the guest.
    pub(crate) fn hostcall(&mut self, id: u64, name: String, payload: Value) -> Result<(), String> {
        let max = self.limits.max_pending_hostcalls;
        if self.has(max, |kind| matches!(kind, Kind::Hostcall)) {
            return Err(format!("more than {max} hostcalls are under way"));
        }
        let held = payload.as_str().len() + name.len();
        let host = Arc::clone(&self.host);
        let max_value_size = self.limits.max_value_size;
        let put = self.admit(id, held)?;
        let task = tokio::spawn(async move {
            put.now(hostcall::run(host, name, payload, max_value_size).await);
        });
        self.running.insert(id, Task { abort: task.abort_handle(), kind: Kind::Hostcall, held });
        Ok(())
    }

    /// Starts an HTTP request. The error is for the guest.
    pub(crate) fn fetch(&mut self, id: u64, request: Request) -> Result<(), String> {
        let max = self.limits.max_requests;
        if self.has(max, |kind| matches!(kind, Kind::Exchange { .. })) {
            return Err(format!("more than {max} requests are under way"));
        }
        let held = exchange::size(&request);
        let length = exchange::announced(&request.body);
        let put = self.admit(id, held)?;
        let (mut request, timeout) =
            exchange::prepare(request).inspect_err(|_| put.release(held))?;
        let host = Arc::clone(&self.host);
        let upload = length.map(|length| {
            let (upload, body) = upload::channel(put.clone(), length);
            *request.body_mut() = body;
            upload
        });
        // While it still sends, the end of the response is not yet the end.
        let eager = upload.is_none();
        let more = Arc::new(Notify::new());
        let asked = Arc::clone(&more);
        let task = tokio::spawn(async move {
            exchange::run(host, request, timeout, eager, &asked, |outcome| put.now(outcome)).await;
        });
        let kind = Kind::Exchange { more, upload };
        self.running.insert(id, Task { abort: task.abort_handle(), kind, held });
        Ok(())
    }

    /// Asks a request for the next piece of its response.
    pub(crate) fn read(&self, id: u64) -> Result<(), String> {
        match self.running.get(&id) {
            Some(Task { kind: Kind::Exchange { more, .. }, .. }) => {
                more.notify_one();
                Ok(())
            }
            _ => Err("the request is over".to_owned()),
        }
    }

    /// Sends a piece of a request's body.
    pub(crate) fn write(&mut self, id: u64, piece: Vec<u8>) -> Result<(), String> {
        self.upload(id)?.write(piece)
    }

    /// Ends a request's body.
    pub(crate) fn finish(&mut self, id: u64) -> Result<(), String> {
        self.upload(id)?.finish()
    }

    fn upload(&mut self, id: u64) -> Result<&mut Upload, String> {
        match self.running.get_mut(&id) {
            Some(Task { kind: Kind::Exchange { upload: Some(upload), .. }, .. }) => Ok(upload),
            Some(_) => Err("this request has no body that comes in pieces".to_owned()),
            None => Err("the request is over".to_owned()),
        }
    }

    /// Stops a task, and forgets its news.
    pub(crate) fn abandon(&mut self, id: u64) {
        let Some(task) = self.running.remove(&id) else { return };
        task.abort.abort();
        let mut queue = self.news.lock();
        queue.held = queue.held.saturating_sub(task.held);
        let mut freed = 0;
        queue.list.retain(|completion| {
            let other = completion.id != id;
            freed += if other { 0 } else { size(&completion.outcome) };
            other
        });
        queue.held = queue.held.saturating_sub(freed);
    }

    /// Takes the news that is there.
    pub(crate) fn take(&mut self) -> Vec<Completion> {
        let mut queue = self.news.lock();
        let mut taken = Vec::with_capacity(queue.list.len());
        while let Some(completion) = queue.list.pop_front() {
            queue.held = queue.held.saturating_sub(size(&completion.outcome));
            // A task that was abandoned may just have put its last news there.
            let Some(task) = self.running.get_mut(&completion.id) else { continue };
            if let (Outcome::Taken(_), Kind::Exchange { upload: Some(upload), .. }) =
                (&completion.outcome, &mut task.kind)
            {
                upload.answered();
            }
            if is_over(&completion.outcome)
                && let Some(task) = self.running.remove(&completion.id)
            {
                // One that failed for want of room may still be at work.
                task.abort.abort();
                queue.held = queue.held.saturating_sub(task.held);
            }
            taken.push(completion);
        }
        taken
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Ends when there is news to take.
    pub(crate) fn arrival(&self) -> impl Future<Output = ()> + Send + 'static {
        let news = Arc::clone(&self.news);
        async move {
            loop {
                let arrived = news.arrived.notified();
                if !news.lock().list.is_empty() {
                    return;
                }
                arrived.await;
            }
        }
    }

    /// Stops everything, at the end of a call.
    pub(crate) fn abandon_all(&mut self) {
        if self.running.is_empty() {
            return;
        }
        for (_, task) in self.running.drain() {
            task.abort.abort();
        }
        // A task that is just ending keeps the old place to put its news.
        self.news = Arc::default();
    }

    /// Makes room for a new task, and gives it its place for news.
    fn admit(&self, id: u64, held: usize) -> Result<Put, String> {
        if self.running.contains_key(&id) {
            return Err(format!("number {id} is under way already"));
        }
        let news = Arc::clone(&self.news);
        let put = Put { id, news, max_held: self.limits.max_held_memory };
        put.hold(held)?;
        Ok(put)
    }

    /// Whether so many tasks of a kind are under way. They are only counted
    /// when there are so many of any kind.
    fn has(&self, max: usize, kind: impl Fn(&Kind) -> bool) -> bool {
        self.running.len() >= max
            && self.running.values().filter(|task| kind(&task.kind)).count() >= max
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.abandon_all();
    }
}

/// A task's place for its news.
#[derive(Clone)]
struct Put {
    id: u64,
    news: Arc<News>,
    max_held: usize,
}

impl Put {
    /// Makes room for bytes that the host is to hold. The error is for the
    /// guest.
    fn hold(&self, bytes: usize) -> Result<(), String> {
        let mut queue = self.news.lock();
        if queue.held.saturating_add(bytes) > self.max_held {
            return Err(format!("what is under way holds more than {} bytes", self.max_held));
        }
        queue.held += bytes;
        Ok(())
    }

    fn release(&self, bytes: usize) {
        let mut queue = self.news.lock();
        queue.held = queue.held.saturating_sub(bytes);
    }

    /// Puts an outcome into the queue. `false` if there was no room for it: then
    /// the task has failed, and must put nothing more.
    fn now(&self, outcome: Outcome) -> bool {
        let mut queue = self.news.lock();
        let size_now = size(&outcome);
        let fits = size_now == 0 || queue.held.saturating_add(size_now) <= self.max_held;
        let outcome = if fits {
            outcome
        } else {
            Outcome::Failed(format!("results hold more than {} bytes", self.max_held))
        };
        queue.held = queue.held.saturating_add(size(&outcome));
        queue.list.push_back(Completion { id: self.id, outcome });
        drop(queue);
        self.news.arrived.notify_waiters();
        fits
    }
}

impl News {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing follows.
fn is_over(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Value(_) | Outcome::End | Outcome::Failed(_) => true,
        Outcome::Response(response) => response.complete,
        Outcome::Taken(_) | Outcome::Chunk(_) => false,
    }
}

/// What an outcome in the queue takes beside its bytes, in bytes. A guest that
/// asks for more and more pieces without taking them must not have the host hold
/// any number of small ones.
const CHUNK_OVERHEAD: usize = 128;

/// What an outcome holds, in bytes.
fn size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Value(text) | Outcome::Failed(text) => text.len(),
        Outcome::Chunk(bytes) => bytes.len() + CHUNK_OVERHEAD,
        Outcome::Response(response) => {
            let headers = &response.headers;
            let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            headers + response.body.len()
        }
        Outcome::Taken(_) | Outcome::End => 0,
    }
}

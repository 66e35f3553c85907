//! The pending operations of a guest: hostcalls and HTTP requests.
//!
//! Each is a task. Tasks send completions to one queue, from which the guest
//! takes them when it polls or waits. So a guest holds numbers instead of
//! handles, and waits for any number of operations with one call.

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

/// The pending operations of one guest. Dropping it aborts them.
pub(crate) struct Pending {
    host: Arc<dyn Host>,
    running: HashMap<u64, Task>,
    completions: Arc<CompletionQueue>,
    limits: Arc<Limits>,
}

/// A running task.
struct Task {
    abort: AbortHandle,
    kind: TaskKind,
    /// The memory that the host holds for it until it ends, in bytes.
    held_bytes: usize,
}

enum TaskKind {
    Hostcall,
    Exchange {
        /// Notified when the guest requests the next chunk of the response.
        more: Arc<Notify>,
        /// The request's body, if the guest sends it in pieces.
        upload: Option<Upload>,
    },
}

/// The completions that the guest has not taken.
#[derive(Default)]
struct CompletionQueue {
    state: Mutex<QueueState>,
    arrived: Notify,
}

#[derive(Default)]
struct QueueState {
    list: VecDeque<Completion>,
    /// The memory that running tasks and queued completions hold, in bytes.
    held_bytes: usize,
}

impl Pending {
    pub(crate) fn new(host: Arc<dyn Host>, limits: Arc<Limits>) -> Self {
        Self { host, running: HashMap::new(), completions: Arc::default(), limits }
    }

    /// Starts a hostcall. The error is for the guest.
    pub(crate) fn hostcall(&mut self, id: u64, name: String, payload: Value) -> Result<(), String> {
        let max = self.limits.max_pending_hostcalls;
        if self.is_at_limit(max, |kind| matches!(kind, TaskKind::Hostcall)) {
            return Err(format!("more than {max} hostcalls are under way"));
        }
        let held_bytes = payload.as_str().len() + name.len();
        let host = Arc::clone(&self.host);
        let max_value_size = self.limits.max_value_size;
        let sender = self.register(id, held_bytes)?;
        let task = tokio::spawn(async move {
            sender.send(hostcall::run(host, name, payload, max_value_size).await);
        });
        self.running
            .insert(id, Task { abort: task.abort_handle(), kind: TaskKind::Hostcall, held_bytes });
        Ok(())
    }

    /// Starts an HTTP request. The error is for the guest.
    pub(crate) fn fetch(&mut self, id: u64, request: Request) -> Result<(), String> {
        let max = self.limits.max_requests;
        if self.is_at_limit(max, |kind| matches!(kind, TaskKind::Exchange { .. })) {
            return Err(format!("more than {max} requests are under way"));
        }
        let held_bytes = exchange::size(&request);
        let length = exchange::streamed_length(&request.body);
        let sender = self.register(id, held_bytes)?;
        let (mut request, timeout) =
            exchange::prepare(request).inspect_err(|_| sender.release(held_bytes))?;
        let host = Arc::clone(&self.host);
        let upload = length.map(|length| {
            let (upload, body) = upload::channel(sender.clone(), length);
            *request.body_mut() = body;
            upload
        });
        // While the guest sends a body, the request does not end with the response.
        let eager = upload.is_none();
        let more = Arc::new(Notify::new());
        let more_requested = Arc::clone(&more);
        let task = tokio::spawn(async move {
            exchange::run(host, request, timeout, eager, &more_requested, |outcome| {
                sender.send(outcome)
            })
            .await;
        });
        let kind = TaskKind::Exchange { more, upload };
        self.running.insert(id, Task { abort: task.abort_handle(), kind, held_bytes });
        Ok(())
    }

    /// Requests the next chunk of a response.
    pub(crate) fn read(&self, id: u64) -> Result<(), String> {
        match self.running.get(&id) {
            Some(Task { kind: TaskKind::Exchange { more, .. }, .. }) => {
                more.notify_one();
                Ok(())
            }
            _ => Err("the request has already ended".to_owned()),
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
            Some(Task { kind: TaskKind::Exchange { upload: Some(upload), .. }, .. }) => Ok(upload),
            Some(_) => Err("the body of this request is not sent in pieces".to_owned()),
            None => Err("the request has already ended".to_owned()),
        }
    }

    /// Stops a task and discards its completions.
    pub(crate) fn abandon(&mut self, id: u64) {
        let Some(task) = self.running.remove(&id) else { return };
        task.abort.abort();
        let mut queue = self.completions.lock();
        queue.held_bytes = queue.held_bytes.saturating_sub(task.held_bytes);
        let mut freed = 0;
        queue.list.retain(|completion| {
            let other = completion.id != id;
            freed += if other { 0 } else { size(&completion.outcome) };
            other
        });
        queue.held_bytes = queue.held_bytes.saturating_sub(freed);
    }

    /// Takes the queued completions.
    pub(crate) fn take(&mut self) -> Vec<Completion> {
        let mut queue = self.completions.lock();
        let mut taken = Vec::with_capacity(queue.list.len());
        while let Some(completion) = queue.list.pop_front() {
            queue.held_bytes = queue.held_bytes.saturating_sub(size(&completion.outcome));
            // An abandoned task may have sent a last completion.
            let Some(task) = self.running.get_mut(&completion.id) else { continue };
            if let (Outcome::Taken(_), TaskKind::Exchange { upload: Some(upload), .. }) =
                (&completion.outcome, &mut task.kind)
            {
                upload.acknowledge();
            }
            if is_final(&completion.outcome)
                && let Some(task) = self.running.remove(&completion.id)
            {
                // A task that failed because a limit was reached may still be running.
                task.abort.abort();
                queue.held_bytes = queue.held_bytes.saturating_sub(task.held_bytes);
            }
            taken.push(completion);
        }
        taken
    }

    /// Reports whether no operation is pending.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Returns a future that completes when a completion is queued.
    pub(crate) fn wait_for_completion(&self) -> impl Future<Output = ()> + Send + 'static {
        let completions = Arc::clone(&self.completions);
        async move {
            loop {
                let arrived = completions.arrived.notified();
                if !completions.lock().list.is_empty() {
                    return;
                }
                arrived.await;
            }
        }
    }

    /// Stops all tasks at the end of a call.
    pub(crate) fn abandon_all(&mut self) {
        if self.running.is_empty() {
            return;
        }
        for (_, task) in self.running.drain() {
            task.abort.abort();
        }
        // A task that is about to end sends its completion to the old queue.
        self.completions = Arc::default();
    }

    /// Reserves memory for a new task and returns the sender of its completions.
    fn register(&self, id: u64, held_bytes: usize) -> Result<CompletionSender, String> {
        if self.running.contains_key(&id) {
            return Err(format!("the operation {id} is already pending: use another number"));
        }
        let completions = Arc::clone(&self.completions);
        let sender =
            CompletionSender { id, completions, max_held_bytes: self.limits.max_held_memory };
        sender.reserve(held_bytes)?;
        Ok(sender)
    }

    /// Reports whether `max` tasks of a kind are running. They are counted only if
    /// at least `max` tasks of any kind are running.
    fn is_at_limit(&self, max: usize, kind: impl Fn(&TaskKind) -> bool) -> bool {
        self.running.len() >= max
            && self.running.values().filter(|task| kind(&task.kind)).count() >= max
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.abandon_all();
    }
}

/// The sender of the completions of one task.
#[derive(Clone)]
struct CompletionSender {
    id: u64,
    completions: Arc<CompletionQueue>,
    max_held_bytes: usize,
}

impl CompletionSender {
    /// Reserves memory that the host holds for the guest. The error is for the
    /// guest.
    fn reserve(&self, bytes: usize) -> Result<(), String> {
        let mut queue = self.completions.lock();
        if queue.held_bytes.saturating_add(bytes) > self.max_held_bytes {
            return Err(format!(
                "pending hostcalls and requests hold more than {} bytes: wait until some end",
                self.max_held_bytes
            ));
        }
        queue.held_bytes += bytes;
        Ok(())
    }

    fn release(&self, bytes: usize) {
        let mut queue = self.completions.lock();
        queue.held_bytes = queue.held_bytes.saturating_sub(bytes);
    }

    /// Sends an outcome. Returns `false` if it exceeded the memory limit: then the
    /// task has failed and must not send anything else.
    fn send(&self, outcome: Outcome) -> bool {
        let mut queue = self.completions.lock();
        let outcome_bytes = size(&outcome);
        let fits = outcome_bytes == 0
            || queue.held_bytes.saturating_add(outcome_bytes) <= self.max_held_bytes;
        let outcome = if fits {
            outcome
        } else {
            Outcome::Failed(format!(
                "the results that the guest has not fetched hold more than {} bytes",
                self.max_held_bytes
            ))
        };
        queue.held_bytes = queue.held_bytes.saturating_add(size(&outcome));
        queue.list.push_back(Completion { id: self.id, outcome });
        drop(queue);
        self.completions.arrived.notify_waiters();
        fits
    }
}

impl CompletionQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports whether no other outcome of the task follows.
fn is_final(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Value(_) | Outcome::End | Outcome::Failed(_) => true,
        Outcome::Response(response) => response.complete,
        Outcome::Taken(_) | Outcome::Chunk(_) => false,
    }
}

/// The memory that a queued chunk takes in addition to its content, in bytes. It
/// bounds the number of small chunks that the host holds for a guest that
/// requests chunks without taking them.
const CHUNK_OVERHEAD_BYTES: usize = 128;

/// Returns the memory that an outcome holds, in bytes.
fn size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Value(text) | Outcome::Failed(text) => text.len(),
        Outcome::Chunk(bytes) => bytes.len() + CHUNK_OVERHEAD_BYTES,
        Outcome::Response(response) => {
            let headers = &response.headers;
            let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            headers + response.body.len()
        }
        Outcome::Taken(_) | Outcome::End => 0,
    }
}

//! The events of a call, passed from the task that runs it to the event loop that
//! reads them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, StreamExt as _};
use isola::{CodeEvent, Error, Event};
use pyo3::{prelude::*, types::PyString};
use tokio::sync::{Notify, oneshot};

use crate::{
    bridge::{Callback, runtime},
    failure,
};

/// The number of buffered events at which the guest waits.
const MAX_BUFFERED_EVENTS: usize = 64;

/// An event of a call, or of code that runs in a context.
pub enum StreamEvent {
    Call(Event),
    Code(CodeEvent),
    /// The failure of code. This is the last event.
    Failure(Error),
}

impl From<Event> for StreamEvent {
    fn from(event: Event) -> Self {
        Self::Call(event)
    }
}

impl From<Result<CodeEvent, Error>> for StreamEvent {
    fn from(event: Result<CodeEvent, Error>) -> Self {
        event.map_or_else(Self::Failure, Self::Code)
    }
}

/// The event stream of a call.
#[pyclass(frozen, module = "isola._native")]
pub struct EventStream {
    queue: Arc<EventQueue>,
    /// Dropped to stop the call.
    keep: Mutex<Option<oneshot::Sender<()>>>,
    event_loop: Py<PyAny>,
}

struct EventQueue {
    state: Mutex<QueueState>,
    /// Notified when there is room again.
    taken: Notify,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<StreamEvent>,
    waiting: Option<Callback>,
    ended: bool,
}

impl EventStream {
    pub fn start<E: Into<StreamEvent> + Send + 'static>(
        mut events: impl Stream<Item = E> + Unpin + Send + 'static,
        event_loop: Py<PyAny>,
    ) -> PyResult<Self> {
        let queue = Arc::new(EventQueue { state: Mutex::default(), taken: Notify::new() });
        let (keep, cancelled) = oneshot::channel::<()>();
        let pump = Arc::clone(&queue);
        runtime()?.spawn(async move {
            let work = async {
                while let Some(event) = events.next().await {
                    pump.push(event.into()).await;
                }
            };
            tokio::select! {
                biased;
                () = work => {}
                _ = cancelled => {}
            }
            // Stops the guest if it is still running.
            drop(events);
            pump.end();
        });
        Ok(Self { queue, keep: Mutex::new(Some(keep)), event_loop })
    }
}

#[pymethods]
impl EventStream {
    /// Returns the next available event: its kind, a text and a detail. `None` if
    /// there is none yet, and `False` after the last.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut state = self.queue.lock();
        let Some(event) = state.events.pop_front() else {
            let ended = state.ended;
            return Ok(ended
                .then(|| false.into_pyobject(py).map(|no| no.to_owned().into_any()))
                .transpose()?);
        };
        drop(state);
        self.queue.taken.notify_one();
        describe(py, event).map(Some)
    }

    /// Calls `done` when `take` has something to return.
    fn wait(&self, done: Py<PyAny>, py: Python<'_>) {
        let callback = Callback::new(self.event_loop.clone_ref(py), done);
        let mut state = self.queue.lock();
        if state.events.is_empty() && !state.ended {
            state.waiting = Some(callback);
            return;
        }
        drop(state);
        callback.send(|py| Ok(py.None().into_bound(py)));
    }

    /// Stops the call, and calls `done` when the guest has stopped.
    fn cancel(&self, done: Py<PyAny>, py: Python<'_>) {
        drop(self.keep.lock().unwrap_or_else(PoisonError::into_inner).take());
        let callback = Callback::new(self.event_loop.clone_ref(py), done);
        let mut state = self.queue.lock();
        // Events that will not be read must not keep the call waiting.
        state.events.clear();
        if !state.ended {
            state.waiting = Some(callback);
            drop(state);
            self.queue.taken.notify_one();
            return;
        }
        drop(state);
        callback.send(|py| Ok(py.None().into_bound(py)));
    }
}

impl EventQueue {
    async fn push(&self, event: StreamEvent) {
        let (waiting, full) = {
            let mut state = self.lock();
            state.events.push_back(event);
            (state.waiting.take(), state.events.len() >= MAX_BUFFERED_EVENTS)
        };
        if let Some(callback) = waiting {
            callback.send(|py| Ok(py.None().into_bound(py)));
        }
        if full {
            while self.lock().events.len() >= MAX_BUFFERED_EVENTS {
                self.taken.notified().await;
            }
        }
    }

    fn end(&self) {
        let waiting = {
            let mut state = self.lock();
            state.ended = true;
            state.waiting.take()
        };
        if let Some(callback) = waiting {
            callback.send(|py| Ok(py.None().into_bound(py)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(py: Python<'_>, event: StreamEvent) -> PyResult<Bound<'_, PyAny>> {
    let event = match event {
        StreamEvent::Call(event) => event,
        StreamEvent::Failure(error) => Event::Error(error),
        StreamEvent::Code(event) => {
            let text = serde_json::to_string(&event)
                .map_err(|error| failure::raise("internal", &error.to_string()))?;
            return ("code", text, py.None()).into_pyobject(py).map(Bound::into_any);
        }
    };
    let text = |kind: &'static str, text: &str| {
        (kind, PyString::new(py, text), py.None()).into_pyobject(py).map(Bound::into_any)
    };
    match event {
        Event::Result(value) => text("result", value.as_str()),
        Event::End(value) => text("end", value.as_str()),
        Event::Stdout(output) => text("stdout", &output),
        Event::Stderr(output) => text("stderr", &output),
        Event::Log(record) => {
            ("log", record.message, record.level.as_str()).into_pyobject(py).map(Bound::into_any)
        }
        Event::Error(error) => {
            let exception = failure::from_error(py, &error).into_value(py);
            ("error", error.to_string(), exception).into_pyobject(py).map(Bound::into_any)
        }
        other => Err(failure::raise("internal", &format!("unknown event: {other:?}"))),
    }
}

//! The events of a call, from the task that runs it to the event loop that
//! takes them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt as _;
use isola::Event;
use pyo3::{prelude::*, types::PyString};
use tokio::sync::{Notify, oneshot};

use crate::{
    bridge::{Callback, runtime},
    failure,
};

/// So many events may wait to be taken; beyond that the guest waits.
const AHEAD: usize = 64;

/// The events of a call.
#[pyclass(frozen, module = "isola._native")]
pub struct EventStream {
    shared: Arc<Shared>,
    /// Dropped to stop the call.
    keep: Mutex<Option<oneshot::Sender<()>>>,
    event_loop: Py<PyAny>,
}

struct Shared {
    state: Mutex<State>,
    /// There is room again.
    taken: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    waiting: Option<Callback>,
    over: bool,
}

impl EventStream {
    pub fn start(mut events: isola::EventStream, event_loop: Py<PyAny>) -> PyResult<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), taken: Notify::new() });
        let (keep, given_up) = oneshot::channel::<()>();
        let pump = Arc::clone(&shared);
        runtime()?.spawn(async move {
            let work = async {
                while let Some(event) = events.next().await {
                    pump.put(event).await;
                }
            };
            tokio::select! {
                biased;
                () = work => {}
                _ = given_up => {}
            }
            // The guest stops here, if it still runs.
            drop(events);
            pump.end();
        });
        Ok(Self { shared, keep: Mutex::new(Some(keep)), event_loop })
    }
}

#[pymethods]
impl EventStream {
    /// The next event that is there: its kind, a text and a detail. `None` if
    /// there is none yet, and `False` after the last.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut state = self.shared.lock();
        let Some(event) = state.events.pop_front() else {
            let over = state.over;
            return Ok(over
                .then(|| false.into_pyobject(py).map(|no| no.to_owned().into_any()))
                .transpose()?);
        };
        drop(state);
        self.shared.taken.notify_one();
        describe(py, event).map(Some)
    }

    /// Calls `done` when there is something to take.
    fn wait(&self, done: Py<PyAny>, py: Python<'_>) {
        let callback = Callback::new(self.event_loop.clone_ref(py), done);
        let mut state = self.shared.lock();
        if state.events.is_empty() && !state.over {
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
        let mut state = self.shared.lock();
        // What nobody will take must not keep the call waiting.
        state.events.clear();
        if !state.over {
            state.waiting = Some(callback);
            drop(state);
            self.shared.taken.notify_one();
            return;
        }
        drop(state);
        callback.send(|py| Ok(py.None().into_bound(py)));
    }
}

impl Shared {
    async fn put(&self, event: Event) {
        let (waiting, full) = {
            let mut state = self.lock();
            state.events.push_back(event);
            (state.waiting.take(), state.events.len() >= AHEAD)
        };
        if let Some(callback) = waiting {
            callback.send(|py| Ok(py.None().into_bound(py)));
        }
        if full {
            while self.lock().events.len() >= AHEAD {
                self.taken.notified().await;
            }
        }
    }

    fn end(&self) {
        let waiting = {
            let mut state = self.lock();
            state.over = true;
            state.waiting.take()
        };
        if let Some(callback) = waiting {
            callback.send(|py| Ok(py.None().into_bound(py)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyAny>> {
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
        other => Err(failure::raise("internal", &format!("an unknown event: {other:?}"))),
    }
}

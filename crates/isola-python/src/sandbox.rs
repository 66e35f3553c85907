//! A sandbox: one operation at a time, each a task of the runtime.

use std::sync::{Arc, Mutex, PoisonError};

use isola::{Args, Call, PollOutcome, Value};
use pyo3::{prelude::*, types::PyString};

use crate::{
    bridge::{Callback, Own, Task, runtime, spawn},
    events::EventStream,
    failure,
    limits::{CallLimits, limited},
    snapshot::Snapshot,
};

/// Where hostcalls of the guest go: the event loop of the operation that runs.
pub type CurrentLoop = Arc<Mutex<Py<PyAny>>>;

/// Arguments of a call: names, if they have one, and JSON texts.
type Arguments = Vec<(Option<String>, String)>;

/// An interpreter.
#[pyclass(frozen, module = "isola._native")]
pub struct Sandbox {
    inner: Own<isola::Sandbox>,
    current: CurrentLoop,
}

impl Sandbox {
    pub fn new(sandbox: isola::Sandbox, current: CurrentLoop) -> Self {
        Self { inner: Own::new(sandbox), current }
    }

    fn begin(
        &self,
        call: Call,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        let call = limited(call, limits)?;
        self.follow(&event_loop, py);
        spawn(call.into_future(), Callback::new(event_loop, done), |py, value: Value| {
            Ok(PyString::new(py, value.as_str()).into_any())
        })
    }

    fn begin_stream(
        &self,
        call: Call,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        let events = limited(call, limits)?.stream();
        let events = events.map_err(|error| failure::from_error(py, &error))?;
        self.follow(&event_loop, py);
        EventStream::start(events, event_loop)
    }

    /// A call that is refused because another one runs must not take that
    /// one's event loop away.
    fn follow(&self, event_loop: &Py<PyAny>, py: Python<'_>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !current.is(event_loop) {
            *current = event_loop.clone_ref(py);
        }
    }
}

#[pymethods]
impl Sandbox {
    /// Prepares the interpreter.
    fn start(
        &self,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        self.begin(self.inner.get()?.start(), limits, event_loop, done, py)
    }

    /// Runs source code.
    fn load(
        &self,
        source: String,
        name: Option<String>,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        let sandbox = self.inner.get()?;
        let call = match name {
            Some(name) => sandbox.load_script_as(name, source),
            None => sandbox.load_script(source),
        };
        self.begin(call, limits, event_loop, done, py)
    }

    /// Calls a function, and hands the JSON text of its result to `done`; or
    /// gives that text at once, if the function is known to be quick.
    fn run<'py>(
        &self,
        function: &str,
        arguments: Arguments,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = limited(self.inner.get()?.run(function, read(arguments, py)?), limits)?;
        self.follow(&event_loop, py);
        let runtime = runtime()?;
        // Without the interpreter's lock, like everything a guest does.
        let begun = py.detach(|| {
            let _within = runtime.enter();
            call.start_inline()
        });
        let answer = match begun {
            PollOutcome::Ready(outcome) => {
                let value = outcome.map_err(|error| failure::from_error(py, &error))?;
                return Ok(PyString::new(py, value.as_str()).into_any());
            }
            PollOutcome::Pending(answer) => answer,
        };
        let task = spawn(answer, Callback::new(event_loop, done), |py, value: Value| {
            Ok(PyString::new(py, value.as_str()).into_any())
        })?;
        Ok(Bound::new(py, task)?.into_any())
    }

    /// Calls a function, and gives what happens.
    fn run_stream(
        &self,
        function: &str,
        arguments: Arguments,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        let call = self.inner.get()?.run(function, read(arguments, py)?);
        self.begin_stream(call, limits, event_loop, py)
    }

    /// Runs source code, and gives what happens and its last expression's value.
    fn evaluate_stream(
        &self,
        source: String,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        self.begin_stream(self.inner.get()?.evaluate(source), limits, event_loop, py)
    }

    /// Ends the interpreter in order, as the end of a process, and closes the sandbox.
    fn finish(
        &self,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        self.begin(self.inner.get()?.finish(), limits, event_loop, done, py)
    }

    /// The same, and gives what happens.
    fn finish_stream(
        &self,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        self.begin_stream(self.inner.get()?.finish(), limits, event_loop, py)
    }

    /// Copies the interpreter, and hands the snapshot to `done`.
    fn snapshot(&self, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<Task> {
        let snapshot = self.inner.get()?.snapshot();
        spawn(snapshot, Callback::new(event_loop, done), |py, snapshot| {
            Ok(Bound::new(py, Snapshot::new(snapshot))?.into_any())
        })
    }

    /// Closes the sandbox and stops what runs in it.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let sandbox = self.inner.get()?;
        // Unmapping a guest takes a while.
        py.detach(|| sandbox.close());
        Ok(())
    }

    /// Whether it is closed.
    fn is_closed(&self) -> PyResult<bool> {
        self.inner.get().map(isola::Sandbox::is_closed)
    }
}

fn read(arguments: Arguments, py: Python<'_>) -> PyResult<Args> {
    let mut args = Args::new();
    for (name, text) in arguments {
        let value = Value::from_json(text).map_err(|error| failure::from_error(py, &error))?;
        args = match name {
            Some(name) => args.named(name, &value),
            None => args.push(&value),
        };
    }
    Ok(args)
}

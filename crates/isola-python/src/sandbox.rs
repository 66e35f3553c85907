//! Sandboxes. Each runs one operation at a time, as a task of the runtime.

use std::sync::PoisonError;

use isola::{Args, Call, PollOutcome, Value};
use pyo3::{prelude::*, types::PyString};

use crate::{
    bridge::{Callback, ProcessBound, Task, runtime, spawn},
    events::EventStream,
    failure,
    host::CurrentLoop,
    limits::{CallLimits, limited},
};

/// The arguments of a call: optional names, and JSON texts.
type Arguments = Vec<(Option<String>, String)>;

/// A sandbox with its interpreter.
#[pyclass(frozen, module = "isola._native")]
pub struct Sandbox {
    inner: ProcessBound<isola::Sandbox>,
    current: CurrentLoop,
}

impl Sandbox {
    pub fn new(sandbox: isola::Sandbox, current: CurrentLoop) -> Self {
        Self { inner: ProcessBound::new(sandbox), current }
    }

    /// Returns the sandbox. Fails in a forked process.
    pub fn inner(&self) -> PyResult<&isola::Sandbox> {
        self.inner.get()
    }

    fn start_call(
        &self,
        call: Call,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        let call = limited(call, limits)?;
        self.use_event_loop(&event_loop, py);
        spawn(call.into_future(), Callback::new(event_loop, done), |py, value: Value| {
            Ok(PyString::new(py, value.as_str()).into_any())
        })
    }

    fn start_stream(
        &self,
        call: Call,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        let events = limited(call, limits)?.stream();
        let events = events.map_err(|error| failure::from_error(py, &error))?;
        self.use_event_loop(&event_loop, py);
        EventStream::start(events, event_loop)
    }

    /// Sets the event loop that handles hostcalls. A call that is rejected because
    /// another one is running must not replace the event loop of that one.
    pub fn use_event_loop(&self, event_loop: &Py<PyAny>, py: Python<'_>) {
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
        self.start_call(self.inner.get()?.start(), limits, event_loop, done, py)
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
        self.start_call(call, limits, event_loop, done, py)
    }

    /// Calls a function, and passes the JSON text of its result to `done`; or
    /// returns that text, if the function is known to be quick and has finished.
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
        self.use_event_loop(&event_loop, py);
        let runtime = runtime()?;
        // Without the interpreter's lock, as always when a guest runs.
        let begun = py.detach(|| {
            let _runtime = runtime.enter();
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

    /// Calls a function and returns the event stream of the call.
    fn run_stream(
        &self,
        function: &str,
        arguments: Arguments,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        let call = self.inner.get()?.run(function, read(arguments, py)?);
        self.start_stream(call, limits, event_loop, py)
    }

    /// Runs source code, and passes the JSON text of the value of its last expression
    /// to `done`.
    fn evaluate(
        &self,
        source: String,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        self.start_call(self.inner.get()?.evaluate(source), limits, event_loop, done, py)
    }

    /// Runs source code and returns the event stream, which ends with the value of
    /// its last expression.
    fn evaluate_stream(
        &self,
        source: String,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        self.start_stream(self.inner.get()?.evaluate(source), limits, event_loop, py)
    }

    /// Shuts the interpreter down in order, as at process exit, and closes the sandbox.
    fn finish(
        &self,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        self.start_call(self.inner.get()?.finish(), limits, event_loop, done, py)
    }

    /// Does the same as `finish` and returns the event stream.
    fn finish_stream(
        &self,
        limits: CallLimits,
        event_loop: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<EventStream> {
        self.start_stream(self.inner.get()?.finish(), limits, event_loop, py)
    }

    /// Closes the sandbox and stops the running operation.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let sandbox = self.inner.get()?;
        // Unmapping a guest's memory is slow.
        py.detach(|| sandbox.close());
        Ok(())
    }

    /// Reports whether the sandbox is closed.
    fn is_closed(&self) -> PyResult<bool> {
        self.inner.get().map(isola::Sandbox::is_closed)
    }

    /// Returns the largest size of one value, in bytes.
    fn max_value_size(&self) -> PyResult<usize> {
        self.inner.get().map(|sandbox| sandbox.limits().max_value_size)
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

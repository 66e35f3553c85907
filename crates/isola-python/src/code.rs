//! Code that is run in contexts.

use std::time::Duration;

use isola::{CodeContext, Error};
use pyo3::{IntoPyObjectExt as _, prelude::*};

use crate::{
    bridge::{Callback, Task, spawn},
    events::EventStream,
    failure,
    limits::{CallLimits, duration},
    sandbox::Sandbox,
};

/// The id, language, working directory and execution count of a context.
type Described = (String, String, String, u64);

/// Runs code in a context and returns the stream of its events.
///
/// The functions of this module are no methods of [`Sandbox`]: the modules depend on each
/// other in this direction only.
#[pyfunction]
pub fn run_code(
    sandbox: &Bound<'_, Sandbox>,
    code: String,
    language: Option<String>,
    context: Option<String>,
    limits: CallLimits,
    event_loop: Py<PyAny>,
    py: Python<'_>,
) -> PyResult<EventStream> {
    let sandbox = sandbox.get();
    let mut run = sandbox.inner()?.run_code(code);
    if let Some(language) = language {
        run = run.language(language);
    }
    if let Some(context) = context {
        run = run.context(context);
    }
    let (wall, cpu) = limits;
    if let Some(seconds) = wall {
        run = run.timeout(duration("timeout", seconds)?.unwrap_or(Duration::MAX));
    }
    if let Some(seconds) = cpu {
        run = run.cpu_timeout(duration("cpu_timeout", seconds)?.unwrap_or(Duration::MAX));
    }
    let events = run.stream().map_err(|error| failure::from_error(py, &error))?;
    sandbox.use_event_loop(&event_loop, py);
    EventStream::start(events, event_loop)
}

/// Interrupts the code that runs, or only that of a context. Reports whether there is any.
#[pyfunction]
pub fn interrupt(sandbox: &Bound<'_, Sandbox>, context: Option<&str>) -> PyResult<bool> {
    let sandbox = sandbox.get().inner()?;
    Ok(match context {
        Some(id) => sandbox.interrupt_context(id),
        None => sandbox.interrupt(),
    })
}

/// Creates a context and passes its description to `done`.
#[pyfunction]
pub fn create_context(
    sandbox: &Bound<'_, Sandbox>,
    cwd: Option<&str>,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
) -> PyResult<Task> {
    let created = sandbox.get().inner()?.create_context(cwd);
    spawn(created, Callback::new(event_loop, done), |py, context| {
        describe(context).into_bound_py_any(py)
    })
}

/// Passes the descriptions of all contexts to `done`.
#[pyfunction]
pub fn contexts(
    sandbox: &Bound<'_, Sandbox>,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
) -> PyResult<Task> {
    let listed = sandbox.get().inner()?.contexts();
    spawn(listed, Callback::new(event_loop, done), |py, contexts: Vec<CodeContext>| {
        let described: Vec<Described> = contexts.into_iter().map(describe).collect();
        described.into_bound_py_any(py)
    })
}

/// Removes everything that code has defined in a context.
#[pyfunction]
pub fn restart_context(
    sandbox: &Bound<'_, Sandbox>,
    context: &str,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
) -> PyResult<Task> {
    finish(sandbox.get().inner()?.restart_context(context), event_loop, done)
}

/// Removes a context.
#[pyfunction]
pub fn remove_context(
    sandbox: &Bound<'_, Sandbox>,
    context: &str,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
) -> PyResult<Task> {
    finish(sandbox.get().inner()?.remove_context(context), event_loop, done)
}

fn finish(
    work: impl Future<Output = Result<(), Error>> + Send + 'static,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
) -> PyResult<Task> {
    spawn(work, Callback::new(event_loop, done), |py, ()| Ok(py.None().into_bound(py)))
}

fn describe(context: CodeContext) -> Described {
    (context.id, context.language, context.cwd, context.execution_count)
}

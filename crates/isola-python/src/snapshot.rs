//! Snapshots of sandboxes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use pyo3::{IntoPyObjectExt as _, prelude::*};

use crate::{
    bridge::{Callback, ProcessBound, Task, spawn},
    host::PythonHost,
    limits::LimitOptions,
    mounts::{MountOption, read_mount},
    sandbox::Sandbox,
};

/// A snapshot of an interpreter's state.
#[pyclass(frozen, module = "isola._native")]
pub struct Snapshot {
    inner: ProcessBound<isola::Snapshot>,
}

impl Snapshot {
    pub fn new(snapshot: isola::Snapshot) -> Self {
        Self { inner: ProcessBound::new(snapshot) }
    }
}

/// Takes a snapshot of the interpreter of a sandbox, and passes it to `done`.
///
/// A function of this module and not a method of [`Sandbox`], because a snapshot creates
/// sandboxes: the modules depend on each other in this direction only.
#[pyfunction]
pub fn take_snapshot(
    sandbox: &Bound<'_, Sandbox>,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
) -> PyResult<Task> {
    let snapshot = sandbox.get().inner()?.snapshot();
    spawn(snapshot, Callback::new(event_loop, done), |py, snapshot| {
        Ok(Bound::new(py, Snapshot::new(snapshot))?.into_any())
    })
}

#[pymethods]
impl Snapshot {
    /// Creates a sandbox that continues from the snapshot, and passes it to `done`.
    #[allow(clippy::too_many_arguments, reason = "one option each, by name")]
    #[pyo3(signature = (*, limits, mounts, env, arguments, host, event_loop, done))]
    fn create(
        &self,
        limits: LimitOptions,
        mounts: Vec<MountOption>,
        env: Vec<(String, String)>,
        arguments: Option<Vec<String>>,
        host: Py<PyAny>,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        let snapshot = self.inner.get()?;
        let limits = limits.applied_to(snapshot.limits().clone())?;
        let mut builder = snapshot.sandbox().limits(limits);
        for mount in mounts {
            builder = builder.mount(read_mount(mount)?);
        }
        for (key, value) in env {
            builder = builder.env(key, value);
        }
        if let Some(arguments) = arguments {
            builder = builder.arguments(arguments);
        }
        let event_loops = Arc::new(Mutex::new(event_loop.clone_ref(py)));
        builder = builder.host(PythonHost::new(host, Arc::clone(&event_loops)));
        spawn(builder.create(), Callback::new(event_loop, done), move |py, sandbox| {
            Ok(Bound::new(py, Sandbox::new(sandbox, event_loops))?.into_any())
        })
    }

    /// Writes the snapshot to a file, and passes the file's size to `done`.
    fn save(&self, path: PathBuf, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<Task> {
        let saved = self.inner.get()?.save(path);
        spawn(saved, Callback::new(event_loop, done), |py, size: u64| size.into_bound_py_any(py))
    }

    /// Returns the size of the interpreter's memory, in bytes.
    fn memory_size(&self) -> PyResult<u64> {
        self.inner.get().map(isola::Snapshot::memory_size)
    }

    /// Returns the memory that the snapshot itself uses, in bytes.
    fn resident_size(&self) -> PyResult<u64> {
        self.inner.get().map(isola::Snapshot::resident_size)
    }

    /// Returns the name of the runtime.
    fn runtime(&self) -> PyResult<&'static str> {
        self.inner.get().map(|snapshot| snapshot.runtime().name())
    }
}

//! Snapshots of sandboxes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use pyo3::{IntoPyObjectExt as _, prelude::*};

use crate::{
    bridge::{Callback, Own, Task, spawn},
    host::PythonHost,
    limits::LimitOptions,
    sandbox::Sandbox,
    template::{MountOption, read_mount},
};

/// An interpreter as it was at one moment.
#[pyclass(frozen, module = "isola._native")]
pub struct Snapshot {
    inner: Own<isola::Snapshot>,
}

impl Snapshot {
    pub fn new(snapshot: isola::Snapshot) -> Self {
        Self { inner: Own::new(snapshot) }
    }
}

#[pymethods]
impl Snapshot {
    /// Creates a sandbox that goes on from here, and hands it to `done`.
    #[allow(clippy::too_many_arguments, reason = "one option each, by name")]
    #[pyo3(signature = (*, limits, mounts, env, host, event_loop, done))]
    fn create(
        &self,
        limits: LimitOptions,
        mounts: Vec<MountOption>,
        env: Vec<(String, String)>,
        host: Py<PyAny>,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        let snapshot = self.inner.get()?;
        let limits = limits.over(snapshot.limits().clone())?;
        let mut builder = snapshot.sandbox().limits(limits);
        for mount in mounts {
            builder = builder.mount(read_mount(mount)?);
        }
        for (key, value) in env {
            builder = builder.env(key, value);
        }
        let event_loops = Arc::new(Mutex::new(event_loop.clone_ref(py)));
        builder = builder.host(PythonHost::new(host, Arc::clone(&event_loops)));
        spawn(builder.create(), Callback::new(event_loop, done), move |py, sandbox| {
            Ok(Bound::new(py, Sandbox::new(sandbox, event_loops))?.into_any())
        })
    }

    /// Writes it to a file, and hands the file's size to `done`.
    fn save(&self, path: PathBuf, event_loop: Py<PyAny>, done: Py<PyAny>) -> PyResult<Task> {
        let saved = self.inner.get()?.save(path);
        spawn(saved, Callback::new(event_loop, done), |py, size: u64| size.into_bound_py_any(py))
    }

    /// The size of the interpreter's memory, in bytes.
    fn memory_size(&self) -> PyResult<u64> {
        self.inner.get().map(isola::Snapshot::memory_size)
    }

    /// What the snapshot takes in memory, in bytes.
    fn resident_size(&self) -> PyResult<u64> {
        self.inner.get().map(isola::Snapshot::resident_size)
    }

    /// The runtime, by name.
    fn runtime(&self) -> PyResult<&'static str> {
        self.inner.get().map(|snapshot| snapshot.runtime().name())
    }
}

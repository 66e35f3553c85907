//! Builds templates, and creates sandboxes from them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use isola::{Error, Limits, Runtime, RuntimeSource};
use pyo3::{IntoPyObjectExt as _, prelude::*};

use crate::{
    bridge::{Callback, ProcessBound, Task, attach, post, spawn},
    failure,
    host::PythonHost,
    limits::LimitOptions,
    mounts::{MountOption, read_mount},
    sandbox::Sandbox,
    snapshot::Snapshot,
};

/// A compiled interpreter.
#[pyclass(frozen, module = "isola._native")]
pub struct Template {
    inner: ProcessBound<isola::Template>,
    /// The default limits of a sandbox.
    limits: Limits,
}

/// The sources of a runtime: the keyword arguments of `resolve_runtime`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct SourceOptions {
    runtime_path: Option<PathBuf>,
    runtime_lib_dir: Option<PathBuf>,
    shipped: PathBuf,
    version: Option<String>,
    runtimes_dir: Option<PathBuf>,
    download_url: Option<String>,
    runtime_sha256: Option<String>,
}

/// Finds the component of a runtime, downloads it if necessary, and passes its path
/// to `done`. `progress` is called during a download, on the event loop.
#[pyfunction]
pub fn find(
    runtime: &str,
    options: SourceOptions,
    progress: Option<Py<PyAny>>,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
    py: Python<'_>,
) -> PyResult<Task> {
    let runtime: Runtime = runtime.parse().map_err(|error| failure::from_error(py, &error))?;
    let mut source = RuntimeSource::new(runtime).shipped(options.shipped);
    if let Some(path) = options.runtime_path {
        source = source.path(path);
    }
    if let Some(dir) = options.runtime_lib_dir {
        source = source.library(dir);
    }
    if let Some(version) = options.version {
        source = source.version(version);
    }
    if let Some(dir) = options.runtimes_dir {
        source = source.runtimes_dir(dir);
    }
    if let Some(url) = options.download_url {
        source = source.base_url(url);
    }
    if let Some(digest) = options.runtime_sha256 {
        source = source.sha256(digest);
    }
    if let Some(progress) = progress {
        let event_loop = event_loop.clone_ref(py);
        source = source.on_progress(move |received, total| {
            report(&event_loop, &progress, ("download", Some(received), total));
        });
    }
    spawn(source.find(), Callback::new(event_loop, done), |py, path: PathBuf| {
        path.into_bound_py_any(py)
    })
}

/// Builds a template and passes it to `done`. `cache_dir` is an optional list to
/// distinguish three cases: none is the default, an empty one disables the cache.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "one option each, by name")]
#[pyo3(signature = (*, runtime, runtime_path, cache_dir, limits, reuse_memory, prelude, mounts, env, progress, event_loop, done))]
pub fn build(
    runtime: &str,
    runtime_path: PathBuf,
    cache_dir: Option<Vec<PathBuf>>,
    limits: LimitOptions,
    reuse_memory: bool,
    prelude: Option<String>,
    mounts: Vec<MountOption>,
    env: Vec<(String, String)>,
    progress: Option<Py<PyAny>>,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
    py: Python<'_>,
) -> PyResult<Task> {
    let fail = |error: Error| failure::from_error(py, &error);
    let limits = limits.applied_to(Limits::default())?;
    let mut builder = isola::Template::builder(runtime.parse().map_err(fail)?)
        .runtime_path(runtime_path)
        .limits(limits.clone())
        .reuse_memory(reuse_memory);
    if let Some(dirs) = cache_dir {
        builder = builder.cache_dir(dirs.into_iter().next());
    }
    if let Some(source) = prelude {
        builder = builder.prelude(source);
    }
    for mount in mounts {
        builder = builder.mount(read_mount(mount)?);
    }
    for (key, value) in env {
        builder = builder.env(key, value);
    }
    if let Some(progress) = progress {
        let event_loop = event_loop.clone_ref(py);
        builder = builder.on_compile(move || {
            report(&event_loop, &progress, ("compile", None::<u64>, None::<u64>))
        });
    }
    spawn(builder.build(), Callback::new(event_loop, done), |py, inner| {
        Ok(Bound::new(py, Template { inner: ProcessBound::new(inner), limits })?.into_any())
    })
}

/// Calls `listener` on the event loop with the progress of a build. Does nothing
/// if the loop is closed.
fn report(event_loop: &Py<PyAny>, listener: &Py<PyAny>, args: (&str, Option<u64>, Option<u64>)) {
    attach(|py| {
        let _ = post(event_loop.bind(py), listener.bind(py), args);
    });
}

#[pymethods]
impl Template {
    /// Creates a sandbox that has not been started, and passes it to `done`.
    #[allow(clippy::too_many_arguments, reason = "one option each, by name")]
    #[pyo3(signature = (*, limits, mounts, env, arguments, host, event_loop, done))]
    fn create(
        &self,
        limits: LimitOptions,
        mounts: Vec<MountOption>,
        env: Vec<(String, String)>,
        arguments: Option<Vec<String>>,
        host: Option<Py<PyAny>>,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        let limits = limits.applied_to(self.limits.clone())?;
        let mut builder = self.inner.get()?.sandbox().limits(limits);
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
        if let Some(dispatcher) = host {
            builder = builder.host(PythonHost::new(dispatcher, Arc::clone(&event_loops)));
        }
        spawn(builder.create(), Callback::new(event_loop, done), move |py, sandbox| {
            Ok(Bound::new(py, Sandbox::new(sandbox, event_loops))?.into_any())
        })
    }

    /// Reads a snapshot from a file, and passes it to `done`.
    fn load_snapshot(
        &self,
        path: PathBuf,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
    ) -> PyResult<Task> {
        let loaded = self.inner.get()?.load_snapshot(path);
        spawn(loaded, Callback::new(event_loop, done), |py, snapshot| {
            Ok(Bound::new(py, Snapshot::new(snapshot))?.into_any())
        })
    }
}

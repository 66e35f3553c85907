//! Building templates, and creating sandboxes from them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use isola::{Error, Mount, Permission, Runtime};
use pyo3::prelude::*;

use crate::{
    bridge::{Callback, Own, Task, spawn},
    failure,
    host::PythonHost,
    sandbox::Sandbox,
};

/// A folder of the host, a path of the guest, and the rights on directories and
/// on files.
type MountOption = (PathBuf, String, String, String);

/// A compiled interpreter.
#[pyclass(frozen, module = "isola._native")]
pub struct Template(Own<isola::Template>);

/// Builds a template, and hands it to `done`. `cache_dir` is a list so that its
/// three forms differ: none is the default, an empty one is no cache.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "one option each, by name")]
#[pyo3(signature = (*, runtime, runtime_path, cache_dir, max_memory, prelude, mounts, env, event_loop, done))]
pub fn build(
    runtime: &str,
    runtime_path: PathBuf,
    cache_dir: Option<Vec<PathBuf>>,
    max_memory: Option<usize>,
    prelude: Option<String>,
    mounts: Vec<MountOption>,
    env: Vec<(String, String)>,
    event_loop: Py<PyAny>,
    done: Py<PyAny>,
    py: Python<'_>,
) -> PyResult<Task> {
    let fail = |error: Error| failure::from_error(py, &error);
    let mut builder =
        isola::Template::builder(runtime.parse().map_err(fail)?).runtime_path(runtime_path);
    if let Some(folders) = cache_dir {
        builder = builder.cache_dir(folders.into_iter().next());
    }
    if let Some(bytes) = max_memory {
        builder = builder.max_memory(bytes);
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
    spawn(builder.build(), Callback::new(event_loop, done), |py, template| {
        Ok(Bound::new(py, Template(Own::new(template)))?.into_any())
    })
}

/// Where the component of a runtime is.
#[pyfunction]
#[pyo3(signature = (runtime, path=None))]
pub fn resolve(runtime: &str, path: Option<PathBuf>, py: Python<'_>) -> PyResult<PathBuf> {
    let found = runtime.parse::<Runtime>().and_then(|runtime| runtime.resolve(path.as_deref()));
    found.map_err(|error| failure::from_error(py, &error))
}

#[pymethods]
impl Template {
    /// Creates a sandbox, still to be started, and hands it to `done`.
    #[allow(clippy::too_many_arguments, reason = "one option each, by name")]
    #[pyo3(signature = (*, max_memory, mounts, env, host, event_loop, done))]
    fn create(
        &self,
        max_memory: Option<usize>,
        mounts: Vec<MountOption>,
        env: Vec<(String, String)>,
        host: Option<Py<PyAny>>,
        event_loop: Py<PyAny>,
        done: Py<PyAny>,
        py: Python<'_>,
    ) -> PyResult<Task> {
        let mut builder = self.0.get()?.sandbox();
        if let Some(bytes) = max_memory {
            builder = builder.max_memory(bytes);
        }
        for mount in mounts {
            builder = builder.mount(read_mount(mount)?);
        }
        for (key, value) in env {
            builder = builder.env(key, value);
        }
        let event_loops = Arc::new(Mutex::new(event_loop.clone_ref(py)));
        if let Some(dispatcher) = host {
            builder = builder.host(PythonHost::new(dispatcher, Arc::clone(&event_loops)));
        }
        spawn(builder.create(), Callback::new(event_loop, done), move |py, sandbox| {
            Ok(Bound::new(py, Sandbox::new(sandbox, event_loops))?.into_any())
        })
    }
}

fn read_mount((host, guest, dirs, files): MountOption) -> PyResult<Mount> {
    let dirs = permission("dir_perms", &dirs)?;
    let files = permission("file_perms", &files)?;
    Ok(Mount::new(host, guest).dir_perms(dirs).file_perms(files))
}

fn permission(option: &str, name: &str) -> PyResult<Permission> {
    match name {
        "read" => Ok(Permission::Read),
        "write" => Ok(Permission::Write),
        "read-write" => Ok(Permission::ReadWrite),
        other => Err(failure::raise(
            "invalid_argument",
            &format!("{option} is {other:?}: use \"read\", \"write\" or \"read-write\""),
        )),
    }
}

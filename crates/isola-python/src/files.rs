//! The files of a sandbox.

use std::time::{SystemTime, UNIX_EPOCH};

use isola::{Error, FileStat, SandboxFiles};
use pyo3::{prelude::*, types::PyBytes};

use crate::{bridge::ProcessBound, failure, sandbox::Sandbox};

/// The files of a sandbox. The operations do not wait, so they are no tasks.
#[pyclass(frozen, module = "isola._native")]
pub struct Files {
    inner: ProcessBound<SandboxFiles>,
}

/// The kind, size, mode and time of change of a file.
type Stat = (&'static str, u64, u32, f64);

/// Returns the files of a sandbox.
///
/// A function of this module and not a method of [`Sandbox`]: the modules depend on each
/// other in this direction only.
#[pyfunction]
pub fn files_of(sandbox: &Bound<'_, Sandbox>) -> PyResult<Files> {
    let files = sandbox.get().inner()?.files();
    Ok(Files { inner: ProcessBound::new(files) })
}

#[pymethods]
impl Files {
    fn read<'py>(&self, path: &str, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.operate(py, |files| files.read(path)).map(|content| PyBytes::new(py, &content))
    }

    fn write(&self, path: &str, content: &Bound<'_, PyBytes>, py: Python<'_>) -> PyResult<()> {
        let content = content.as_bytes();
        self.operate(py, |files| files.write(path, content))
    }

    fn list(&self, path: &str, py: Python<'_>) -> PyResult<Vec<(String, Stat)>> {
        let entries = self.operate(py, |files| files.list(path))?;
        Ok(entries.into_iter().map(|entry| (entry.name, describe(&entry.stat))).collect())
    }

    fn stat(&self, path: &str, py: Python<'_>) -> PyResult<Stat> {
        self.operate(py, |files| files.stat(path)).map(|stat| describe(&stat))
    }

    fn exists(&self, path: &str, py: Python<'_>) -> PyResult<bool> {
        self.operate(py, |files| Ok(files.exists(path)))
    }

    fn make_dir(&self, path: &str, py: Python<'_>) -> PyResult<()> {
        self.operate(py, |files| files.make_dir(path))
    }

    fn remove(&self, path: &str, py: Python<'_>) -> PyResult<()> {
        self.operate(py, |files| files.remove(path))
    }

    fn rename(&self, from: &str, to: &str, py: Python<'_>) -> PyResult<()> {
        self.operate(py, |files| files.rename(from, to))
    }
}

impl Files {
    /// Runs an operation without the interpreter's lock: a guest may hold the lock of the
    /// files, and large contents are copied.
    fn operate<T: Send>(
        &self,
        py: Python<'_>,
        operation: impl FnOnce(&SandboxFiles) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let files = self.inner.get()?;
        py.detach(|| operation(files)).map_err(|error| failure::from_error(py, &error))
    }
}

fn describe(stat: &FileStat) -> Stat {
    (stat.kind.name(), stat.size, stat.mode, seconds(stat.modified))
}

/// Returns a time in seconds since 1970. A guest may set any time.
fn seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

//! Converts errors of `crates/isola` to exceptions of the Python package.

use isola::Error;
use pyo3::{intern, prelude::*, sync::PyOnceLock};

/// Creates the exception for an error, by its stable code. The mapping from codes
/// to classes is in `python/isola/_errors.py`.
pub fn from_error(py: Python<'_>, error: &Error) -> PyErr {
    let exception = error.exception().map(|exception| {
        (exception.name.as_str(), exception.message.as_str(), exception.traceback.as_str())
    });
    let file = match error {
        Error::File(file) => Some((file.failure.errno(), file.path.as_str())),
        _ => None,
    };
    create(py, error.code(), &error.to_string(), exception, file)
}

/// Creates an exception with a code and a message.
pub fn raise(code: &str, message: &str) -> PyErr {
    Python::attach(|py| create(py, code, message, None, None))
}

fn create(
    py: Python<'_>,
    code: &str,
    message: &str,
    exception: Option<(&str, &str, &str)>,
    file: Option<(&str, &str)>,
) -> PyErr {
    static FROM_NATIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let created = FROM_NATIVE
        .get_or_try_init(py, || {
            let module = py.import(intern!(py, "isola._errors"))?;
            module.getattr(intern!(py, "from_native")).map(Bound::unbind)
        })
        .and_then(|from_native| from_native.call1(py, (code, message, exception, file)));
    match created {
        Ok(exception) => PyErr::from_value(exception.into_bound(py)),
        Err(error) => error,
    }
}

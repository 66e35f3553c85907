//! Errors of `crates/isola` as exceptions of the package.

use isola::Error;
use pyo3::{intern, prelude::*, sync::PyOnceLock};

/// The exception for an error, by its stable code. Which class has which code
/// is said in one place, `python/isola/_errors.py`.
pub fn from_error(py: Python<'_>, error: &Error) -> PyErr {
    let exception = error.exception().map(|exception| {
        (exception.name.as_str(), exception.message.as_str(), exception.traceback.as_str())
    });
    make(py, error.code(), &error.to_string(), exception)
}

/// The exception with this code and message.
pub fn raise(code: &str, message: &str) -> PyErr {
    Python::attach(|py| make(py, code, message, None))
}

fn make(py: Python<'_>, code: &str, message: &str, exception: Option<(&str, &str, &str)>) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = MAKE
        .get_or_try_init(py, || {
            let module = py.import(intern!(py, "isola._errors"))?;
            module.getattr(intern!(py, "from_native")).map(Bound::unbind)
        })
        .and_then(|make| make.call1(py, (code, message, exception)));
    match made {
        Ok(exception) => PyErr::from_value(exception.into_bound(py)),
        Err(error) => error,
    }
}

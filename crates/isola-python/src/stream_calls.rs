//! Calls with stream arguments: the script in the guest. The rest is in
//! `python/isola/_arguments.py` and `_dispatch.py`.

use isola::{Runtime, stream_calls};
use pyo3::{exceptions::PyValueError, prelude::*};

/// Returns the script that a guest needs before its first call with stream arguments, and
/// its file name.
#[pyfunction]
pub fn stream_helper(runtime: &str) -> PyResult<(&'static str, &'static str)> {
    let runtime: Runtime =
        runtime.parse().map_err(|error: isola::Error| PyValueError::new_err(error.to_string()))?;
    Ok(stream_calls::helper(runtime))
}

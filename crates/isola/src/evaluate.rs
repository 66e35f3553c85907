//! A piece of source code and the value of its last expression, as a notebook
//! or an agent's tool wants it.
//!
//! The interpreter's own compiler finds that expression, so a part of the work
//! is done by a helper that is loaded into the guest before its first use. Like
//! everything in a guest it is a convenience and no border.

use crate::runtime::Runtime;

/// The function that the helper defines.
pub(crate) const FUNCTION: &str = "__isola_evaluate__";

/// The helper's file name: one whose frames the Python guest leaves out of
/// tracebacks, like those of the event loop beneath user code.
pub(crate) const FILE: &str = "/lib/python3.14/asyncio/isola_evaluate.py";

/// The source of the helper.
pub(crate) fn helper(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => include_str!("evaluate/helper.py"),
        Runtime::JavaScript => include_str!("evaluate/helper.js"),
    }
}

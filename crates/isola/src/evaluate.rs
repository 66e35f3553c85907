//! Evaluation of source code that returns the value of its last expression, as
//! in a notebook or a tool of an agent.
//!
//! The interpreter's own compiler finds that expression, in a helper that is
//! loaded into the guest before its first use. Like all code in a guest, the
//! helper enforces nothing.

use crate::runtime::Runtime;

/// The name of the function that the helper defines.
pub(crate) const FUNCTION: &str = "__isola_evaluate__";

/// The file name of the helper, whose frames the Python guest omits from
/// tracebacks, like those of the event loop that runs user code.
pub(crate) const FILE: &str = "/lib/python3.14/asyncio/isola_evaluate.py";

/// Returns the source code of the helper.
pub(crate) fn helper(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => include_str!("evaluate/helper.py"),
        Runtime::JavaScript => include_str!("evaluate/helper.js"),
    }
}

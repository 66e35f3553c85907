//! Calls with stream arguments, for the packages of other languages: arguments over which
//! the guest iterates while the host adds values.
//!
//! Such a call is made through a function that a script defines in the guest before the
//! first of these calls. The function gets the name of the called one, and its positional
//! and named arguments, each as `[0, value]` or as `[1, token]` for a stream. It replaces
//! each stream by an iterable, which requests batches of values by a hostcall with the
//! token; the answer is `{"items": [...], "done": false}`. So nothing is sent that the guest
//! has not requested, and the contract between host and guest does not know streams. The
//! JavaScript guest replaces the name by the function, because a script cannot find the
//! exports of modules. Like all code in a guest, the script enforces nothing.

use crate::runtime::{Language, Runtime};

/// The name of the function that the script defines.
pub const FUNCTION: &str = "__isola_call__";

/// The hostcall that returns the next batch of a stream.
pub const HOSTCALL: &str = "isola.stream";

/// Returns the script that defines the function, and its file name. The guests omit
/// frames of this file from tracebacks, like those of their own code.
#[must_use]
pub fn helper(runtime: Runtime) -> (&'static str, &'static str) {
    match runtime.language() {
        Language::Python => {
            (include_str!("stream_calls/helper.py"), "/lib/python3.14/asyncio/isola_streams.py")
        }
        Language::JavaScript => (include_str!("stream_calls/helper.js"), "isola:guest/streams.js"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_use_the_names_of_the_host() {
        for runtime in [Runtime::Python, Runtime::JavaScript] {
            let (source, _) = helper(runtime);
            assert!(source.contains(FUNCTION) && source.contains(HOSTCALL), "{runtime}");
        }
    }
}

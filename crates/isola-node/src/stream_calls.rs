//! Calls with stream arguments: the script in the guest. The rest is in
//! `npm/isola-core/lib/stream-calls.js`.

use isola::{Runtime, stream_calls};
use napi_derive::napi;

use crate::failure::Failure;

/// A script, and its file name.
#[napi(object, object_from_js = false)]
pub struct Script {
    pub source: &'static str,
    pub file: &'static str,
}

/// Returns the script that a guest needs before its first call with stream arguments.
#[napi]
pub fn stream_helper(runtime: String) -> napi::Either<Script, Failure> {
    match runtime.parse::<Runtime>() {
        Ok(runtime) => {
            let (source, file) = stream_calls::helper(runtime);
            napi::Either::A(Script { source, file })
        }
        Err(error) => napi::Either::B(error.into()),
    }
}

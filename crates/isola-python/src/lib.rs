//! The native module of the Python package `isola`.
//!
//! It passes options to `crates/isola`, runs calls on a tokio runtime, and
//! delivers their outcomes to the event loop of the caller. The public API of the
//! package is in `python/isola`.
//!
//! | to change | start in |
//! |---|---|
//! | the public API, its checks and types | `python/isola` |
//! | the synchronous half | nothing: `cargo xtask generate` writes `python/isola/sync.py`. What it runs on is `python/isola/_blocking.py` |
//! | an option or limit | `python/isola/_options.py`, then `template.rs`, `limits.rs`, `mounts.rs` |
//! | an exception | `python/isola/_errors.py`, then `failure.rs` |
//! | how a call runs and its result is delivered | `bridge.rs`, `sandbox.rs` |
//! | handlers of hostcalls and HTTP | `host.rs`, `guard.rs`, `bodies.rs`; `python/isola/_dispatch.py` |
//! | events, values, snapshots | `events.rs`, `encode.rs`, `snapshot.rs` |
//! | files, code in contexts | `files.rs`, `code.rs`; `python/isola/_files.py`, `_code.py`, `_contexts.py` |
//!
//! What must stay true (the tests are in `tests/`):
//!
//! - Nothing here waits with the interpreter's lock held. A method starts a task
//!   and returns (a call after a quick one may have finished by then: see
//!   `isola::Call::start_inline`). (tests `test_processes`)
//! - All code of the embedder runs on its own event loop: the task ends by passing a
//!   callback to `loop.call_soon_threadsafe`. (tests `test_host`, `test_processes`)
//! - A native thread enters the interpreter only through `bridge::attach`, which is
//!   disabled when the process exits. (tests `test_processes`)
//! - After a fork, the child can use no object of its parent. (tests `test_processes`)
//! - The types accept what the tests use. (`check "python types"`)
//! - Errors and verbs are those of `crates/isola/api.json`. (tests `test_api`)

use pyo3::prelude::*;

mod bodies;
mod bridge;
mod code;
mod encode;
mod events;
mod failure;
mod files;
mod guard;
mod host;
mod limits;
mod mounts;
mod sandbox;
mod snapshot;
mod stream_calls;
mod template;

#[pymodule]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<bodies::BodyReader>()?;
    module.add_class::<bodies::BodyWriter>()?;
    module.add_class::<bridge::Task>()?;
    module.add_class::<events::EventStream>()?;
    module.add_class::<files::Files>()?;
    module.add_class::<host::HttpReply>()?;
    module.add_class::<host::Reply>()?;
    module.add_class::<sandbox::Sandbox>()?;
    module.add_class::<snapshot::Snapshot>()?;
    module.add_class::<template::Template>()?;
    module.add_function(wrap_pyfunction!(code::contexts, module)?)?;
    module.add_function(wrap_pyfunction!(code::create_context, module)?)?;
    module.add_function(wrap_pyfunction!(code::interrupt, module)?)?;
    module.add_function(wrap_pyfunction!(code::remove_context, module)?)?;
    module.add_function(wrap_pyfunction!(code::restart_context, module)?)?;
    module.add_function(wrap_pyfunction!(code::run_code, module)?)?;
    module.add_function(wrap_pyfunction!(encode::encode, module)?)?;
    module.add_function(wrap_pyfunction!(files::files_of, module)?)?;
    module.add_function(wrap_pyfunction!(snapshot::take_snapshot, module)?)?;
    module.add_function(wrap_pyfunction!(stream_calls::stream_helper, module)?)?;
    module.add_function(wrap_pyfunction!(template::build, module)?)?;
    module.add_function(wrap_pyfunction!(template::find, module)?)?;
    module.add_function(wrap_pyfunction!(bridge::check_process, module)?)?;
    let end = wrap_pyfunction!(bridge::end, module)?;
    module.py().import("atexit")?.call_method1("register", (end,))?;
    Ok(())
}

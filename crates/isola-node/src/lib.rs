//! The native part of the npm package `isola-core`.
//!
//! It converts arguments from JavaScript into calls of the crate `isola`, and
//! their results into plain values. The public API, which checks types and
//! options, is `npm/isola-core`; code shared by Node.js and Python is in `isola`.
//!
//! | to change | start in |
//! |---|---|
//! | the public API, its classes and types | `npm/isola-core/lib` |
//! | an option | `npm/isola-core/lib/options.js`, then `options.rs` |
//! | an error | `npm/isola-core/lib/errors.js`, then `failure.rs` |
//! | handlers of hostcalls and HTTP | `host.rs`, `exchange.rs` |
//! | calls, streams, snapshots | `sandbox.rs`, `stream.rs`, `snapshot.rs` |
//! | files, code in contexts | `files.rs`, `code.rs` |
//! | templates and runtimes | `template.rs` |
//!
//! What must stay true (the tests are in `test/`):
//!
//! - No function rejects: each returns a result or a `failure::Failure`, from which
//!   JavaScript creates an error of the right class.
//! - Callbacks into JavaScript are weak: they do not keep a process running that has
//!   nothing else to do. (tests `process`)
//! - A call starts on the thread of the event loop only if the previous one was quick,
//!   and stays there for at most two milliseconds: see `isola::Call::start_inline`.
//!   Otherwise calls run on napi's tokio runtime. (tests `process`)
//! - Values are passed as JSON texts, because the engine's own `JSON` reads and
//!   writes them faster than native code can walk its objects.
//! - The declarations accept right uses and refuse wrong ones. (`check "npm types"`)

// napi's macros generate the functions that Node.js calls, which are unsafe and
// undocumented. There is no other `unsafe` code.
#![allow(unsafe_code, missing_docs)]
// In test builds the macros omit the code that registers the functions, so they are unused.
#![cfg_attr(test, allow(dead_code))]

mod code;
mod exchange;
mod failure;
mod files;
mod host;
mod options;
mod runtime;
mod sandbox;
mod snapshot;
mod stream;
mod stream_calls;
mod template;

//! The native part of the npm package `isola-core`.
//!
//! This is glue: it turns what JavaScript hands over into calls of the crate
//! `isola`, and what comes of them into plain values. What users see, with its
//! checks of types and options, is `npm/isola-core`; what Node.js and Python
//! share is in `isola`.
//!
//! Values cross as JSON texts, which the engine's own `JSON` reads and writes
//! faster than any walk over its objects from outside. No function rejects:
//! each gives a result or a `failure::Failure`, from which JavaScript makes
//! the right class of error.
//!
//! Calls run on the tokio runtime of napi. On the thread of the event loop one
//! only begins, after a quick one and for two milliseconds at most: see
//! `isola::Call::start_inline`. Callbacks into JavaScript are weak: they do not keep a process
//! alive that has nothing else to do.

// napi's macros write the functions that Node.js calls, and those are unsafe.
// There is no `unsafe` beyond them, and they document nothing.
#![allow(unsafe_code, missing_docs)]
// Without Node.js nothing calls them: the macros leave out what registers them.
#![cfg_attr(test, allow(dead_code))]

mod exchange;
mod failure;
mod host;
mod options;
mod sandbox;
mod snapshot;
mod stream;
mod template;

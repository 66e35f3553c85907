//! Interpreters as sandboxes of the isorun server: Python and JavaScript of the crate
//! `isola`, in the server's own process.
//!
//! [`Interpreters`] creates, runs, saves and destroys them, by id. They need neither root
//! nor `runsc` nor an image, and are created in about a millisecond. An interpreter has
//! no processes, shells or ports; its HTTP requests pass the network policy of the
//! server, as the connections of a Linux sandbox do.
//!
//! | to change | start in |
//! |---|---|
//! | what the server asks for | `interpreters.rs` |
//! | code and contexts | `code.rs` |
//! | files | `files.rs` |
//! | one interpreter and its life cycle | `interpreter.rs` |
//! | the images, and the search for their runtimes | `image.rs`, `templates.rs` |
//! | limits | `spec.rs` |
//! | HTTP requests of a guest | `network.rs`; the rules are in `isorun-egress` |
//! | how tenants share CPU time | `turns.rs` |
//! | what is on disk | `checkpoint.rs` |
//!
//! What must stay true:
//!
//! - This is the only crate of isorun that depends on `isola`. (`check edges`)
//! - A guest runs on threads of its own runtime, never on those that serve requests, and
//!   tenants take turns of a few milliseconds. (unit tests of `turns.rs`; tests
//!   `interpreters` of `isorun`)
//! - A guest reaches the network only through the policy of its run. (tests
//!   `interpreters`)
//! - A client that disconnects ends no guest: operations are tasks. (tests
//!   `interpreters`)

mod checkpoint;
mod code;
mod error;
mod files;
mod image;
mod interpreter;
mod interpreters;
mod network;
mod spec;
mod templates;
mod turns;

pub use code::{Cell, ContextState};
pub use error::{Error, FileErrorKind, Result};
pub use files::ReadFile;
pub use image::InterpreterImage;
pub use interpreter::Usage;
pub use interpreters::Interpreters;
pub use isola::{CodeContext, CodeEvent};
pub use isorun_agent::SandboxId;
pub use spec::InterpreterSpec;

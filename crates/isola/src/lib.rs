//! A library that runs untrusted Python and JavaScript in your own process.
//!
//! A [`Template`] is an interpreter, CPython or SpiderMonkey, compiled to
//! WebAssembly. From it a [`Sandbox`] is created in milliseconds. A sandbox has
//! access only to what the embedder passes in: hostcalls and HTTP through a
//! [`Host`], directories through a [`Mount`], and environment variables, all
//! within [`Limits`].
//!
//! | to change | start in |
//! |---|---|
//! | the calls between guest and host | `wit/isola.wit`, then `guest/imports.rs` |
//! | what an embedder answers | `host.rs`, `http.rs`, `client.rs` |
//! | the life cycle of a sandbox, a call | `sandbox.rs`, `sandbox/call.rs` |
//! | the build of a template, the compile cache | `warm.rs`, `template.rs`, `cache.rs` |
//! | snapshots and forks | `snapshot.rs`, `state.rs`, `instrument.rs` |
//! | a limit | `limits.rs`; it is enforced in `cpu.rs`, `memory.rs`, `output.rs`, `pending.rs` |
//! | code in contexts, rich results, interrupts | `code.rs`, `code_event.rs`, `interrupt.rs` |
//! | files and mounts | `files.rs`, `mount.rs` |
//!
//! What must stay true:
//!
//! - A guest has only what the embedder passed in. (tests `isolation`)
//! - Values from a guest are validated here: its code can modify the runner. (tests
//!   `contract`, `bounds`)
//! - An idle guest holds no handle of the host, or it could not be copied. (tests
//!   `sandbox::idle`)
//! - A partially executed guest is never reused: a call that is cancelled, traps or
//!   exceeds a limit closes its sandbox. (tests `cancel`, `limits`)
//! - Every limit has a default, except wall time. (docs of [`Limits`])
//! - No type of wasmtime is in the public API. (review)
//! - Modules depend on each other in one direction. (`cargo xtask check edges`)
//!
//! # Lifecycle
//!
//! [`Template::builder`] → [`TemplateBuilder::build`] → [`Template::sandbox`] →
//! [`SandboxBuilder::create`] → [`Sandbox::start`] → [`Sandbox::load_script`] →
//! [`Sandbox::run`], any number of times → [`Sandbox::close`], or drop it.
//!
//! ```no_run
//! use isola::{Handlers, HostError, Runtime, Template, Value, args};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), isola::Error> {
//! let template = Template::builder(Runtime::Python).build().await?;
//!
//! let host = Handlers::new().hostcall("lookup_user", |payload: Value| async move {
//!     Ok::<_, HostError>(Value::from(serde_json::json!({ "id": payload, "name": "Ada" })))
//! });
//! let sandbox = template.sandbox().host(host).create().await?;
//! sandbox.start().await?;
//! sandbox
//!     .load_script(
//!         "from sandbox.asyncio import hostcall\n\
//!          async def greet(user_id):\n\
//!          \x20   user = await hostcall('lookup_user', user_id)\n\
//!          \x20   return f\"hello {user['name']}\"\n",
//!     )
//!     .await?;
//! let greeting: String = sandbox.run("greet", args![7]).await?.to()?;
//! assert_eq!(greeting, "hello Ada");
//! # Ok(())
//! # }
//! ```
//!
//! The API is async on tokio: build, create and run within a tokio runtime. A
//! guest runs on the thread that polls its call, yields every two milliseconds,
//! and stops when the call's future is dropped. To run sandboxes in parallel,
//! spawn their calls as tasks.

#[cfg(test)]
mod api;
mod args;
mod cache;
#[cfg(feature = "client")]
mod client;
mod clock;
pub mod code;
mod code_event;
mod contract;
mod cpu;
mod engine;
mod error;
mod event;
mod file_failure;
mod files;
mod guest;
mod host;
pub mod http;
mod instrument;
mod interrupt;
mod limits;
mod linear_memory;
mod memory;
mod mount;
mod output;
mod pending;
mod quick;
mod regular;
mod runtime;
mod sandbox;
mod snapshot;
mod state;
pub mod stream_calls;
mod template;
mod trust;
mod value;
mod warm;
mod wasi;

pub use args::Args;
pub use cache::{CacheEntry, clear_cache, default_cache_dir, list_cache};
#[cfg(feature = "client")]
pub use client::HttpClient;
pub use code::{CodeContext, CodeError, CodeEvent, CodeResult, CodeStream, Execution, RunCode};
pub use error::{
    Closed, Error, FileError, FileFailure, GuestException, HostError, Internal, Limit,
    LimitExceeded,
};
pub use event::{Event, Level, LogRecord};
pub use files::{FileEntry, FileKind, FileStat, SandboxFiles};
pub use host::{DenyAll, Handlers, Host};
pub use limits::Limits;
pub use mount::{Mount, Permission};
pub use quick::PollOutcome;
pub use runtime::{Language, Runtime, RuntimeSource};
pub use sandbox::{Answer, Call, EventStream, Sandbox, SandboxBuilder};
pub use snapshot::{Snapshot, SnapshotInfo, default_snapshot_dir, list_snapshots};
pub use template::{Template, TemplateBuilder};
pub use trust::private_dir;
pub use value::Value;

/// The examples of the documentation, which are run as tests.
#[cfg(doctest)]
mod documented {
    #[doc = include_str!("../../../README.md")]
    struct Readme;

    #[doc = include_str!("../README.md")]
    struct CrateReadme;

    #[doc = include_str!("../../../docs/isola/rust.md")]
    struct GettingStarted;

    #[doc = include_str!("../../../docs/isola/run-code.md")]
    struct RunCode;

    #[doc = include_str!("../../../docs/isola/snapshots.md")]
    struct Snapshots;

    #[doc = include_str!("../../../docs/isola/errors.md")]
    struct Errors;

    #[doc = include_str!("../../../docs/isola/http.md")]
    struct Http;

    #[doc = include_str!("../../../docs/isola/files.md")]
    struct Files;

    #[doc = include_str!("../../../docs/isola/mounts-and-env.md")]
    struct MountsAndEnv;

    #[doc = include_str!("../../../docs/guest/python/data.md")]
    struct Data;
}

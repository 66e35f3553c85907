//! The HTTP API of an isorun server, as its server and its clients share it: the
//! bodies of requests and responses, ids, and error codes. The server generates the
//! OpenAPI description from these types.
//!
//! | to change | start in |
//! |---|---|
//! | a run, its network, its statistics | `run.rs` |
//! | commands and terminals | `exec.rs` |
//! | code and contexts | `cell.rs` |
//! | forks, snapshots, shells | `state.rs` |
//! | usage and history, audit logs | `usage.rs`, `audit.rs` |
//! | an error code and its status | `code.rs`, and its list in `docs/isorun/http-api.md` |
//! | ids | `id.rs` |
//!
//! Then run `cargo xtask generate`. A route is added in `isorun-server`.
//!
//! What must stay true:
//!
//! - Names of fields, codes and events are an interface: existing clients depend on
//!   them. Every change is visible in `openapi/isorun.json`. (`check generated`)
//! - A body of a request refuses unknown fields, and its nested objects are not read
//!   from lists. (unit test `described_bodies_allow_no_additional_fields` of
//!   `isorun-server`; tests `unknown` of `isorun`; fuzz target `requests`)
//! - Values are validated by the server, not here: numbers have wide types, so that
//!   an error names the field.
//! - It depends on no other crate of this repository. (`check edges`)

mod audit;
mod cell;
mod code;
mod error;
mod exec;
mod id;
mod object;
mod run;
mod state;
mod usage;

pub use audit::AuditEntry;
pub use cell::{
    CodeError, CodeEvent, CodeRequest, CodeResult, Context, ContextChanged, ContextList,
    ContextRequest, ContextStatus, Execution, Logs,
};
pub use code::Code;
pub use error::ErrorBody;
pub use exec::{
    AttachInput, Command, Encoding, ExecEvent, ExecOutcome, ExecRequest, TerminalInput,
};
pub use id::{InvalidRunId, RunId, is_snapshot_id, random_hex, random_snapshot_id};
pub use run::{
    DestroyStats, Entries, Health, Network, NetworkChange, NetworkRules, NewRun, OnIdle, Patch,
    Profile, Readiness, Run, RunList, RunStats, Status, Written,
};
pub use state::{
    Deleted, ForkRequest, Forks, RestoreRequest, ShellInput, ShellOutput, Snapshot, SnapshotList,
    Taken,
};
pub use usage::{History, PastRun, Usage};

/// The response header with the permissions of a downloaded file, in octal.
pub const FILE_MODE: &str = "x-file-mode";

/// The default address of a server.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7676";

//! The HTTP API of an isorun server, as its server and its clients share it: the
//! bodies of requests and responses, ids, and error codes. The server generates the
//! OpenAPI description from these types.

mod audit;
mod code;
mod error;
mod exec;
mod id;
mod object;
mod run;
mod state;
mod usage;

pub use audit::AuditEntry;
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

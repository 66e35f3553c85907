//! The bodies of requests and responses, shared by server, client and OpenAPI.

mod audit;
mod error;
mod exec;
mod object;
mod run;
mod state;
mod usage;

pub use audit::AuditEntry;
pub use error::ErrorBody;
pub use exec::{
    AttachInput, Command, Encoding, ExecEvent, ExecOutcome, ExecRequest, TerminalInput,
};
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

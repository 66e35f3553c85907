//! Forks, snapshots and shell sessions of a run.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Run;
use crate::RunId;

/// A request to fork a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkRequest {
    /// Number of forks; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// The runs that were created by a fork.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Forks {
    /// The new runs.
    pub forks: Vec<Run>,
}

/// A snapshot that was just created.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Taken {
    /// The id: `snap` and 16 hex digits.
    pub snapshot_id: String,
    /// The run that it was taken from.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// Its size on the server's disk, in bytes.
    pub size_bytes: u64,
    /// The time of creation, as RFC 3339.
    pub created_at: String,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// The id: `snap` and 16 hex digits.
    pub id: String,
    /// The run that it was taken from.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// The image of that run.
    pub image: String,
    /// Its size on the server's disk, in bytes.
    pub size_bytes: u64,
    /// The time of creation, as RFC 3339.
    pub created_at: String,
}

/// The caller's snapshots, the oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// The snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// A request to create a run from a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The id of the snapshot.
    pub snapshot_id: String,
}

/// A snapshot that was deleted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// The id of the snapshot.
    pub id: String,
    /// `deleted`.
    pub status: String,
}

/// A text frame sent to `shell`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ShellInput {
    /// Runs a command. The previous one must have finished.
    Run {
        /// The command, as for `bash -c`.
        command: String,
        /// Timeout in seconds, after which the command is interrupted; 0 or -1 for none.
        #[serde(default)]
        timeout: Option<f64>,
    },
    /// Interrupts the running command.
    // With braces: serde accepts any field for a unit variant.
    Interrupt {},
    /// Ends the shell.
    Close {},
}

/// A text frame sent by `shell`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ShellOutput {
    /// The shell accepts commands. The session id allows reconnecting to it.
    Ready {
        /// The id of the session.
        session: String,
    },
    /// A command finished with this exit code.
    Result {
        /// The exit code of the command.
        exit_code: i32,
    },
    /// A command reached its timeout and was interrupted. The shell accepts the next one.
    Timeout {
        /// The message.
        error: String,
    },
    /// The shell exited with this code. This is the last frame.
    Closed {
        /// The exit code of the shell.
        exit_code: i32,
    },
    /// The shell was killed, or could not be started. This is the last frame.
    Error {
        /// The message.
        error: String,
        /// The code, as in the body of an error.
        code: String,
        /// The status that a response with this error has.
        status: u16,
    },
}

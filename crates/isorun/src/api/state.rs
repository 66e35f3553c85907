//! Copies of a run, and what is put away of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Run;
use crate::id::RunId;

/// How many copies.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkRequest {
    /// 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// The copies that were made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Forks {
    pub forks: Vec<Run>,
}

/// A snapshot that was taken.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Taken {
    /// `snap` and 16 hex digits.
    pub snapshot_id: String,
    /// Of which run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// What it takes on the server's disk.
    pub size_bytes: u64,
    /// When, as in RFC 3339.
    pub created_at: String,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// `snap` and 16 hex digits.
    pub id: String,
    /// Of which run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// The image of that run.
    pub image: String,
    /// What it takes on the server's disk.
    pub size_bytes: u64,
    /// When, as in RFC 3339.
    pub created_at: String,
}

/// The caller's snapshots, the oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    pub snapshots: Vec<Snapshot>,
}

/// What to make a run from.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// As it was told when the snapshot was taken.
    pub snapshot_id: String,
}

/// A snapshot that was deleted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    pub id: String,
    /// `deleted`.
    pub status: String,
}

/// A text frame to `shell`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ShellInput {
    /// Run a command, when the one before has ended.
    Run {
        command: String,
        /// Seconds until it is interrupted; 0 or -1 for never.
        #[serde(default)]
        timeout: Option<f64>,
    },
    /// Interrupt the command that runs.
    // With braces: of a variant without, serde takes any field.
    Interrupt {},
    /// End the shell.
    Close {},
}

/// A text frame of `shell`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ShellSays {
    /// It takes commands. The session's name is for who loses the connection.
    Ready { session: String },
    /// A command came to this.
    Result { exit_code: i32 },
    /// The time of a command was over. The shell takes the next one.
    Timeout { error: String },
    /// The shell has ended with this code. Nothing follows.
    Closed { exit_code: i32 },
    /// It was stopped, or never started. Nothing follows.
    Error { error: String, code: String, status: u16 },
}

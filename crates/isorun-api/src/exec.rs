//! Commands in a run: request, response, and streamed events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A shell command line, or a program and its arguments.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "`command` must be a string for the shell, or a list of strings: a program and its arguments"
)]
pub enum Command {
    /// A command line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, run without a shell.
    Program(Vec<String>),
}

/// A command to run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// A shell command line, or a program and its arguments.
    pub command: Command,
    /// Timeout in seconds, after which the command and its child processes are killed: 30 by
    /// default, 0 or -1 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// Additional environment variables for this command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The working directory; by default that of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The content of standard input; empty by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The encoding of output in the response: text, in which bytes that are not UTF-8 become
    /// U+FFFD, or base64.
    #[serde(default)]
    pub encoding: Encoding,
}

/// The encoding of output in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Text, in which bytes that are not UTF-8 become U+FFFD.
    #[default]
    Text,
    /// Base64.
    Base64,
}

/// The result of a command.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExecOutcome {
    /// The exit code, as a shell reports it: 128 plus the signal number if a signal killed the
    /// command.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// True if `stdout` was truncated because it was too long.
    #[serde(default)]
    pub stdout_truncated: bool,
    /// True if `stderr` was truncated because it was too long.
    #[serde(default)]
    pub stderr_truncated: bool,
}

/// A server-sent event of a command, or a text frame of a WebSocket. Its `type` is
/// also the name of the server-sent event.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ExecEvent {
    /// Standard output.
    Stdout {
        /// The output, in the requested encoding.
        data: String,
    },
    /// Standard error.
    Stderr {
        /// The output, in the requested encoding.
        data: String,
    },
    /// The command exited. This is the last event.
    Exit {
        /// The exit code, as a shell reports it.
        exit_code: i32,
    },
    /// The command was killed, or could not be started. This is the last event.
    Error {
        /// A message for people.
        error: String,
        /// A stable error code for programs.
        code: String,
        /// The HTTP status that a response without streaming would have.
        status: u16,
    },
}

/// A text frame sent to `exec/attach`. Binary frames are standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum AttachInput {
    /// Closes standard input.
    // With braces: serde accepts any field for a unit variant.
    Eof {},
    /// Sends a signal to the command and its child processes.
    Signal {
        /// The number of the signal.
        signal: i32,
    },
}

/// A text frame sent to `terminal`. Binary frames are terminal input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum TerminalInput {
    /// Changes the size of the terminal.
    Resize {
        /// The width in characters.
        cols: u16,
        /// The height in characters.
        rows: u16,
    },
}

//! Commands in a run: one request, one answer; or events as they happen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What to run: a line for the shell, or a program and its arguments.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "`command` is a text for the shell, or a list of texts: a program and its arguments"
)]
pub enum Command {
    /// Run by `/bin/sh -c`.
    Shell(String),
    /// Run as it is, without a shell.
    Program(Vec<String>),
}

/// A command to run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// A line for the shell, or a program and its arguments.
    pub command: Command,
    /// Seconds until it is killed with all that it started: 30 if not given, 0 or -1 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// More environment variables, for this command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The folder that it starts in; the image's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What it reads from its standard input, which then ends. Nothing if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// How output stands in the answer: as text, in which bytes that are not UTF-8 become U+FFFD,
    /// or as base64.
    #[serde(default)]
    pub encoding: Encoding,
}

/// How bytes stand in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Text; what is not UTF-8 becomes U+FFFD.
    #[default]
    Text,
    /// Every byte, as base64.
    Base64,
}

/// What became of a command.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExecOutcome {
    /// As a shell says it: 128 and the signal's number when a signal ended it.
    pub exit_code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it printed on its standard error.
    pub stderr: String,
    /// Whether the end of `stdout` is missing, because it was too long.
    #[serde(default)]
    pub stdout_truncated: bool,
    /// Whether the end of `stderr` is missing, because it was too long.
    #[serde(default)]
    pub stderr_truncated: bool,
}

/// One server-sent event of a command, and one text frame of a WebSocket. Its
/// `type` is also the name of the server-sent event.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ExecEvent {
    /// It printed something.
    Stdout {
        /// Text, or base64 if that was asked for.
        data: String,
    },
    /// It printed something on its standard error.
    Stderr {
        /// Text, or base64 if that was asked for.
        data: String,
    },
    /// It ended; nothing follows.
    Exit {
        /// As a shell says it.
        exit_code: i32,
    },
    /// It was stopped, or never started; nothing follows.
    Error {
        /// What was wrong.
        error: String,
        /// A stable name for programs.
        code: String,
        /// The HTTP status that an answer without a stream would have.
        status: u16,
    },
}

/// A text frame to `exec/attach`; a binary frame is standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum AttachInput {
    /// Standard input ends.
    // With braces: of a variant without, serde takes any field.
    Eof {},
    /// Send a signal to everything that the command started.
    Signal { signal: i32 },
}

/// A text frame to `terminal`; a binary frame is what was typed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum TerminalInput {
    /// The window has another size now.
    Resize { cols: u16, rows: u16 },
}

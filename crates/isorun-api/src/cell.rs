//! Code in the contexts of a run: request, result, and streamed events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Code to run in a context.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeRequest {
    /// The text of the cell.
    pub code: String,
    /// The language: `python` by default, `javascript`, or that of a Jupyter kernel of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The id of a context; by default the language's default context, which is created on first
    /// use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Timeout in seconds, after which the cell is interrupted: 30 by default, 0 or -1 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
}

/// The result of a cell. Code that raises an exception is a successful request with an `error`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Execution {
    /// The results in the order in which they were shown.
    pub results: Vec<CodeResult>,
    /// The output.
    pub logs: Logs,
    /// The error that ended the cell, if one did.
    pub error: Option<CodeError>,
    /// The number of the cell in its context, from 1.
    pub execution_count: u64,
}

/// A value in one or more MIME types.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CodeResult {
    /// MIME types and their data: base64 for binary types such as `image/png`, JSON values for
    /// JSON types, text for all others.
    #[schema(value_type = BTreeMap<String, Object>)]
    pub data: BTreeMap<String, Value>,
    /// Metadata of the value. `omitted` names types that were too large, `errors` types that
    /// could not be made.
    #[schema(value_type = BTreeMap<String, Object>)]
    pub metadata: BTreeMap<String, Value>,
    /// True for the value of the last expression.
    pub is_main_result: bool,
}

/// The output of a cell, as pieces of text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Logs {
    /// Standard output.
    pub stdout: Vec<String>,
    /// Standard error.
    pub stderr: Vec<String>,
}

/// The error that ended a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CodeError {
    /// The name of the exception; `TimeoutError` after a timeout, `ContextDied` if the interpreter
    /// exited.
    pub name: String,
    /// Its message.
    pub value: String,
    /// The traceback as in a terminal; may be empty.
    pub traceback: String,
}

/// A server-sent event of a cell. Its `type` is also the name of the server-sent event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum CodeEvent {
    /// Standard output.
    Stdout {
        /// The output.
        text: String,
    },
    /// Standard error.
    Stderr {
        /// The output.
        text: String,
    },
    /// A result.
    Result(CodeResult),
    /// The error that ended the cell.
    Error(CodeError),
    /// The cell ended. This is the last event.
    End {
        /// The number of the cell in its context, from 1.
        execution_count: u64,
    },
    /// The request failed after the response had started. This is the last event.
    Failure {
        /// A message for people.
        error: String,
        /// A stable error code for programs.
        code: String,
        /// The HTTP status that a response without streaming would have.
        status: u16,
    },
}

/// A context to create.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextRequest {
    /// The language: `python` by default, `javascript`, or that of a Jupyter kernel of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The working directory; by default that of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// A context: an interpreter that keeps its state from cell to cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Context {
    /// Its id.
    pub id: String,
    /// Its language.
    pub language: String,
    /// Its initial working directory; empty for that of the user.
    pub cwd: String,
    /// Its status.
    pub status: ContextStatus,
    /// The number of cells that were started since its interpreter was.
    pub execution_count: u64,
    /// The program that runs its cells: `python` or `node`, or the name of a Jupyter kernel.
    pub kernel: String,
}

/// The status of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContextStatus {
    /// It waits for a cell.
    Idle,
    /// It runs a cell, or starts.
    Busy,
    /// Its interpreter has exited. The next cell starts another one, without the variables.
    Dead,
}

impl ContextStatus {
    /// Returns the name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Dead => "dead",
        }
    }
}

/// The contexts of a run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ContextList {
    /// The contexts, by their ids.
    pub contexts: Vec<Context>,
}

/// A confirmation without further content.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ContextChanged {
    /// The id of the context.
    pub id: String,
    /// What was done: `interrupted` or `removed`.
    pub status: String,
}

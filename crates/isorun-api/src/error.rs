//! The body of error responses.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every error response. Clients may show only the start of the message,
/// so it starts with the cause.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// A message for people: what was wrong, where, and what to do.
    #[schema(example = "the run run0123456789abcdef does not exist or belongs to another tenant")]
    pub error: String,
    /// A stable error code for programs.
    #[schema(example = "run_not_found")]
    pub code: String,
    /// Standard output of a command up to the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Standard error of a command up to the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

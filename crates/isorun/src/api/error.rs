//! What went wrong, as every answer that is no success says it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every error. Clients show its beginning to people, so what was
/// wrong comes first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What was wrong, where, and what to do.
    #[schema(
        example = "there is no run run0123456789abcdef: it was never created, or is not yours"
    )]
    pub error: String,
    /// A stable name for programs.
    #[schema(example = "run_not_found")]
    pub code: String,
    /// What a command had printed before it was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// What a command had printed on its standard error before it was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

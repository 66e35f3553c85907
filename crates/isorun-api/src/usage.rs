//! Resource usage of a caller's runs, in total and for each past run.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::RunId;

/// Total resource usage of the caller's runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Number of runs that were not destroyed.
    pub active_sandboxes: u64,
    /// Number of destroyed runs.
    pub history_sandboxes: u64,
    /// Always 0: the server does not bill.
    pub active_cost_cents: f64,
    /// Always 0: the server does not bill.
    pub history_cost_cents: f64,
    /// Always 0: the server does not bill.
    pub total_cost_cents: f64,
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Reserved memory over time, in GiB seconds.
    pub mem_seconds: f64,
    /// The time of this report, as RFC 3339.
    pub as_of: String,
}

/// Destroyed runs, the latest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The runs, the latest first.
    pub sandboxes: Vec<PastRun>,
}

/// A destroyed run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PastRun {
    /// The id of the run.
    #[schema(value_type = String, example = "run0123456789abcdef")]
    pub id: RunId,
    /// The image of the run.
    pub image: String,
    /// CPUs.
    pub vcpus: u32,
    /// The memory limit in MiB.
    pub mem_mib: u64,
    /// The time that it took to create, in milliseconds.
    pub create_ms: u64,
    /// The time of creation, as RFC 3339.
    pub created_at: String,
    /// The time of destruction, as RFC 3339.
    pub destroyed_at: String,
    /// The time between creation and destruction, in milliseconds.
    pub uptime_ms: u64,
    /// CPU time, in milliseconds.
    pub cpu_ms: u64,
    /// The largest memory usage, in bytes.
    pub mem_peak_bytes: u64,
    /// Always 0: the server does not bill.
    pub cost_cents: f64,
    /// The reason of its destruction: a request, idleness, an unexpected exit, or a stop of the
    /// server.
    pub reason: String,
}

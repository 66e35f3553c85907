//! What a caller's runs used, over all of them and one by one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::RunId;

/// What all of the caller's runs used so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Runs that are there.
    pub active_sandboxes: u64,
    /// Runs that are gone.
    pub history_sandboxes: u64,
    /// Always 0: it is your machine.
    pub active_cost_cents: f64,
    /// Always 0: it is your machine.
    pub history_cost_cents: f64,
    /// Always 0: it is your machine.
    pub total_cost_cents: f64,
    /// CPU time that was used.
    pub cpu_seconds: f64,
    /// Memory that was reserved, in GiB, times the seconds for which it was.
    pub mem_seconds: f64,
    /// The moment that this describes, as in RFC 3339.
    pub as_of: String,
}

/// Runs that are gone, the latest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    pub sandboxes: Vec<PastRun>,
}

/// A run that is gone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PastRun {
    #[schema(value_type = String, example = "run0123456789abcdef")]
    pub id: RunId,
    pub image: String,
    pub vcpus: u32,
    pub mem_mib: u64,
    /// How long it took to create, in milliseconds.
    pub create_ms: u64,
    /// As in RFC 3339.
    pub created_at: String,
    /// As in RFC 3339.
    pub destroyed_at: String,
    pub uptime_ms: u64,
    pub cpu_ms: u64,
    pub mem_peak_bytes: u64,
    /// Always 0: it is your machine.
    pub cost_cents: f64,
    /// Why it is gone: destroyed by a request, idle, died, or the server stopped.
    pub reason: String,
}

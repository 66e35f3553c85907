//! An entry of a run's audit log.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// An event of a run. The HMAC covers all other fields and the HMAC of the previous
/// entry.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// The sequence number: 1, 2, 3 and so on, without gaps.
    pub seq: u64,
    /// The time of the event, as RFC 3339 with microseconds.
    pub ts: String,
    /// The id of the run.
    #[schema(example = "run0123456789abcdef")]
    pub sandbox_id: String,
    /// The name of the event, such as `exec.start`.
    pub event: String,
    /// The details of the event. Kept byte for byte, since the HMAC covers the bytes.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
    /// The HMAC, in hex.
    pub hmac: String,
}

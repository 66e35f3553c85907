//! One line of a run's audit log.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Something that happened to a run. The hmac is made from all the other fields
/// and from the hmac of the entry before.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// 1, 2, 3 and so on, without a gap.
    pub seq: u64,
    /// As in RFC 3339, with microseconds.
    pub ts: String,
    #[schema(example = "run0123456789abcdef")]
    pub sandbox_id: String,
    /// Such as `exec.start`.
    pub event: String,
    /// What there is to say about it. Kept as it was written: the hmac covers its very bytes.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
    pub hmac: String,
}

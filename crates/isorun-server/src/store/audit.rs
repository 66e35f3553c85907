//! Audit logs, one for each run. Each entry is chained to the previous one.

use async_trait::async_trait;

use super::StoreError;
use isorun_api::RunId;

/// An entry of an audit log.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// The id of the run.
    pub run_id: String,
    /// The number of the entry in the log of its run, from 1.
    pub seq: u64,
    /// The time, as RFC 3339.
    pub ts: String,
    /// The name of the event.
    pub event: String,
    /// Event data, as JSON.
    pub data: String,
    /// The HMAC of the entry and of the previous HMAC, in hex digits.
    pub hmac: String,
}

/// The end of a log, to which the next entry is chained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    pub seq: u64,
    pub hmac: String,
}

/// The entries of all audit logs of a database.
#[async_trait]
pub trait AuditTable: Send + Sync {
    /// Adds an entry.
    async fn add_audit(&self, entry: AuditRow) -> Result<(), StoreError>;

    /// Returns up to `limit` entries of a run with sequence numbers above `after`, in order.
    async fn audit(&self, run: &RunId, after: u64, limit: u32)
    -> Result<Vec<AuditRow>, StoreError>;

    /// Returns the end of a run's log.
    async fn audit_end(&self, run: &RunId) -> Result<LogState, StoreError>;

    /// Returns the ids of all runs that have a log or a row, with true for those that were
    /// destroyed.
    async fn audited_runs(&self) -> Result<Vec<(String, bool)>, StoreError>;
}

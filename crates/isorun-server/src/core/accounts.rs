//! The accounts of the resources that callers use: requests, memory, pulls, snapshots,
//! and connections into sandboxes. Each has a total, and a share for each tenant.

pub mod agent_connections;
pub mod ledger;
pub mod request_rates;
mod snapshot_quota;

use std::sync::Arc;

use self::{ledger::Ledger, request_rates::RequestRates, snapshot_quota::SnapshotQuota};
use crate::config::Limits;

/// The maximum number of concurrent requests for the server's metrics. They have a
/// separate limit, so that the operator can diagnose a server whose other limit is reached.
const MAX_OPERATOR_REQUESTS: u64 = 32;

/// The accounts of the resources that callers use.
pub struct Accounts {
    /// The rates of requests of all keys.
    pub rates: Arc<RequestRates>,
    /// Requests in flight.
    pub requests: Arc<Ledger>,
    /// Requests for the server's metrics in flight.
    pub operator: Arc<Ledger>,
    /// Bytes of request and response bodies that are held in memory.
    pub memory: Arc<Ledger>,
    /// Image pulls in progress.
    pub pulls: Arc<Ledger>,
    pub snapshots: SnapshotQuota,
    /// File descriptors of connections into sandboxes.
    pub descriptors: Arc<Ledger>,
}

impl Accounts {
    pub fn new(limits: &Limits, in_cluster: bool) -> Self {
        let share = limits.server.tenant_share;
        let requests = u64::try_from(limits.in_flight).unwrap_or(u64::MAX);
        Self {
            rates: Arc::new(RequestRates::new(limits.requests, in_cluster)),
            requests: Ledger::new("requests in flight", "--max-requests", requests, share),
            operator: Ledger::new(
                "requests for metrics in flight",
                "a fixed limit",
                MAX_OPERATOR_REQUESTS,
                100,
            ),
            memory: Ledger::new(
                "bytes of request and response bodies in memory",
                "--max-held-memory-mib",
                limits.server.held_memory,
                share,
            ),
            pulls: Ledger::new(
                "image pulls in progress",
                "--max-pulls",
                limits.server.pulls,
                share,
            ),
            snapshots: SnapshotQuota::new(limits.server.snapshots, share),
            descriptors: agent_connections::ledger(&limits.server.descriptors, share),
        }
    }
}

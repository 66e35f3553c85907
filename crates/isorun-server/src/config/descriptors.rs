//! The budget of the process's file descriptors. A process that has none left can
//! neither accept a connection nor open its database.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The sixteenths of the limit that belong to clients, to connections into sandboxes
/// (commands, transfers, URLs), to connections that sandboxes open, and to sandboxes
/// themselves. The rest is for the server.
const CLIENT_PARTS: u64 = 4;
const AGENT_PARTS: u64 = 4;
const NETWORK_PARTS: u64 = 4;
const SANDBOX_PARTS: u64 = 3;
const PARTS: u64 = 16;

/// The descriptors of a sandbox without connections.
const PER_SANDBOX: u64 = 6;

/// The maximum default number of client connections.
const MAX_CLIENT_CONNECTIONS: u64 = 16_384;

/// The maximum number of descriptors for the network of one sandbox.
const MAX_PER_NETWORK: u64 = 2048;

/// The limits of descriptors by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBudget {
    /// The limit of the process.
    pub limit: u64,
    /// For connections of clients.
    pub clients: u64,
    /// For connections into sandboxes.
    pub agent_connections: u64,
    /// For connections that all sandboxes open.
    pub networks: u64,
    /// For connections that one sandbox opens.
    pub per_network: u64,
    /// The number of sandboxes, not of descriptors.
    pub sandboxes: u64,
}

/// Raises the process's soft limit to its hard limit, and returns it.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current.unwrap_or(u64::MAX);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            current.unwrap_or(u64::MAX)
        }
    }
}

impl DescriptorBudget {
    /// Divides a number of descriptors.
    pub fn new(limit: u64) -> Self {
        let part = |parts| limit / PARTS * parts;
        let networks = part(NETWORK_PARTS);
        Self {
            limit,
            clients: part(CLIENT_PARTS).min(MAX_CLIENT_CONNECTIONS),
            agent_connections: part(AGENT_PARTS),
            networks,
            per_network: (networks / 8).clamp(16, MAX_PER_NETWORK),
            sandboxes: part(SANDBOX_PARTS) / PER_SANDBOX,
        }
    }

    /// Reports whether `open` descriptors leave too few for the server itself.
    pub fn is_low(&self, open: u64) -> bool {
        let reserve = self.limit / PARTS;
        self.limit.saturating_sub(open) < reserve / 2
    }
}

/// Returns the number of descriptors that the process has open.
pub fn open_descriptors() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    u64::try_from(entries.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_budget_stays_below_the_limit() {
        for limit in [256, 1024, 20_000, 1 << 20, 1 << 40] {
            let budget = DescriptorBudget::new(limit);
            let parts = budget.clients
                + budget.agent_connections
                + budget.networks
                + budget.sandboxes * PER_SANDBOX;
            assert!(parts <= limit - limit / 16, "{budget:?}");
            assert!(budget.per_network <= budget.networks / 2, "{budget:?}");
            assert!(budget.is_low(limit) && !budget.is_low(parts), "{budget:?}");
        }
    }

    #[test]
    fn soft_limit_is_raised_to_the_hard_limit() {
        let raised = raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!((current, current.unwrap_or(u64::MAX)), (maximum, raised));
        assert!(open_descriptors().unwrap() < raised);
    }
}

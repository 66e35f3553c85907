//! What a node reports of itself with every renewal of its lease.

use super::super::{Core, guard::Amounts};
use crate::{
    config::{Config, machine_memory, share_of},
    core::engines::Engines,
    store::NodeReport,
};

/// Returns the report of this server. `url` is where other nodes reach it.
pub fn measure(config: &Config, engines: &Engines, url: &str) -> NodeReport {
    let limits = &config.limits;
    let free = Amounts::free(&config.data_dir);
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    NodeReport {
        url: url.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        has_linux: engines.linux_unavailable().is_none(),
        interpreters: engines.offered_images().into_iter().map(str::to_owned).collect(),
        cpus,
        busy_cpus_permille: runnable_permille(),
        mem_bytes: machine_memory(),
        mem_free_bytes: free.memory.saturating_sub(limits.server.mem_reserve),
        disk_free_bytes: free.disk.saturating_sub(limits.server.disk_reserve),
        pooled: config.warm as u64,
        max_sandboxes: limits.server.sandboxes,
        max_tenant_runs: limits.runs as u64,
        max_tenant_snapshots: share_of(limits.server.snapshots, limits.server.tenant_share),
    }
}

/// Returns the load average of the last minute, in thousandths.
fn runnable_permille() -> u64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    (load.unwrap_or_default() * 1000.0) as u64
}

impl Core {
    /// Returns the report of this node; `None` if it is not in a cluster.
    pub fn node_report(&self) -> Option<NodeReport> {
        let url = self.node_url.as_deref()?;
        Some(measure(&self.config, &self.engines, url))
    }
}

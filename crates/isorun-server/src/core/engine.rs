//! Setup of the server's sandbox engine.

use std::sync::Arc;

use anyhow::{Context, Result};
use isorun_egress::{Observer, context::ProxyOptions};
use isorun_engine::{
    Engine, Root, SandboxSpec,
    gvisor::{self, Gvisor},
};

use crate::config::{self, Config};

/// Opens the engine, and starts to create sandboxes in advance. Blocked connections are
/// reported to the observer.
pub async fn start(server: &Config, observer: Arc<dyn Observer>) -> Result<Arc<dyn Engine>> {
    let mut setup = gvisor::GvisorConfig::new(server.data_dir.join("engine"));
    setup.warm = server.warm;
    setup.warm_created = server.warm_copies;
    let division = server.limits.server.descriptors;
    let as_usize = |descriptors: u64| usize::try_from(descriptors).unwrap_or(usize::MAX);
    setup.network = ProxyOptions {
        resolvers: server.network.resolvers.clone(),
        permitted: server.network.permitted.clone(),
        extra_roots: server.network.extra_roots.clone(),
        observer: Some(observer),
        response_timeout: server.network.credential_timeout,
        max_descriptors: Some(as_usize(division.networks)),
        max_descriptors_per_sandbox: as_usize(division.per_network),
    };
    let hint = "cannot run sandboxes here: `isorun doctor` reports what is missing";
    let engine = Gvisor::open(setup).await.context(hint)?;
    if server.warm > 0 {
        // The defaults are the most common request.
        engine.warm(&SandboxSpec {
            vcpus: config::DEFAULT_VCPUS.min(server.limits.vcpus),
            mem_mib: config::DEFAULT_MEM_MIB.min(server.limits.mem_mib),
            disk_mib: config::DEFAULT_DISK_MIB.min(server.limits.disk_mib),
            pids: server.limits.pids,
            ..SandboxSpec::new("warm".parse()?, Root::Host)
        });
    }
    Ok(Arc::new(engine))
}

//! The engine that a server uses.

use std::sync::Arc;

use anyhow::{Context, Result};
use isorun_engine::{
    Engine, Root, SandboxSpec,
    gvisor::{self, Gvisor},
    network::gate::Options,
};

use super::{Config, config};

pub async fn start(server: &Config) -> Result<Arc<dyn Engine>> {
    let mut setup = gvisor::Config::new(server.data_dir.join("engine"));
    setup.warm = server.warm;
    setup.blank = server.warm_copies;
    let division = server.limits.server.division;
    let most = |descriptors: u64| usize::try_from(descriptors).unwrap_or(usize::MAX);
    setup.network = Options {
        resolvers: server.network.resolvers.clone(),
        permitted: server.network.permitted.clone(),
        extra_roots: server.network.extra_roots.clone(),
        observer: Some(Arc::new(server.network.blocks.clone())),
        patience: server.network.patience,
        max_descriptors: Some(most(division.networks)),
        max_descriptors_per_sandbox: most(division.per_network),
    };
    let hint = "cannot run sandboxes here: `isorun doctor` says what is missing";
    let engine = Gvisor::open(setup).await.context(hint)?;
    if server.warm > 0 {
        // What most ask for first.
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

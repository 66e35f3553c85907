//! Setup of the server's engines.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use isorun_egress::{
    Observer,
    context::{ProxyContext, ProxyOptions},
};
use isorun_engine::{
    Engine, Error, Root, SandboxSpec,
    gvisor::{self, Gvisor},
};
use isorun_interpreter::{InterpreterImage, Interpreters};

use super::engines::Engines;
use crate::config::{self, Config};

/// Opens the engines, and starts to create sandboxes in advance. Blocked connections are
/// reported to the observer. On a machine that cannot run Linux sandboxes, the server has
/// interpreters only.
pub async fn start(server: &Config, observer: Arc<dyn Observer>) -> Result<Engines> {
    let network = proxy_options(server, observer);
    let has_runtime = |image: &InterpreterImage| Interpreters::find_runtime(*image).is_ok();
    let offered: Vec<_> = InterpreterImage::ALL
        .into_iter()
        .filter(has_runtime)
        .filter(|_| server.interpreters)
        .collect();
    let hint = "cannot run sandboxes here: `isorun doctor` reports what is missing";
    let (linux, proxies) = match open_gvisor(server, network.clone()).await {
        Ok(engine) => {
            let proxies = engine.proxies();
            (Ok(Arc::new(engine) as Arc<dyn Engine>), proxies)
        }
        Err(Error::Setup(why)) => {
            if offered.is_empty() {
                let missing = Interpreters::find_runtime(InterpreterImage::Python);
                let missing = missing.map_or_else(|error| error.to_string(), |_| String::new());
                bail!("{hint}: {why}; {missing}");
            }
            tracing::warn!(why, ?offered, "no Linux sandboxes on this machine, only interpreters");
            let proxies = ProxyContext::new(&network).map_err(anyhow::Error::msg).context(hint)?;
            (Err(why), proxies)
        }
        Err(error) => return Err(error).context(hint),
    };
    let interpreters = Interpreters::open(proxies, server.data_dir.join("interpreters"))?;
    if server.warm > 0 {
        for image in offered.iter().copied().filter(|image| image.is_preloaded()) {
            let interpreters = Arc::clone(&interpreters);
            tokio::spawn(async move {
                if let Err(error) = interpreters.preload(image).await {
                    tracing::warn!(%error, %image, "cannot load a runtime");
                }
            });
        }
    }
    Ok(Engines::new(linux, interpreters, offered))
}

fn proxy_options(server: &Config, observer: Arc<dyn Observer>) -> ProxyOptions {
    let division = server.limits.server.descriptors;
    let as_usize = |descriptors: u64| usize::try_from(descriptors).unwrap_or(usize::MAX);
    ProxyOptions {
        resolvers: server.network.resolvers.clone(),
        permitted: server.network.permitted.clone(),
        extra_roots: server.network.extra_roots.clone(),
        observer: Some(observer),
        response_timeout: server.network.credential_timeout,
        max_descriptors: Some(as_usize(division.networks)),
        max_descriptors_per_sandbox: as_usize(division.per_network),
    }
}

async fn open_gvisor(server: &Config, network: ProxyOptions) -> Result<Gvisor, Error> {
    let mut setup = gvisor::GvisorConfig::new(server.data_dir.join("engine"));
    setup.warm = server.warm;
    setup.warm_created = server.warm_copies;
    setup.network = network;
    let engine = Gvisor::open(setup).await?;
    if server.warm > 0
        && let Ok(id) = "warm".parse()
    {
        // The defaults are the most common request.
        engine.warm(&SandboxSpec {
            vcpus: config::DEFAULT_VCPUS.min(server.limits.vcpus),
            mem_mib: config::DEFAULT_MEM_MIB.min(server.limits.mem_mib),
            disk_mib: config::DEFAULT_DISK_MIB.min(server.limits.disk_mib),
            pids: server.limits.pids,
            ..SandboxSpec::new(id, Root::Host)
        });
    }
    Ok(engine)
}

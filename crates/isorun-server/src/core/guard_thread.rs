//! The thread that measures the machine and all sandboxes for the [`guard`](super::guard),
//! terminates the sandboxes that it chooses, and divides CPU time between tenants. It is
//! separate from the asynchronous tasks, so that it continues when the server is
//! overloaded.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use isorun_api::Status;
use isorun_engine::Error;
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    Core,
    cpu_weights::{CpuWeights, Measured},
    destroy,
    guard::{Amounts, Candidate, choose_victim},
    live_run::LiveRun,
};
use crate::config::open_descriptors;

/// The interval between measurements of the free resources.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// The number of ticks between measurements of all sandboxes.
const TICKS_PER_SURVEY: u32 = 10;
/// The number of ticks between measurements of the stored data.
const TICKS_PER_STORAGE_SURVEY: u32 = 50;
/// The maximum wait for a terminated sandbox before the next one is terminated.
const VICTIM_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the thread, which runs as long as the server exists.
pub fn start(core: &Arc<Core>) -> std::io::Result<()> {
    let (runtime, core) = (Handle::current(), Arc::downgrade(core));
    thread::Builder::new().name("guard".to_owned()).spawn(move || monitor(&core, &runtime))?;
    Ok(())
}

/// Measures and terminates sandboxes until the server stops.
fn monitor(core: &Weak<Core>, runtime: &Handle) {
    let mut weights = CpuWeights::default();
    // The stored data of each tenant, in bytes.
    let mut stored: HashMap<String, u64> = HashMap::new();
    // Not waited for: a database that does not respond must not delay the other measurements.
    let mut measuring_stored: Option<JoinHandle<HashMap<String, u64>>> = None;
    let mut ending_victim: Option<(Instant, JoinHandle<()>)> = None;
    for tick in 0_u32.. {
        thread::sleep(TICK_INTERVAL);
        let Some(core) = core.upgrade() else { return };
        if core.stopping.is_cancelled() {
            return;
        }
        let guard = &core.guard;
        let surveys = tick % TICKS_PER_SURVEY == 0;
        let is_short_of_descriptors =
            surveys.then(|| open_descriptors().is_some_and(|open| guard.budget.is_low(open)));
        let short_of =
            guard.set_free(Amounts::free(&core.config.data_dir), is_short_of_descriptors);
        if short_of.is_empty() && !surveys {
            continue;
        }
        if let Some(measured) = measuring_stored.take_if(|measuring| measuring.is_finished()) {
            stored = runtime.block_on(measured).unwrap_or_default();
        }
        if tick % TICKS_PER_STORAGE_SURVEY == 0 && measuring_stored.is_none() {
            let core = Arc::clone(&core);
            measuring_stored = Some(runtime.spawn(async move { measure_stored(&core).await }));
        }
        let sandboxes = runtime.block_on(measure_sandboxes(&core));
        if surveys {
            runtime.block_on(divide_cpu_time(&core, &mut weights, &sandboxes));
        }
        let mut tenants: HashMap<String, Amounts> = HashMap::new();
        for (tenant, bytes) in &stored {
            let disk = Amounts { disk: *bytes, ..Amounts::default() };
            tenants.entry(tenant.clone()).or_default().add(disk);
        }
        for sandbox in &sandboxes {
            tenants.entry(sandbox.tenant.clone()).or_default().add(sandbox.uses);
        }
        guard.set_used(tenants.clone());
        if ending_victim.as_ref().is_some_and(|(since, ending)| {
            !ending.is_finished() && since.elapsed() < VICTIM_EXIT_TIMEOUT
        }) {
            continue;
        }
        let Some((victim, why)) = choose_victim(guard, &short_of, &sandboxes, &tenants) else {
            continue;
        };
        tracing::warn!(run = %victim.id, tenant = victim.tenant, why, "terminating a sandbox");
        let ending = runtime.spawn({
            let core = Arc::clone(&core);
            async move { destroy::fail(&core, &victim, &why).await }
        });
        ending_victim = Some((Instant::now(), ending));
    }
}

/// Measures the use of each running sandbox.
async fn measure_sandboxes(core: &Core) -> Vec<Candidate<Arc<LiveRun>>> {
    let mut candidates = Vec::new();
    for run in core.runs.list(None) {
        if run.status() != Status::Running || run.is_suspended() {
            continue;
        }
        // A sandbox that exits meanwhile uses nothing.
        if let Ok(stats) = core.engines.stats(&run.sandbox).await {
            let tenant = run.tenant.clone();
            let cpu_ms = stats.cpu_ms;
            candidates.push(Candidate { sandbox: run, tenant, uses: stats.into(), cpu_ms });
        }
    }
    candidates
}

/// Divides CPU time between tenants, by the weights of their sandboxes.
async fn divide_cpu_time(
    core: &Core,
    weights: &mut CpuWeights,
    candidates: &[Candidate<Arc<LiveRun>>],
) {
    let measured: Vec<_> = candidates
        .iter()
        .map(|candidate| Measured {
            sandbox: candidate.sandbox.sandbox.clone(),
            tenant: candidate.tenant.clone(),
            cpu_ms: candidate.cpu_ms,
        })
        .collect();
    for (sandbox, weight) in weights.update(&measured) {
        // A sandbox may have ended since it was measured.
        match core.engines.set_cpu_weight(&sandbox, weight).await {
            Ok(()) | Err(Error::NotFound(_) | Error::Dead { .. }) => {}
            Err(error) => tracing::error!(%sandbox, %error, "cannot set a CPU weight"),
        }
    }
}

/// Returns the disk space of the snapshots, hibernated runs, images and audit logs of each
/// tenant, in bytes.
async fn measure_stored(core: &Core) -> HashMap<String, u64> {
    let mut stored = core.store.stored_bytes().await.unwrap_or_default();
    let mut images = core.images.digests();
    for (tenant, digest, bytes) in core.store.pulled_images().await.unwrap_or_default() {
        // An image that several tenants use is counted once.
        if images.remove(&digest) {
            *stored.entry(tenant).or_default() += bytes;
        }
    }
    for run in core.runs.list(None).into_iter().filter(|run| run.is_suspended()) {
        let state_dirs = core.state_dirs.clone();
        let (id, tenant) = (run.id.clone(), run.tenant.clone());
        let measured = tokio::task::spawn_blocking(move || state_dirs.hibernated_bytes(&id)).await;
        *stored.entry(tenant).or_default() += measured.unwrap_or_default();
    }
    stored
}

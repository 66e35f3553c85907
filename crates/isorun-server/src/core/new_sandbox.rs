//! The one path that makes a sandbox: for new runs, forks and restored snapshots.

use std::{path::Path, sync::Arc, time::Instant};

use isorun_api::{RunId, Status};
use isorun_engine::SandboxId;
use serde_json::{Value, json};

use super::{
    Core,
    engines::Spec,
    error::Error,
    images::ImageSource,
    live_run::LiveRun,
    monitor,
    network::{self, Settings},
    runs::Reservation,
};
use crate::{
    clock::millis,
    store::{AuditLog, Event, RunRow, RunSettings},
};

/// The origin of a new sandbox.
pub enum Origin<'a> {
    /// The files of an image.
    Image(&'a ImageSource),
    /// A checkpoint of an earlier sandbox.
    Checkpoint {
        dir: &'a Path,
        /// The sandbox or snapshot that keeps the image in use.
        image_holder: &'a str,
        /// The limit of processes of the earlier sandbox, if it is not the server's.
        pids: Option<u32>,
        /// Additional fields for the audit log.
        details: Value,
    },
}

/// Makes a sandbox, and registers and monitors its run, which takes one of the reserved
/// slots. `started` is the beginning of the creation.
pub async fn make(
    core: &Arc<Core>,
    reservation: &Reservation<'_>,
    settings: RunSettings,
    origin: Origin<'_>,
    started: Instant,
) -> Result<Arc<LiveRun>, Error> {
    let id = RunId::random().map_err(|error| Error::internal("cannot create a run id", error))?;
    let sandbox: SandboxId =
        id.as_str().parse().map_err(|error| Error::internal("cannot name the sandbox", error))?;
    let mut row = RunRow::new(id.clone(), settings);
    let network = Settings::load(&row.network, &core.secret);
    // Its row is not taken for that of a run whose creation has failed.
    let _creation = core.runs.begin_creation(&id);
    // Before the sandbox exists, so that it is found by its row after a crash.
    core.store.add_run(row.clone()).await?;
    let details = match start(core, &row, &sandbox, &network, origin).await {
        Ok(details) => details,
        Err(error) => {
            core.images.release(id.as_str());
            core.store.delete_run(&id).await?;
            return Err(error);
        }
    };
    row.create_ms = millis(started.elapsed());
    let run = register(core, row, sandbox, network, details).await?;
    reservation.hand_over();
    monitor::start(core, &run);
    core.metrics.created.inc();
    Ok(run)
}

/// Starts the sandbox. Returns fields for the audit log about its origin.
async fn start(
    core: &Core,
    row: &RunRow,
    sandbox: &SandboxId,
    network: &Settings,
    origin: Origin<'_>,
) -> Result<Value, Error> {
    match origin {
        Origin::Image(source) => {
            core.images.hold(sandbox.as_str(), source)?;
            let spec = core.spec(row, sandbox.clone(), source.base.clone(), network);
            let is_linux = matches!(spec, Spec::Linux(_));
            let created = core.engines.create(spec).await;
            created.map_err(|error| Error::engine("cannot create the sandbox", error))?;
            if !is_linux {
                return Ok(json!({}));
            }
            let installed = network::install(&core.engines, sandbox, &network.credentials).await;
            if installed.is_err()
                && let Err(error) = core.engines.destroy(sandbox).await
            {
                tracing::error!(%error, run = %row.id, "cannot destroy a sandbox");
            }
            installed.map(|()| json!({}))
        }
        Origin::Checkpoint { dir, image_holder, pids, details } => {
            let base = core.copy_base(&row.image, row.id.as_str(), image_holder)?;
            let mut spec = core.spec(row, sandbox.clone(), base, network);
            if let Some(pids) = pids {
                spec.set_pids(pids);
            }
            let restored = core.engines.restore(spec, dir).await;
            restored.map_err(|error| {
                Error::engine("cannot restore the sandbox from its checkpoint", error)
            })?;
            Ok(details)
        }
    }
}

/// Registers a run whose sandbox is running. `origin` has additional fields for the audit
/// log.
async fn register(
    core: &Core,
    mut row: RunRow,
    sandbox: SandboxId,
    network: Settings,
    origin: Value,
) -> Result<Arc<LiveRun>, Error> {
    let id = row.id.clone();
    row.status = Status::Running;
    let log = AuditLog::new(id.clone(), core.store.clone(), core.secret.clone());
    let recorded = async {
        core.store.run_started(&id, row.create_ms).await?;
        let mut details = json!({
            "image": row.image, "digest": row.digest, "vcpus": row.vcpus,
            "mem_mib": row.mem_mib, "disk_mib": row.disk_mib,
        });
        if let (Some(fields), Some(origin)) = (details.as_object_mut(), origin.as_object()) {
            fields.extend(origin.clone());
        }
        log.append(Event::Created, details).await
    };
    if let Err(error) = recorded.await {
        // No sandbox may run without a record.
        if let Err(error) = core.engines.destroy(&sandbox).await {
            tracing::error!(%error, run = %id, "cannot destroy a sandbox");
        }
        core.images.release(sandbox.as_str());
        return Err(error.into());
    }
    let run = Arc::new(LiveRun::new(row, sandbox, log, core.config.limits.execs, network));
    core.runs.insert(Arc::clone(&run));
    tracing::info!(run = %run.id, image = run.row.image, ms = run.row.create_ms, "created");
    Ok(run)
}

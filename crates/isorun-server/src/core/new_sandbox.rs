//! The one path that makes a sandbox: for new runs, forks and restored snapshots.

use std::{path::Path, sync::Arc, time::Instant};

use isorun_api::{OnIdle, RunId, Status};
use isorun_engine::SandboxId;
use serde_json::{Value, json};

use super::{
    Core,
    error::Error,
    images::ImageSource,
    live_run::LiveRun,
    monitor,
    network::{self, Settings},
    runs::Reservation,
};
use crate::{
    clock::{self, millis},
    store::{AuditLog, Event, ResourceUsage, RunRow, SnapshotRow},
};

/// The settings of a new run, which forks and restored runs take over from the original.
pub struct RunSettings {
    pub tenant: String,
    pub image: String,
    /// The digest of the image; empty for `host`.
    pub digest: String,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    pub timeout_ms: u64,
    /// The stored form of [`Defaults`](super::live_run::Defaults).
    pub defaults: String,
    /// The stored form of [`Settings`].
    pub network: String,
    pub on_idle: OnIdle,
    pub auto_resume: bool,
}

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

impl RunSettings {
    /// Returns the settings of a run for its copies.
    pub fn of_run(row: &RunRow) -> Self {
        let row = row.clone();
        Self {
            tenant: row.tenant,
            image: row.image,
            digest: row.digest,
            vcpus: row.vcpus,
            mem_mib: row.mem_mib,
            disk_mib: row.disk_mib,
            timeout_ms: row.timeout_ms,
            defaults: row.defaults,
            network: row.network,
            on_idle: row.on_idle,
            auto_resume: row.auto_resume,
        }
    }

    /// Returns the settings of the run that a snapshot was taken of.
    pub fn of_snapshot(row: SnapshotRow) -> Self {
        Self {
            tenant: row.tenant,
            image: row.image,
            digest: row.digest,
            vcpus: row.vcpus,
            mem_mib: row.mem_mib,
            disk_mib: row.disk_mib,
            timeout_ms: row.timeout_ms,
            defaults: row.defaults,
            network: row.network,
            on_idle: row.on_idle,
            auto_resume: row.auto_resume,
        }
    }

    fn into_row(self, id: RunId) -> RunRow {
        RunRow {
            id,
            tenant: self.tenant,
            image: self.image,
            digest: self.digest,
            status: Status::Creating,
            vcpus: self.vcpus,
            mem_mib: self.mem_mib,
            disk_mib: self.disk_mib,
            timeout_ms: self.timeout_ms,
            defaults: self.defaults,
            network: self.network,
            on_idle: self.on_idle,
            auto_resume: self.auto_resume,
            used: ResourceUsage::default(),
            create_ms: 0,
            created_at: clock::now_ms(),
            destroyed_at: None,
            reason: None,
        }
    }
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
    let mut row = settings.into_row(id.clone());
    // Before the sandbox exists, so that it is found by its row after a crash.
    core.store.add_run(row.clone()).await?;
    let details = match start(core, &row, &sandbox, origin).await {
        Ok(details) => details,
        Err(error) => {
            core.images.release(id.as_str());
            core.store.delete_run(&id).await?;
            return Err(error);
        }
    };
    row.create_ms = millis(started.elapsed());
    let run = register(core, row, sandbox, details).await?;
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
    origin: Origin<'_>,
) -> Result<Value, Error> {
    match origin {
        Origin::Image(source) => {
            core.images.hold(sandbox.as_str(), source)?;
            let spec = core.spec(row, sandbox.clone(), source.root.clone());
            let credentials = Arc::clone(&spec.network.credentials);
            let created = core.engine.create(spec).await;
            created.map_err(|error| Error::engine("cannot create the sandbox", error))?;
            let installed = network::install(&*core.engine, sandbox, &credentials).await;
            if installed.is_err()
                && let Err(error) = core.engine.destroy(sandbox).await
            {
                tracing::error!(%error, run = %row.id, "cannot destroy a sandbox");
            }
            installed.map(|()| json!({}))
        }
        Origin::Checkpoint { dir, image_holder, pids, details } => {
            let root = core.images.copy_hold(row.id.as_str(), image_holder)?;
            let mut spec = core.spec(row, sandbox.clone(), root);
            spec.pids = pids.unwrap_or(spec.pids);
            let restored = core.engine.restore(spec, dir).await;
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
        if let Err(error) = core.engine.destroy(&sandbox).await {
            tracing::error!(%error, run = %id, "cannot destroy a sandbox");
        }
        core.images.release(sandbox.as_str());
        return Err(error.into());
    }
    let network = Settings::load(&row.network, &core.secret);
    let run = Arc::new(LiveRun::new(row, sandbox, log, core.config.limits.execs, network));
    core.runs.insert(Arc::clone(&run));
    tracing::info!(run = %run.id, image = run.row.image, ms = run.row.create_ms, "created");
    Ok(run)
}

//! Checkpoints of other nodes: a hibernated run of a node that is dead or draining becomes a
//! run of this one, and the files of its checkpoint, or of a snapshot, are taken from the
//! object store when they are needed.

use std::{path::PathBuf, sync::Arc};

use isorun_api::{RunId, Status};
use isorun_blobs::{Blobs, CachedTree, Error as BlobError};
use serde_json::json;

use super::{
    Core,
    cluster::Cluster,
    error::{Error, ErrorKind},
    live_run::{LiveRun, RunState},
    monitor,
    network::Settings,
};
use crate::{
    clock,
    store::{AuditLog, Ending, Event, RunRow, SnapshotRow},
};

/// The time after which a client may retry when the object store is not available.
const RETRY_DELAY: std::time::Duration = std::time::Duration::from_secs(5);

/// The longest time that the creation of a run can take, in milliseconds: pulling its image
/// comes before its row.
const MAX_CREATION_MS: i64 = 600_000;

/// Makes a hibernated run of another node a run of this one, if that node changes it no more.
/// Returns whether it is a run of this node now.
pub async fn adopt(core: &Arc<Core>, id: &RunId) -> Result<bool, Error> {
    let (Some(cluster), Some(_)) = (&core.cluster, &core.blobs) else { return Ok(false) };
    if cluster.is_draining() || !cluster.has_lease() {
        return Ok(false);
    }
    let adopting = {
        let (core, id) = (Arc::clone(core), id.clone());
        async move {
            // One at a time, so that the run is registered once.
            let _one = core.adopting.lock().await;
            if core.runs.get(&id).is_some() {
                return Ok(true);
            }
            let Some(cluster) = &core.cluster else { return Ok(false) };
            adopt_one(&core, cluster, &id).await
        }
    };
    // A claimed run has to be registered, even if the caller is cancelled.
    let task = core.tasks.spawn(adopting);
    task.await.map_err(|error| Error::internal("cannot take over the run", error))?
}

/// Waits until the runs that this node has claimed so far are registered.
pub async fn wait_for_claims(core: &Core) {
    drop(core.adopting.lock().await);
}

async fn adopt_one(core: &Arc<Core>, cluster: &Cluster, id: &RunId) -> Result<bool, Error> {
    let before = cluster.database.run_owner(id).await?;
    if !cluster.database.claim_run(id).await? {
        return Ok(false);
    }
    register(core, id).await?;
    let Some(run) = core.runs.get(id) else { return Ok(false) };
    let from = before.map(|owner| owner.node).unwrap_or_default();
    tracing::info!(run = %id, from, "took over a hibernated run");
    core.metrics.adopted.inc();
    run.log.append(Event::Moved, json!({ "from": from, "to": cluster.node })).await?;
    Ok(true)
}

/// Registers a hibernated run that belongs to this node.
async fn register(core: &Arc<Core>, id: &RunId) -> Result<(), Error> {
    let row = core.store.run(id).await?.filter(|row| row.status == Status::Hibernated);
    let Some(row) = row else { return Ok(()) };
    let sandbox =
        id.as_str().parse().map_err(|error| Error::internal("cannot name the sandbox", error))?;
    let log = AuditLog::reopen(id.clone(), core.store.clone(), core.secret.clone()).await?;
    let network = Settings::load(&row.network, &core.secret);
    let run = Arc::new(LiveRun::new(row, sandbox, log, core.config.limits.execs, network));
    // The limits of the tenant hold for all nodes together: it is counted already.
    core.runs.occupy_slot(&run.tenant);
    core.runs.insert(Arc::clone(&run));
    monitor::start(core, &run);
    Ok(())
}

/// Registers the hibernated runs that this node has claimed and not registered, and forgets
/// those that other nodes have claimed.
pub async fn follow_claims(core: &Arc<Core>) -> Result<(), Error> {
    let _one = core.adopting.lock().await;
    let rows = core.store.open_runs().await?;
    for run in core.runs.list(None) {
        let is_elsewhere = || rows.iter().all(|row| row.id != run.id);
        if matches!(run.state(), RunState::Hibernated) && is_elsewhere() {
            forget_moved(core, &run).await?;
        }
    }
    for row in rows.iter().filter(|row| core.runs.get(&row.id).is_none()) {
        let age_ms = clock::now_ms().saturating_sub(row.created_at);
        match row.status {
            Status::Hibernated if core.blobs.is_some() => register(core, &row.id).await?,
            Status::Creating | Status::Running if age_ms > MAX_CREATION_MS => {
                end_unknown(core, &row.id).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Records the end of a run without a sandbox, whose creation failed when the database did not
/// respond, so that it was not known what had been recorded.
async fn end_unknown(core: &Core, id: &RunId) -> Result<(), Error> {
    let sandbox = id.as_str().parse();
    let sandbox = sandbox.map_err(|error| Error::internal("cannot name the sandbox", error))?;
    if core.engines.stats(&sandbox).await.is_ok() {
        return Ok(());
    }
    tracing::warn!(run = %id, "a run has no sandbox: its creation failed");
    let log = AuditLog::reopen(id.clone(), core.store.clone(), core.secret.clone()).await?;
    let reason = "its creation failed";
    log.append(Event::Destroyed, json!({ "reason": reason })).await?;
    let ending = Ending {
        reason: reason.to_owned(),
        destroyed_at: clock::now_ms(),
        cpu_ms: 0,
        mem_peak_bytes: 0,
        disk_used_bytes: 0,
    };
    Ok(core.store.end_run(id, ending).await?)
}

/// Forgets a run that another node has claimed, with its files here.
async fn forget_moved(core: &Arc<Core>, run: &Arc<LiveRun>) -> Result<(), Error> {
    let _change = run.lifecycle_lock.lock().await;
    let Some(cluster) = &core.cluster else { return Ok(()) };
    let owner = cluster.database.run_owner(&run.id).await?;
    let is_elsewhere = owner.is_some_and(|owner| owner.node != cluster.node.as_str());
    if !matches!(run.state(), RunState::Hibernated) || !is_elsewhere {
        return Ok(());
    }
    tracing::info!(run = %run.id, "another node has taken over a hibernated run");
    run.set_destroyed("it was moved to another server of the cluster");
    core.runs.remove(&run.id);
    core.runs.release_slot(&run.tenant);
    core.state_dirs.remove_hibernated(&run.id).await;
    core.images.release(run.sandbox.as_str());
    Ok(())
}

/// Brings the files of a run's latest checkpoint to this node, if they are not here. The
/// caller holds the `lifecycle_lock`.
pub async fn fetch_hibernated(core: &Core, run: &LiveRun) -> Result<(), Error> {
    if core.state_dirs.is_hibernated(&run.id) {
        return Ok(());
    }
    let Some((cluster, blobs)) = cluster_blobs(core) else { return Ok(()) };
    let Some(tree) = cluster.database.run_tree(&run.id).await? else { return Ok(()) };
    hold_image(core, run.sandbox.as_str(), &run.row).await?;
    let draft = core.state_dirs.draft_dir()?;
    let files = draft.path().join("tree");
    blobs.download(tree, files.clone()).await.map_err(blob_error)?;
    std::fs::rename(&files, core.state_dirs.hibernated_dir(&run.id))
        .map_err(|error| Error::internal("cannot write a checkpoint to the disk", error))
}

/// Keeps the image of a checkpoint from another node in use by a holder. A missing image is
/// pulled by its digest.
async fn hold_image(core: &Core, holder: &str, row: &RunRow) -> Result<(), Error> {
    core.images.hold_digest(holder, &row.tenant, &row.image, &row.digest).await
}

/// The files of a snapshot.
pub enum SnapshotFiles {
    /// Those of a snapshot of this node.
    Here(PathBuf),
    /// A copy of those of another node's snapshot.
    Copy(CachedTree),
}

impl SnapshotFiles {
    pub fn dir(&self) -> PathBuf {
        match self {
            Self::Here(dir) => dir.clone(),
            Self::Copy(tree) => tree.path().to_owned(),
        }
    }
}

/// Returns the files of a snapshot, and keeps its image in use by `holder`, which is that of
/// the snapshot itself if it is of this node.
pub async fn snapshot_files(core: &Core, snapshot: &SnapshotRow) -> Result<SnapshotFiles, Error> {
    let here = core.state_dirs.snapshot_dir(&snapshot.id);
    let Some((cluster, blobs)) = cluster_blobs(core).filter(|_| !here.is_dir()) else {
        return Ok(SnapshotFiles::Here(here));
    };
    let Some(tree) = cluster.database.snapshot_tree(&snapshot.id).await? else {
        return Ok(SnapshotFiles::Here(here));
    };
    let settings = &snapshot.settings;
    core.images
        .hold_digest(&snapshot.id, &settings.tenant, &settings.image, &settings.digest)
        .await?;
    Ok(SnapshotFiles::Copy(blobs.cached(tree).await.map_err(blob_error)?))
}

fn cluster_blobs(core: &Core) -> Option<(&Cluster, &Blobs)> {
    core.cluster.as_ref().zip(core.blobs.as_ref())
}

fn blob_error(error: BlobError) -> Error {
    tracing::error!(%error, "cannot take a checkpoint from the object store");
    match error {
        BlobError::Unavailable { .. } | BlobError::TooSlow { .. } => Error::new(
            ErrorKind::Unavailable,
            "the checkpoint is in the object store of the cluster, which is not available: try \
             again later",
        )
        .after(RETRY_DELAY),
        BlobError::NotFound { .. } | BlobError::Damaged { .. } => Error::new(
            ErrorKind::SnapshotDamaged,
            "the checkpoint in the object store of the cluster is damaged or missing, and was not \
             restored",
        ),
        error => Error::internal("cannot take the checkpoint from the object store", error),
    }
}

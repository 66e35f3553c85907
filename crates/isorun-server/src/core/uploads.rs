//! The task that copies the checkpoints of a node to the object store of its cluster, after
//! they are safe on the local disk, and that collects the garbage there.

use std::{sync::Arc, time::Duration};

use isorun_blobs::Blobs;

use super::{Core, cluster::Cluster};
use crate::store::PendingUpload;

/// The interval of looking for checkpoints that are not in the object store.
const INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause after failures.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The number of checkpoints that are looked for at a time.
const MAX_PENDING: u32 = 16;

/// Starts the task, which runs until the server stops.
pub fn start(core: &Arc<Core>) {
    if core.blobs.is_some() && core.cluster.is_some() {
        core.tasks.spawn(run(Arc::downgrade(core), core.stopping.clone()));
    }
}

async fn run(core: std::sync::Weak<Core>, stopping: tokio_util::sync::CancellationToken) {
    let mut pause = INTERVAL;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopping.cancelled() => return,
        }
        let Some(core) = core.upgrade() else { return };
        let (Some(cluster), Some(blobs)) = (&core.cluster, &core.blobs) else { return };
        let working = async {
            let all_succeeded = upload_pending(&core, cluster, blobs).await;
            collect_garbage(cluster, blobs).await;
            all_succeeded
        };
        // What is interrupted is uploaded when the node is back.
        let all_succeeded = tokio::select! {
            all_succeeded = working => all_succeeded,
            () = stopping.cancelled() => return,
        };
        pause = if all_succeeded { INTERVAL } else { (pause * 2).min(MAX_PAUSE) };
    }
}

/// Uploads what is not in the object store yet. Returns whether that succeeded.
async fn upload_pending(core: &Core, cluster: &Cluster, blobs: &Blobs) -> bool {
    let pending = match cluster.database.pending_uploads(MAX_PENDING).await {
        Ok(pending) => pending,
        Err(error) => {
            tracing::debug!(%error, "cannot look for checkpoints to upload");
            return false;
        }
    };
    let mut all_succeeded = true;
    for upload in pending {
        if let Err(error) = upload_one(core, cluster, blobs, &upload).await {
            // Its files are gone if it was resumed or deleted meanwhile.
            let later = cluster.database.pending_uploads(MAX_PENDING).await.unwrap_or_default();
            if later.contains(&upload) {
                tracing::warn!(%error, ?upload, "cannot upload a checkpoint");
                core.metrics.failed_uploads.inc();
                all_succeeded = false;
            }
        }
    }
    all_succeeded
}

async fn upload_one(
    core: &Core,
    cluster: &Cluster,
    blobs: &Blobs,
    upload: &PendingUpload,
) -> anyhow::Result<()> {
    let dir = match upload {
        PendingUpload::Run { id, .. } => core.state_dirs.hibernated_dir(id),
        PendingUpload::Snapshot { id } => core.state_dirs.snapshot_dir(id),
    };
    let uploaded = blobs.upload(&dir).await?;
    core.metrics.uploaded_bytes.inc_by(uploaded.stored_bytes);
    if cluster.database.record_tree(upload, uploaded.id).await? {
        tracing::info!(?upload, bytes = uploaded.stored_bytes, "uploaded a checkpoint");
        core.metrics.uploads.inc();
        return Ok(());
    }
    // It was resumed or deleted meanwhile.
    blobs.delete_tree(uploaded.id).await?;
    Ok(())
}

/// Collects garbage, if it is the turn of this node.
async fn collect_garbage(cluster: &Cluster, blobs: &Blobs) {
    let collecting = async {
        if !cluster.database.take_collection_turn().await? {
            return anyhow::Ok(());
        }
        let referenced = cluster.database.referenced_trees().await?;
        let collected = blobs.collect_garbage(&referenced).await?;
        tracing::info!(
            trees = collected.trees,
            chunks = collected.chunks,
            bytes = collected.bytes,
            "collected the garbage of the object store"
        );
        Ok(())
    };
    if let Err(error) = collecting.await {
        tracing::warn!(%error, "cannot collect the garbage of the object store");
    }
}

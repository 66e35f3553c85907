//! The tasks that copy the checkpoints of a node to the object store of its cluster, after they
//! are safe on the local disk, and that collect the garbage there.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use isorun_blobs::Blobs;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Core, cluster::Cluster};
use crate::store::Checkpoint;

/// The interval of looking for checkpoints that are not in the object store.
const INTERVAL: Duration = Duration::from_secs(2);
/// The number of checkpoints that are looked for at a time.
const MAX_PENDING: u32 = 1000;
/// The maximum number of uploads at the same time, of all tenants and of one.
const MAX_UPLOADS: usize = 4;
const MAX_UPLOADS_PER_TENANT: usize = 2;
/// The pauses between two attempts to upload a checkpoint.
const MIN_RETRY_PAUSE: Duration = Duration::from_secs(2);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(60);
/// The interval at which a node asks for its turn to collect garbage.
const COLLECTION_INTERVAL: Duration = Duration::from_secs(600);

/// Starts the tasks, which run until the server stops. What is interrupted is uploaded when the
/// node is back.
pub fn start(core: &Arc<Core>) {
    if core.blobs.is_some() && core.cluster.is_some() {
        core.tasks.spawn(upload_all(Arc::downgrade(core), core.stopping.clone()));
        core.tasks.spawn(collect_all(Arc::downgrade(core), core.stopping.clone()));
    }
}

/// The uploads in progress, with their tenants, and the pauses after failed ones.
#[derive(Default)]
struct Uploads {
    running: HashMap<Checkpoint, String>,
    failed: HashMap<Checkpoint, RetryPause>,
}

struct RetryPause {
    until: Instant,
    length: Duration,
}

impl Uploads {
    /// Reports whether a checkpoint of a tenant is to be uploaded now. One that fails, or a tenant
    /// with many, does not keep others waiting.
    fn is_due(&self, checkpoint: &Checkpoint, tenant: &str) -> bool {
        let of_tenant = self.running.values().filter(|other| *other == tenant).count();
        let waits = self.failed.get(checkpoint).is_some_and(|pause| Instant::now() < pause.until);
        self.running.len() < MAX_UPLOADS
            && of_tenant < MAX_UPLOADS_PER_TENANT
            && !waits
            && !self.running.contains_key(checkpoint)
    }

    fn end(&mut self, checkpoint: Checkpoint, succeeded: bool) {
        self.running.remove(&checkpoint);
        if succeeded {
            self.failed.remove(&checkpoint);
            return;
        }
        let last = self.failed.get(&checkpoint).map_or(Duration::ZERO, |pause| pause.length);
        let length = (last * 2).clamp(MIN_RETRY_PAUSE, MAX_RETRY_PAUSE);
        self.failed.insert(checkpoint, RetryPause { until: Instant::now() + length, length });
    }
}

async fn upload_all(weak: Weak<Core>, stopping: CancellationToken) {
    let mut uploads = Uploads::default();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            Some(ended) = tasks.join_next() => {
                if let Ok((checkpoint, succeeded)) = ended {
                    uploads.end(checkpoint, succeeded);
                }
            }
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Some(core) = weak.upgrade() else { return };
        let Some(cluster) = &core.cluster else { return };
        let pending = match cluster.database.pending_uploads(MAX_PENDING).await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::debug!(%error, "cannot look for checkpoints to upload");
                continue;
            }
        };
        // One that was resumed or deleted meanwhile is not needed any more.
        uploads.failed.retain(|failed, _| pending.iter().any(|(pending, _)| pending == failed));
        for (checkpoint, tenant) in pending {
            if uploads.is_due(&checkpoint, &tenant) {
                uploads.running.insert(checkpoint.clone(), tenant);
                let core = Arc::clone(&core);
                tasks.spawn(async move {
                    let succeeded = upload(&core, &checkpoint).await;
                    (checkpoint, succeeded)
                });
            }
        }
    }
}

/// Uploads a checkpoint. Returns whether it is in the object store, or not needed any more.
async fn upload(core: &Core, checkpoint: &Checkpoint) -> bool {
    let (Some(cluster), Some(blobs)) = (&core.cluster, &core.blobs) else { return true };
    let Err(error) = upload_files(core, cluster, blobs, checkpoint).await else { return true };
    // Its files are gone if it was resumed or deleted meanwhile.
    let pending = cluster.database.pending_uploads(MAX_PENDING).await.unwrap_or_default();
    let is_needed = pending.iter().any(|(pending, _)| pending == checkpoint);
    if is_needed {
        tracing::warn!(%error, ?checkpoint, "cannot upload a checkpoint");
        core.metrics.failed_uploads.inc();
    }
    !is_needed
}

async fn upload_files(
    core: &Core,
    cluster: &Cluster,
    blobs: &Blobs,
    checkpoint: &Checkpoint,
) -> anyhow::Result<()> {
    let dir = match checkpoint {
        Checkpoint::Run { id, .. } => core.state_dirs.hibernated_dir(id),
        Checkpoint::Snapshot { id } => core.state_dirs.snapshot_dir(id),
    };
    let uploaded = blobs.upload(&dir).await?;
    core.metrics.uploaded_bytes.inc_by(uploaded.stored_bytes);
    if cluster.database.record_tree(checkpoint, uploaded.id).await? {
        tracing::info!(?checkpoint, bytes = uploaded.stored_bytes, "uploaded a checkpoint");
        core.metrics.uploads.inc();
        return Ok(());
    }
    // It was resumed or deleted meanwhile.
    blobs.delete_tree(uploaded.id).await?;
    Ok(())
}

async fn collect_all(weak: Weak<Core>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COLLECTION_INTERVAL) => {}
            () = stopping.cancelled() => return,
        }
        let Some(core) = weak.upgrade() else { return };
        let (Some(cluster), Some(blobs)) = (&core.cluster, &core.blobs) else { return };
        tokio::select! {
            collected = collect_garbage(cluster, blobs) => if let Err(error) = collected {
                tracing::warn!(%error, "cannot collect the garbage of the object store");
            },
            () = stopping.cancelled() => return,
        }
    }
}

/// Collects garbage, if it is the turn of this node.
async fn collect_garbage(cluster: &Cluster, blobs: &Blobs) -> anyhow::Result<()> {
    if !cluster.database.take_collection_turn().await? {
        return Ok(());
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(number: u32) -> Checkpoint {
        Checkpoint::Snapshot { id: format!("snap{number}") }
    }

    #[test]
    fn a_tenant_with_many_uploads_and_failed_ones_keep_no_other_waiting() {
        let mut uploads = Uploads::default();
        for number in 0..2 {
            assert!(uploads.is_due(&snapshot(number), "a"));
            uploads.running.insert(snapshot(number), "a".to_owned());
        }
        assert!(!uploads.is_due(&snapshot(0), "a"), "it is in progress");
        assert!(!uploads.is_due(&snapshot(2), "a"), "the tenant has two");
        assert!(uploads.is_due(&snapshot(3), "b"));
        uploads.end(snapshot(0), false);
        assert!(!uploads.is_due(&snapshot(0), "a"), "it pauses");
        assert!(uploads.is_due(&snapshot(2), "a"));
        for _ in 0..20 {
            uploads.end(snapshot(0), false);
        }
        assert_eq!(uploads.failed[&snapshot(0)].length, MAX_RETRY_PAUSE);
        uploads.end(snapshot(0), true);
        assert!(uploads.is_due(&snapshot(0), "a"));
        for (number, tenant) in [(4, "b"), (5, "c"), (6, "d")] {
            uploads.running.insert(snapshot(number), tenant.to_owned());
        }
        assert!(!uploads.is_due(&snapshot(7), "e"), "there are four");
    }
}

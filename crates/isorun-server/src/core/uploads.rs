//! The tasks that copy the images and checkpoints of a node to the object store of its cluster,
//! after they are safe on the local disk, and that collect the garbage there.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::FutureExt;
use isorun_blobs::{Blobs, Collected};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Core, cluster::Cluster};
use crate::store::{Postgres, StoreError, Upload};

/// The interval of looking for what is not in the object store.
const INTERVAL: Duration = Duration::from_secs(2);
/// The number of checkpoints that are looked for at a time.
const MAX_PENDING: u32 = 1000;
/// The maximum number of uploads at the same time, of all tenants and of one.
const MAX_UPLOADS: usize = 4;
const MAX_UPLOADS_PER_TENANT: usize = 2;
/// Images count as if they were of a tenant of this name, which no tenant has.
const IMAGES_TENANT: &str = "";
/// The pauses between two attempts of an upload.
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
    running: HashMap<Upload, String>,
    failed: HashMap<Upload, RetryPause>,
}

struct RetryPause {
    until: Instant,
    length: Duration,
}

impl Uploads {
    /// Reports whether an upload of a tenant is to begin now. One that fails, or a tenant with
    /// many, does not keep others waiting.
    fn is_due(&self, upload: &Upload, tenant: &str) -> bool {
        let of_tenant = self.running.values().filter(|other| *other == tenant).count();
        let waits = self.failed.get(upload).is_some_and(|pause| Instant::now() < pause.until);
        self.running.len() < MAX_UPLOADS
            && of_tenant < MAX_UPLOADS_PER_TENANT
            && !waits
            && !self.running.contains_key(upload)
    }

    fn end(&mut self, upload: Upload, succeeded: bool) {
        self.running.remove(&upload);
        if succeeded {
            self.failed.remove(&upload);
            return;
        }
        let last = self.failed.get(&upload).map_or(Duration::ZERO, |pause| pause.length);
        let length = (last * 2).clamp(MIN_RETRY_PAUSE, MAX_RETRY_PAUSE);
        self.failed.insert(upload, RetryPause { until: Instant::now() + length, length });
    }
}

async fn upload_all(weak: Weak<Core>, stopping: CancellationToken) {
    let mut uploads = Uploads::default();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            Some(ended) = tasks.join_next() => {
                if let Ok((upload, succeeded)) = ended {
                    uploads.end(upload, succeeded);
                }
            }
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Some(core) = weak.upgrade() else { return };
        let Some(cluster) = &core.cluster else { return };
        let pending = match pending_uploads(cluster).await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::debug!(%error, "cannot look for what is to be uploaded");
                continue;
            }
        };
        // What was resumed, deleted or removed meanwhile is not needed any more.
        uploads.failed.retain(|failed, _| pending.iter().any(|(pending, _)| pending == failed));
        for (upload, tenant) in pending {
            if uploads.is_due(&upload, &tenant) {
                uploads.running.insert(upload.clone(), tenant);
                let core = Arc::clone(&core);
                tasks.spawn(async move {
                    let uploading = AssertUnwindSafe(try_upload(&core, &upload)).catch_unwind();
                    // One that panics does not keep its place.
                    let succeeded = uploading.await.unwrap_or(false);
                    (upload, succeeded)
                });
            }
        }
    }
}

/// Returns what is to be uploaded, with its tenants: images first, since a checkpoint is of no
/// use without its image.
async fn pending_uploads(cluster: &Cluster) -> Result<Vec<(Upload, String)>, StoreError> {
    let images = cluster.database.images_without_copy().await?.into_iter();
    let mut pending: Vec<_> =
        images.map(|digest| (Upload::Image { digest }, IMAGES_TENANT.to_owned())).collect();
    pending.extend(cluster.database.pending_uploads(MAX_PENDING).await?);
    Ok(pending)
}

/// Uploads something. Returns whether it is in the object store, or not needed any more.
async fn try_upload(core: &Core, upload: &Upload) -> bool {
    let (Some(cluster), Some(blobs)) = (&core.cluster, &core.blobs) else { return true };
    let Err(error) = upload_files(core, cluster, blobs, upload).await else { return true };
    // Its files are gone if it was resumed, deleted or removed meanwhile.
    let pending = pending_uploads(cluster).await.unwrap_or_default();
    let is_needed = pending.iter().any(|(pending, _)| pending == upload);
    if is_needed {
        tracing::warn!(%error, ?upload, "cannot write to the object store");
        core.metrics.failed_uploads.inc();
    }
    !is_needed
}

async fn upload_files(
    core: &Core,
    cluster: &Cluster,
    blobs: &Blobs,
    upload: &Upload,
) -> anyhow::Result<()> {
    let uploaded = match upload {
        Upload::Run { id, .. } => blobs.upload(&core.state_dirs.hibernated_dir(id)).await?,
        Upload::Snapshot { id } => blobs.upload(&core.state_dirs.snapshot_dir(id)).await?,
        Upload::Image { digest } => {
            let files = core.images.files(digest).await?.context("a part of it is missing")?;
            blobs.upload(files.path()).await?
        }
    };
    core.metrics.uploaded_bytes.inc_by(uploaded.stored_bytes);
    if cluster.database.record_tree(upload, uploaded.id).await? {
        tracing::info!(?upload, bytes = uploaded.stored_bytes, "wrote to the object store");
        core.metrics.uploads.inc();
        return Ok(());
    }
    // It was resumed or deleted meanwhile, or another node has copied the image.
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
            collected = collect_in_turn(cluster, blobs) => if let Err(error) = collected {
                tracing::warn!(%error, "cannot collect the garbage of the object store");
            },
            () = stopping.cancelled() => return,
        }
    }
}

/// Collects garbage, if it is the turn of this node.
async fn collect_in_turn(cluster: &Cluster, blobs: &Blobs) -> anyhow::Result<()> {
    if !cluster.database.take_collection_turn().await? {
        return Ok(());
    }
    let collected = collect_garbage(&cluster.database, blobs).await?;
    tracing::info!(
        trees = collected.trees,
        chunks = collected.chunks,
        bytes = collected.bytes,
        "collected the garbage of the object store"
    );
    Ok(())
}

/// Deletes what nothing in the database refers to from the object store.
pub async fn collect_garbage(database: &Postgres, blobs: &Blobs) -> anyhow::Result<Collected> {
    database.delete_unused_image_copies().await?;
    let referenced = database.referenced_trees().await?;
    Ok(blobs.collect_garbage(&referenced).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(number: u32) -> Upload {
        Upload::Snapshot { id: format!("snap{number}") }
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

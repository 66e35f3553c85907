//! Snapshots: copies of a run on disk, from which any number of runs are created,
//! even after the original was destroyed.

use std::{sync::Arc, time::Instant};

use serde_json::json;

use super::{
    Core,
    archive::{Archives, Owner},
    checkpoint_files,
    destroy::destroy,
    destroy_on_drop::DestroyOnDrop,
    error::{Error, ErrorKind},
    hibernation,
    live_run::{LiveRun, RunState},
    new_sandbox::{self, Origin},
};
use crate::{
    clock::{self, millis},
    store::{Event, SnapshotRow},
};

/// Takes a snapshot of a run, in a separate task.
pub async fn take(core: &Arc<Core>, run: &Arc<LiveRun>) -> Result<SnapshotRow, Error> {
    let task = core.tasks.spawn({
        let (core, run) = (Arc::clone(core), Arc::clone(run));
        async move { take_snapshot(&core, &run).await }
    });
    task.await.map_err(|error| Error::internal("cannot take a snapshot", error))?
}

async fn take_snapshot(core: &Arc<Core>, run: &LiveRun) -> Result<SnapshotRow, Error> {
    core.admit(&run.tenant)?;
    let slot = core.accounts.snapshots.take(&run.tenant)?;
    let _change = run.begin_change().await?;
    let started = Instant::now();
    let id = isorun_api::random_snapshot_id()
        .map_err(|error| Error::internal("cannot generate a snapshot id", error))?;
    let settings = run.settings(&core.secret)?;
    let draft = core.state_dirs.draft_dir()?;
    if matches!(run.state(), RunState::Hibernated) {
        hibernation::record_hibernated(core, run).await?;
        checkpoint_files::fetch_hibernated(core, run).await?;
    }
    let base = core.copy_base(&run.row.image, &id, run.sandbox.as_str())?;
    let owner = Owner::snapshot(&id, &run.tenant);
    let written = async {
        match run.state() {
            RunState::Hibernated => {
                let from = core.state_dirs.hibernated_dir(&run.id);
                let from = (hibernation::owner(core, &run.id, &run.tenant).await?, from);
                let (draft, target) = (draft.path().to_owned(), core.state_dirs.snapshot_dir(&id));
                core.archives.link(from, owner, draft, target).await
            }
            _ => {
                let _use = run.begin()?;
                core.ensure_room_for_checkpoint(run).await?;
                core.engines
                    .checkpoint(&run.sandbox, draft.path(), true)
                    .await
                    .map_err(|error| Error::engine("cannot take a snapshot", error))?;
                let pids = core.config.limits.pids;
                let target = core.state_dirs.snapshot_dir(&id);
                core.archives.publish(owner, draft.path(), target, base, pids).await
            }
        }
    };
    let size_bytes = match written.await {
        Ok(bytes) => bytes,
        Err(error) => {
            core.images.release(&id);
            return Err(error);
        }
    };
    let row = SnapshotRow {
        id: id.clone(),
        run_id: run.id.to_string(),
        settings,
        size_bytes,
        created_at: clock::now_ms(),
    };
    let added = core.store.add_snapshot(row.clone()).await;
    if let Err(error) = added {
        if error.is_unclear() {
            // Its files are removed later if it has no row.
            core.accounts.snapshots.keep(&id, slot);
        } else {
            core.state_dirs.remove_snapshot(&id).await;
            core.images.release(&id);
        }
        return Err(error.into());
    }
    core.accounts.snapshots.keep(&id, slot);
    let ms = millis(started.elapsed());
    tracing::info!(run = %run.id, snapshot = id, ms, size_bytes, "snapshot");
    run.log.append_outcome(Event::Snapshot, json!({ "snapshot": id, "bytes": size_bytes })).await?;
    Ok(row)
}

/// Creates a run from a snapshot of a tenant. If the caller is cancelled meanwhile, the
/// run is destroyed.
pub async fn restore(core: &Arc<Core>, tenant: &str, id: &str) -> Result<Arc<LiveRun>, Error> {
    let row = owned(core, tenant, id).await?;
    let restoring = {
        let core = Arc::clone(core);
        async move { restore_snapshot(&core, row).await }
    };
    DestroyOnDrop::create_one(core, "cannot restore", restoring).await
}

async fn restore_snapshot(core: &Arc<Core>, snapshot: SnapshotRow) -> Result<Arc<LiveRun>, Error> {
    let started = Instant::now();
    core.admit_run(&snapshot.settings.tenant)?;
    let reservation = core.runs.reserve(&snapshot.settings.tenant, 1)?;
    let files = checkpoint_files::snapshot_files(core, &snapshot).await?;
    let dir = files.dir();
    let owner = Owner::snapshot(&snapshot.id, &snapshot.settings.tenant);
    let manifest = core.archives.read(owner, &dir).await?;
    let (id, settings) = (snapshot.id, snapshot.settings);
    let origin = Origin::Checkpoint {
        dir: &dir,
        image_holder: files.image_holder(&id),
        pids: Some(manifest.pids),
        details: json!({ "snapshot": id }),
    };
    // At the same time: the caller gets the run only if the check has passed.
    let (restored, verified) = tokio::join!(
        new_sandbox::make(core, &reservation, settings, origin, started),
        Archives::verify(&dir, &manifest)
    );
    match (restored, verified) {
        (Ok(run), Ok(())) => Ok(run),
        (restored, Err(error)) => {
            if let Ok(run) = restored {
                destroy(core, &run, "its snapshot is damaged").await?;
            }
            Err(error)
        }
        (Err(error), Ok(())) => Err(error),
    }
}

/// Deletes a snapshot of a tenant. Runs that were created from it are not affected.
pub async fn delete(core: &Core, tenant: &str, id: &str) -> Result<(), Error> {
    let row = owned(core, tenant, id).await?;
    // The row first: files without a row are removed later, but a row without files would stay.
    core.store.delete_snapshot(&row.id).await?;
    remove_files(core, &row.id).await;
    Ok(())
}

/// Removes the files of a snapshot that has no row.
async fn remove_files(core: &Core, id: &str) {
    core.state_dirs.remove_snapshot(id).await;
    core.accounts.snapshots.release(id);
    core.images.release(id);
}

/// Removes the files of snapshots without a row: of those that other nodes have deleted, and of
/// those whose row was not added or was deleted by a change whose outcome was not known.
pub async fn remove_unknown(core: &Core) -> Result<(), Error> {
    let found = core.state_dirs.abandoned_snapshots();
    if found.is_empty() {
        return Ok(());
    }
    let rows = core.store.snapshots_here().await?;
    for id in found.iter().filter(|id| rows.iter().all(|row| row.id != **id)) {
        tracing::info!(snapshot = id, "removing the files of a snapshot without a row");
        remove_files(core, id).await;
    }
    Ok(())
}

async fn owned(core: &Core, tenant: &str, id: &str) -> Result<SnapshotRow, Error> {
    if !isorun_api::is_snapshot_id(id) {
        return Err(Error::new(
            ErrorKind::SnapshotNotFound,
            "a snapshot id is `snap` and 16 hex digits, such as snap0123456789abcdef",
        ));
    }
    match core.store.snapshot(id).await? {
        Some(row) if row.settings.tenant == tenant => Ok(row),
        // Snapshots of other tenants look like those that do not exist.
        _ => Err(Error::new(
            ErrorKind::SnapshotNotFound,
            format!("snapshot {id} does not exist or belongs to another tenant"),
        )),
    }
}

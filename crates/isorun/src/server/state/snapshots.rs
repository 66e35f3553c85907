//! Snapshots: copies of a run on disk, from which any number of runs are created,
//! even after the original was destroyed.

use std::{sync::Arc, time::Instant};

use axum::{
    Json as Answer,
    extract::{Path, State},
};
use serde_json::json;

use super::{
    archive::{self, Owner},
    ensure_room_for_checkpoint, fork, hibernation,
};
use crate::{
    audit::Event,
    clock,
    server::{
        ApiError, App, Caller, Code,
        destroy_on_drop::DestroyOnDrop,
        extract::{Json, OwnedRun},
        lifecycle::{self, engine_error, millis},
        runs::{LiveRun, RunState},
    },
    store::{ResourceUsage, RunRow, SnapshotRow},
};
use isorun_api::{Deleted, ErrorBody, RestoreRequest, Run, Snapshot, SnapshotList, Status, Taken};

/// Take a snapshot
///
/// It contains the files, memory and processes of the run as they are now, and exists until it is
/// deleted. The run continues. A snapshot of a hibernated run shares the disk space of that run.
#[utoipa::path(
    post, path = "/v1/runs/{id}/snapshot", tag = "state", operation_id = "snapshot",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Taken),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 410, body = ErrorBody, description = "The sandbox died"),
        (status = 429, body = ErrorBody, description = "Too many snapshots"),
        (status = 507, body = ErrorBody, description = "The server's disk has no room"),
    ),
)]
pub async fn take(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
) -> Result<Answer<Taken>, ApiError> {
    let task = app.tasks.spawn({
        let app = Arc::clone(&app);
        async move { take_snapshot(&app, &run).await }
    });
    let row = task.await.map_err(|error| ApiError::internal("cannot take a snapshot", error))??;
    Ok(Answer(Taken {
        snapshot_id: row.id,
        run_id: row
            .run_id
            .parse()
            .map_err(|error| ApiError::internal("cannot parse a stored run id", error))?,
        size_bytes: row.size_bytes,
        created_at: clock::rfc3339(row.created_at),
    }))
}

async fn take_snapshot(app: &App, run: &LiveRun) -> Result<SnapshotRow, ApiError> {
    lifecycle::accepts_runs(app, &run.tenant)?;
    let slot = app.accounts.snapshots.take(&run.tenant)?;
    let _change = run.lifecycle_lock.lock().await;
    let started = Instant::now();
    let id = isorun_api::random_snapshot_id()
        .map_err(|error| ApiError::internal("cannot generate a snapshot id", error))?;
    let draft = app.state_dirs.draft_dir()?;
    let root = app.images.hold_also(&id, run.sandbox.as_str())?;
    let owner = Owner::snapshot(&id, &run.tenant);
    let written = async {
        match run.state() {
            RunState::Hibernated => {
                let from = app.state_dirs.hibernated_dir(&run.id);
                let from = (hibernation::owner(app, &run.id, &run.tenant).await?, from);
                let (draft, target) = (draft.path().to_owned(), app.state_dirs.snapshot_dir(&id));
                archive::link(app, from, owner, draft, target).await
            }
            _ => {
                let _use = run.begin()?;
                ensure_room_for_checkpoint(app, run).await?;
                app.engine
                    .checkpoint(&run.sandbox, draft.path(), true)
                    .await
                    .map_err(|error| engine_error("cannot take a snapshot", error))?;
                let pids = app.config.limits.pids;
                let target = app.state_dirs.snapshot_dir(&id);
                archive::publish(app, owner, draft.path(), target, root, pids).await
            }
        }
    };
    let size_bytes = match written.await {
        Ok(bytes) => bytes,
        Err(error) => {
            app.images.release(&id);
            return Err(error);
        }
    };
    let row = SnapshotRow {
        id: id.clone(),
        tenant: run.tenant.clone(),
        run_id: run.id.to_string(),
        image: run.row.image.clone(),
        digest: run.row.digest.clone(),
        vcpus: run.row.vcpus,
        mem_mib: run.row.mem_mib,
        disk_mib: run.row.disk_mib,
        timeout_ms: millis(run.activity.timeout()),
        defaults: run.row.defaults.clone(),
        on_idle: run.row.on_idle,
        auto_resume: run.row.auto_resume,
        network: run.network().store(&app.secret)?,
        size_bytes,
        created_at: clock::now_ms(),
    };
    if let Err(error) = app.store.add_snapshot(row.clone()).await {
        app.state_dirs.remove_snapshot(&id).await;
        app.images.release(&id);
        return Err(error.into());
    }
    app.accounts.snapshots.keep(&id, slot);
    let ms = millis(started.elapsed());
    tracing::info!(run = %run.id, snapshot = id, ms, size_bytes, "snapshot");
    run.log.append(Event::Snapshot, json!({ "snapshot": id, "bytes": size_bytes })).await?;
    Ok(row)
}

/// Create a run from a snapshot
///
/// Its processes continue where the snapshot was taken, under a new id, with the limits of the
/// original. If the client disconnects before the answer, the run is destroyed.
#[utoipa::path(
    post, path = "/v1/runs/restore", tag = "state", operation_id = "restore",
    request_body = RestoreRequest,
    responses(
        (status = 200, body = Run),
        (status = 404, body = ErrorBody, description = "No such snapshot"),
        (status = 409, body = ErrorBody, description = "Another version of the engine made it"),
        (status = 422, body = ErrorBody, description = "The snapshot is damaged"),
        (status = 429, body = ErrorBody, description = "Too many runs"),
    ),
)]
pub async fn restore(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<RestoreRequest>,
) -> Result<Answer<Run>, ApiError> {
    let row = owned_snapshot(&app, &caller, &request.snapshot_id).await?;
    let restoring = {
        let app = Arc::clone(&app);
        async move { restore_snapshot(&app, row).await }
    };
    let run = DestroyOnDrop::create_one(&app, "cannot restore", restoring).await?;
    Ok(Answer(run.describe(&app.config)))
}

async fn restore_snapshot(app: &App, snapshot: SnapshotRow) -> Result<Arc<LiveRun>, ApiError> {
    lifecycle::accepts_runs(app, &snapshot.tenant)?;
    let reservation = fork::RunReservation::take(app, &snapshot.tenant, 1)?;
    let dir = app.state_dirs.snapshot_dir(&snapshot.id);
    let owner = Owner::snapshot(&snapshot.id, &snapshot.tenant);
    let manifest = archive::read(app, owner, &dir).await?;
    let base = RunRow {
        // Fields that differ in a new run are set by `from_checkpoint`.
        id: snapshot
            .run_id
            .parse()
            .map_err(|error| ApiError::internal("cannot parse a stored run id", error))?,
        tenant: snapshot.tenant,
        image: snapshot.image,
        digest: snapshot.digest,
        status: Status::Creating,
        vcpus: snapshot.vcpus,
        mem_mib: snapshot.mem_mib,
        disk_mib: snapshot.disk_mib,
        timeout_ms: snapshot.timeout_ms,
        defaults: snapshot.defaults,
        on_idle: snapshot.on_idle,
        auto_resume: snapshot.auto_resume,
        network: snapshot.network,
        used: ResourceUsage::default(),
        create_ms: 0,
        created_at: 0,
        destroyed_at: None,
        reason: None,
    };
    let details = json!({ "snapshot": snapshot.id });
    let pids = Some(manifest.pids);
    let (restored, verified) = tokio::join!(
        fork::from_checkpoint(app, base, &snapshot.id, &dir, pids, details),
        archive::verify(&dir, &manifest)
    );
    match (restored, verified) {
        (Ok(run), Ok(())) => {
            reservation.hand_over(1);
            app.tasks.spawn(lifecycle::watch(Arc::clone(app), Arc::clone(&run)));
            app.metrics.created.inc();
            Ok(run)
        }
        (restored, Err(error)) => {
            if let Ok(run) = restored {
                reservation.hand_over(1);
                lifecycle::destroy(app, &run, "its snapshot is damaged").await?;
            }
            Err(error)
        }
        (Err(error), Ok(())) => Err(error),
    }
}

/// The caller's snapshots
#[utoipa::path(
    get, path = "/v1/snapshots", tag = "state", operation_id = "list_snapshots",
    responses((status = 200, body = SnapshotList)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
) -> Result<Answer<SnapshotList>, ApiError> {
    let rows = app.store.snapshots(Some(&caller.tenant)).await?;
    let snapshots = rows.into_iter().filter_map(|row| {
        Some(Snapshot {
            run_id: row.run_id.parse().ok()?,
            id: row.id,
            image: row.image,
            size_bytes: row.size_bytes,
            created_at: clock::rfc3339(row.created_at),
        })
    });
    Ok(Answer(SnapshotList { snapshots: snapshots.collect() }))
}

/// Delete a snapshot
///
/// Runs that were created from it are not affected.
#[utoipa::path(
    delete, path = "/v1/snapshots/{id}", tag = "state", operation_id = "delete_snapshot",
    params(("id" = String, Path, description = "The snapshot")),
    responses(
        (status = 200, body = Deleted),
        (status = 404, body = ErrorBody, description = "No such snapshot"),
    ),
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<Deleted>, ApiError> {
    let row = owned_snapshot(&app, &caller, &id).await?;
    // The row last: files without a row would stay on disk until the next start.
    app.state_dirs.remove_snapshot(&row.id).await;
    app.store.delete_snapshot(&row.id).await?;
    app.accounts.snapshots.release(&row.id);
    app.images.release(&row.id);
    Ok(Answer(Deleted { id: row.id, status: "deleted".to_owned() }))
}

async fn owned_snapshot(app: &App, caller: &Caller, id: &str) -> Result<SnapshotRow, ApiError> {
    if !isorun_api::is_snapshot_id(id) {
        return Err(ApiError::new(
            Code::SnapshotNotFound,
            "a snapshot id is `snap` and 16 hex digits, such as snap0123456789abcdef",
        ));
    }
    match app.store.snapshot(id).await? {
        Some(row) if row.tenant == caller.tenant => Ok(row),
        // Snapshots of other tenants look like those that do not exist.
        _ => Err(ApiError::new(
            Code::SnapshotNotFound,
            format!("snapshot {id} does not exist or belongs to another tenant"),
        )),
    }
}

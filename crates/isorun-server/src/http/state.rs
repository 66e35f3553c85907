//! Routes of forks, hibernation and snapshots.

use axum::{
    Json as Answer,
    extract::{Path, State},
};
use isorun_api::{
    Deleted, ErrorBody, ForkRequest, Forks, RestoreRequest, Run, Snapshot, SnapshotList, Taken,
};

use super::{
    App,
    auth::Caller,
    error::ApiError,
    extract::{Json, OwnedRun, ResumedRun},
    runs::describe,
};
use crate::{
    clock,
    core::{fork, hibernation, snapshots},
};

/// Copy a run
///
/// The copies have its files, memory and processes as they are now, and their own ids, limits and
/// lifetimes. The run itself continues. Either all copies are created or none; if the client
/// disconnects, none.
#[utoipa::path(
    post, path = "/v1/runs/{id}/fork", tag = "state", operation_id = "fork",
    params(("id" = String, Path, description = "The run")),
    request_body = ForkRequest,
    responses(
        (status = 200, body = Forks),
        (status = 400, body = ErrorBody, description = "The count is out of range"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 409, body = ErrorBody, description = "It is hibernated"),
        (status = 429, body = ErrorBody, description = "Too many runs"),
        (status = 507, body = ErrorBody, description = "The server's disk has no room"),
    ),
)]
pub async fn fork_run(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Json(request): Json<ForkRequest>,
) -> Result<Answer<Forks>, ApiError> {
    let children = fork::fork(&app.core, &run, request.count.unwrap_or(1)).await?;
    let forks = children.iter().map(|child| describe(child, &app.core.config)).collect();
    Ok(Answer(Forks { forks }))
}

/// Hibernate a run
///
/// Writes its files, memory and processes to the server's disk, and frees its memory. The id stays
/// the same. Does nothing if the run is already hibernated.
#[utoipa::path(
    post, path = "/v1/runs/{id}/hibernate", tag = "state", operation_id = "hibernate",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Run),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 410, body = ErrorBody, description = "The sandbox died"),
        (status = 507, body = ErrorBody, description = "The server's disk has no room"),
    ),
)]
pub async fn hibernate_run(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
) -> Result<Answer<Run>, ApiError> {
    hibernation::hibernate(&app.core, &run).await?;
    Ok(Answer(describe(&run, &app.core.config)))
}

/// Resume a run
///
/// Its processes continue where they were. Does nothing if the run is not hibernated.
#[utoipa::path(
    post, path = "/v1/runs/{id}/resume", tag = "state", operation_id = "resume",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Run),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 409, body = ErrorBody, description = "It was hibernated by another version of the engine"),
        (status = 422, body = ErrorBody, description = "The checkpoint on disk is damaged"),
    ),
)]
pub async fn resume_run(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
) -> Result<Answer<Run>, ApiError> {
    hibernation::resume(&app.core, &run).await?;
    Ok(Answer(describe(&run, &app.core.config)))
}

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
    let row = snapshots::take(&app.core, &run).await?;
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
    let run = snapshots::restore(&app.core, &caller.tenant, &request.snapshot_id).await?;
    Ok(Answer(describe(&run, &app.core.config)))
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
    let rows = app.core.store.snapshots(Some(&caller.tenant)).await?;
    let snapshots = rows.into_iter().filter_map(|row| {
        Some(Snapshot {
            run_id: row.run_id.parse().ok()?,
            id: row.id,
            image: row.settings.image,
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
    snapshots::delete(&app.core, &caller.tenant, &id).await?;
    Ok(Answer(Deleted { id, status: "deleted".to_owned() }))
}

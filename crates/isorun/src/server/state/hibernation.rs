//! Hibernation: writes a sandbox to disk, and resumes it under the same id.

use std::{
    os::unix::fs::DirBuilderExt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json as Answer, extract::State};
use isorun_engine::SandboxId;
use serde_json::json;

use super::{
    archive::{self, Kind, Owner},
    ensure_room_for_checkpoint,
};
use crate::{
    audit::Event,
    server::{
        ApiError, App, Code,
        extract::OwnedRun,
        lifecycle::{self, engine_error, millis},
        runs::{LiveRun, RunState},
    },
    store::RunRow,
};
use isorun_api::RunId;
use isorun_api::{ErrorBody, Run};

/// The maximum wait for a checkpoint in progress whose server was killed.
const ORPHANED_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum wait for such a checkpoint to start writing.
const CHECKPOINT_START_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum wait for the completion mark after the sandbox has exited.
const COMPLETION_MARK_TIMEOUT: Duration = Duration::from_millis(500);
/// The interval at which the completion mark is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

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
    hibernate(&app, &run).await?;
    Ok(Answer(run.describe(&app.config)))
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
    resume(&app, &run).await?;
    Ok(Answer(run.describe(&app.config)))
}

/// Resumes a run that is hibernated and has `auto_resume`.
pub async fn resume_if_automatic(app: &App, run: &Arc<LiveRun>) -> Result<(), ApiError> {
    if run.row.auto_resume && run.is_suspended() { resume(app, run).await } else { Ok(()) }
}

/// Hibernates a run, in a separate task.
pub async fn hibernate(app: &App, run: &Arc<LiveRun>) -> Result<(), ApiError> {
    let task = app.tasks.spawn({
        let (app, run) = (Arc::clone(app), Arc::clone(run));
        async move {
            let _change = run.lifecycle_lock.lock().await;
            match run.state() {
                RunState::Hibernated => return Ok(()),
                RunState::Running => {}
                _ => return Err(state_error(&run)),
            }
            let started = Instant::now();
            let stats = ensure_room_for_checkpoint(&app, &run).await?;
            run.set_state(RunState::Hibernating);
            if let Err(error) = write_to_disk(&app, &run, stats).await {
                run.set_state(RunState::Running);
                // The sandbox may still run, or it may have died of the attempt.
                app.tasks.spawn(lifecycle::watch(Arc::clone(&app), Arc::clone(&run)));
                return Err(error);
            }
            run.set_state(RunState::Hibernated);
            let ms = millis(started.elapsed());
            tracing::info!(run = %run.id, ms, "hibernated");
            Ok(run.log.append(Event::Hibernated, json!({ "ms": ms })).await?)
        }
    });
    task.await.map_err(|error| ApiError::internal("cannot hibernate the run", error))?
}

async fn write_to_disk(
    app: &App,
    run: &LiveRun,
    stats: isorun_engine::Stats,
) -> Result<(), ApiError> {
    let draft = app.state_dirs.hibernating_dir(&run.id);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&draft)
        .map_err(|error| ApiError::internal("cannot create a directory", error))?;
    let writing = async {
        // Before anything is written, so that what a crash leaves is of this generation.
        app.store.next_generation(&run.id).await?;
        let written = app.engine.checkpoint(&run.sandbox, &draft, false).await;
        written.map_err(|error| engine_error("cannot hibernate the sandbox", error))?;
        publish(app, &run.id, &run.tenant, &run.sandbox).await?;
        let used = run.set_used(run.total(stats));
        Ok(app.store.run_hibernated(&run.id, used).await?)
    };
    let outcome = writing.await;
    if outcome.is_err() {
        app.state_dirs.remove_hibernating(&run.id).await;
    }
    outcome
}

/// Returns the owner of the latest hibernation of a run.
pub async fn owner(app: &App, id: &RunId, tenant: &str) -> Result<Owner, ApiError> {
    let generation = app.store.generation(id).await?;
    let (id, tenant) = (id.to_string(), tenant.to_owned());
    Ok(Owner { kind: Kind::Hibernation, id, tenant, generation })
}

async fn publish(app: &App, id: &RunId, tenant: &str, sandbox: &SandboxId) -> Result<(), ApiError> {
    let root = app.images.root_of(sandbox.as_str())?;
    let (draft, target) = (app.state_dirs.hibernating_dir(id), app.state_dirs.hibernated_dir(id));
    let owner = owner(app, id, tenant).await?;
    archive::publish(app, owner, &draft, target, root, app.config.limits.pids).await.map(|_| ())
}

/// Finishes a hibernation whose server was killed. Returns whether the run is on disk
/// now. `has_sandbox`: its sandbox still exists, and its checkpoint may be in progress.
pub async fn finish_interrupted(
    app: &App,
    row: &RunRow,
    sandbox: &SandboxId,
    has_sandbox: bool,
) -> bool {
    let draft = app.state_dirs.hibernating_dir(&row.id);
    if !draft.is_dir() {
        // It may have been renamed already, with nothing recorded.
        return !has_sandbox && app.state_dirs.is_hibernated(&row.id);
    }
    let is_complete = async {
        while !app.engine.is_complete(&draft) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::pin!(is_complete);
    let has_started = || draft.read_dir().is_ok_and(|mut files| files.next().is_some());
    if has_sandbox {
        tokio::select! {
            () = &mut is_complete => {}
            _ = app.engine.exited(sandbox) => {}
            () = async {
                tokio::time::sleep(CHECKPOINT_START_TIMEOUT).await;
                if has_started() {
                    tokio::time::sleep(ORPHANED_CHECKPOINT_TIMEOUT).await;
                }
            } => {}
        }
    }
    if has_started() {
        let _ = tokio::time::timeout(COMPLETION_MARK_TIMEOUT, is_complete).await;
    }
    let whole = app.engine.is_complete(&draft);
    let finished = whole && publish(app, &row.id, &row.tenant, sandbox).await.is_ok();
    if !finished {
        tracing::warn!(run = %row.id, whole, "an interrupted hibernation could not be finished");
        app.state_dirs.remove_hibernating(&row.id).await;
    }
    finished
}

/// Resumes a hibernated run, in a separate task.
pub async fn resume(app: &App, run: &Arc<LiveRun>) -> Result<(), ApiError> {
    lifecycle::accepts_runs(app, &run.tenant)?;
    let task = app.tasks.spawn({
        let (app, run) = (Arc::clone(app), Arc::clone(run));
        async move {
            let _change = run.lifecycle_lock.lock().await;
            match run.state() {
                RunState::Running => return Ok(()),
                RunState::Hibernated => {}
                _ => return Err(state_error(&run)),
            }
            let started = Instant::now();
            run.set_state(RunState::Resuming);
            if let Err(error) = restore_from_disk(&app, &run).await {
                run.set_state(RunState::Hibernated);
                return Err(error);
            }
            run.activity.touch();
            run.set_state(RunState::Running);
            app.tasks.spawn(lifecycle::watch(Arc::clone(&app), Arc::clone(&run)));
            app.state_dirs.remove_hibernated(&run.id).await;
            let ms = millis(started.elapsed());
            tracing::info!(run = %run.id, ms, "resumed");
            Ok(run.log.append(Event::Resumed, json!({ "ms": ms })).await?)
        }
    });
    task.await.map_err(|error| ApiError::internal("cannot resume the run", error))?
}

async fn restore_from_disk(app: &App, run: &LiveRun) -> Result<(), ApiError> {
    let dir = app.state_dirs.hibernated_dir(&run.id);
    let owner = owner(app, &run.id, &run.tenant).await?;
    let manifest = archive::read(app, owner, &dir).await?;
    let mut spec = lifecycle::spec(app, &run.row, run.sandbox.clone(), manifest.root.clone());
    spec.pids = manifest.pids;
    // Its rules may have changed since it was created.
    spec.network = run.network().plan();
    // At the same time: no request reaches the sandbox before the check has passed.
    let (restored, verified) =
        tokio::join!(app.engine.restore(spec, &dir), archive::verify(&dir, &manifest));
    match (restored, verified) {
        (Ok(()), Ok(())) => {}
        (restored, Err(error)) => {
            if restored.is_ok() {
                let _ = app.engine.destroy(&run.sandbox).await;
            }
            return Err(error);
        }
        (Err(error), Ok(())) => return Err(engine_error("cannot resume the sandbox", error)),
    }
    if let Err(error) = app.store.run_resumed(&run.id).await {
        let _ = app.engine.destroy(&run.sandbox).await;
        return Err(error.into());
    }
    Ok(())
}

fn state_error(run: &LiveRun) -> ApiError {
    run.not_running_error().unwrap_or_else(|| {
        ApiError::new(
            Code::RunBusy,
            format!("{} is being changed by another request: try again", run.id),
        )
        .after(Duration::from_secs(1))
    })
}

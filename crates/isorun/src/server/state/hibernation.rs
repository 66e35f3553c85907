//! A run that is put on disk, and comes back under the same id.

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
    check_room,
};
use crate::{
    api::{ErrorBody, Run},
    audit::Event,
    id::RunId,
    server::{
        ApiError, App, Code,
        extract::OwnRun,
        lifecycle::{self, engine_error, millis},
        runs::{LiveRun, State as RunState},
    },
    store::RunRow,
};

/// How long a checkpoint may go on whose server was killed.
const UNHEARD: Duration = Duration::from_secs(30);
/// How long one that was asked for may take to begin.
const UNBEGUN: Duration = Duration::from_secs(1);
/// How long its mark may take after the end of the sandbox.
const MARKING: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_millis(10);

/// Hibernate a run
///
/// Its files, memory and processes go to the server's disk, and nothing of it is left in memory.
/// Its id stays. A run that is hibernated already stays so.
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
pub async fn sleep(State(app): State<App>, OwnRun(run): OwnRun) -> Result<Answer<Run>, ApiError> {
    hibernate(&app, &run).await?;
    Ok(Answer(run.describe(&app.config)))
}

/// Resume a run
///
/// It goes on where it was. A run that is not hibernated goes on as it does.
#[utoipa::path(
    post, path = "/v1/runs/{id}/resume", tag = "state", operation_id = "resume",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Run),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 409, body = ErrorBody, description = "It was hibernated by another version of the engine"),
        (status = 422, body = ErrorBody, description = "What is on the disk is damaged"),
    ),
)]
pub async fn wake(State(app): State<App>, OwnRun(run): OwnRun) -> Result<Answer<Run>, ApiError> {
    resume(&app, &run).await?;
    Ok(Answer(run.describe(&app.config)))
}

/// Resumes a run that is to be resumed by whoever wants something of it.
pub async fn wake_if_asked(app: &App, run: &Arc<LiveRun>) -> Result<(), ApiError> {
    if run.row.auto_resume && run.is_asleep() { resume(app, run).await } else { Ok(()) }
}

/// Puts a run on disk, in a task of its own.
pub async fn hibernate(app: &App, run: &Arc<LiveRun>) -> Result<(), ApiError> {
    let task = app.tasks.spawn({
        let (app, run) = (Arc::clone(app), Arc::clone(run));
        async move {
            let _change = run.change.lock().await;
            match run.state() {
                RunState::Hibernated => return Ok(()),
                RunState::Running => {}
                _ => return Err(trouble(&run)),
            }
            let started = Instant::now();
            let stats = check_room(&app, &run).await?;
            run.enter(RunState::Hibernating);
            if let Err(error) = put_away(&app, &run, stats).await {
                run.enter(RunState::Running);
                // It may live on, or it may have died of the attempt.
                app.tasks.spawn(lifecycle::watch(Arc::clone(&app), Arc::clone(&run)));
                return Err(error);
            }
            run.enter(RunState::Hibernated);
            let ms = millis(started.elapsed());
            tracing::info!(run = %run.id, ms, "hibernated");
            Ok(run.log.append(Event::Hibernated, json!({ "ms": ms })).await?)
        }
    });
    task.await.map_err(|error| ApiError::internal("cannot hibernate the run", error))?
}

async fn put_away(app: &App, run: &LiveRun, stats: isorun_engine::Stats) -> Result<(), ApiError> {
    let draft = app.places.hibernating(&run.id);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&draft)
        .map_err(|error| ApiError::internal("cannot make a folder", error))?;
    let put_away = async {
        // Before there is anything: what a crash leaves is of this generation.
        app.store.next_generation(&run.id).await?;
        let written = app.engine.checkpoint(&run.sandbox, &draft, false).await;
        written.map_err(|error| engine_error("cannot hibernate the sandbox", error))?;
        seal(app, &run.id, &run.tenant, &run.sandbox).await?;
        let used = run.has_used(run.total(stats));
        Ok(app.store.run_hibernated(&run.id, used).await?)
    };
    let outcome = put_away.await;
    if outcome.is_err() {
        app.places.forget_hibernating(&run.id).await;
    }
    outcome
}

/// Says whose the latest hibernation of a run is.
pub async fn owner(app: &App, id: &RunId, tenant: &str) -> Result<Owner, ApiError> {
    let generation = app.store.generation(id).await?;
    let (id, tenant) = (id.to_string(), tenant.to_owned());
    Ok(Owner { kind: Kind::Hibernation, id, tenant, generation })
}

async fn seal(app: &App, id: &RunId, tenant: &str, sandbox: &SandboxId) -> Result<(), ApiError> {
    let root = app.images.root_of(sandbox.as_str())?;
    let (draft, place) = (app.places.hibernating(id), app.places.hibernated(id));
    let owner = owner(app, id, tenant).await?;
    archive::seal(app, owner, &draft, place, root, app.config.limits.pids).await.map(|_| ())
}

/// Finishes what a server has begun that was killed: whether the run is on disk
/// now. `here`: its sandbox is there, perhaps on its way to the disk.
pub async fn finish(app: &App, row: &RunRow, sandbox: &SandboxId, here: bool) -> bool {
    let draft = app.places.hibernating(&row.id);
    if !draft.is_dir() {
        // It may have got its final name, and nothing else.
        return !here && app.places.is_hibernated(&row.id);
    }
    let is_whole = async {
        while !app.engine.is_whole(&draft) {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::pin!(is_whole);
    let has_begun = || draft.read_dir().is_ok_and(|mut files| files.next().is_some());
    if here {
        tokio::select! {
            () = &mut is_whole => {}
            _ = app.engine.exited(sandbox) => {}
            () = async {
                tokio::time::sleep(UNBEGUN).await;
                if has_begun() {
                    tokio::time::sleep(UNHEARD).await;
                }
            } => {}
        }
    }
    if has_begun() {
        let _ = tokio::time::timeout(MARKING, is_whole).await;
    }
    let whole = app.engine.is_whole(&draft);
    let finished = whole && seal(app, &row.id, &row.tenant, sandbox).await.is_ok();
    if !finished {
        tracing::warn!(run = %row.id, whole, "a hibernation was not finished");
        app.places.forget_hibernating(&row.id).await;
    }
    finished
}

/// Brings a run back, in a task of its own.
pub async fn resume(app: &App, run: &Arc<LiveRun>) -> Result<(), ApiError> {
    lifecycle::accepts_runs(app, &run.tenant)?;
    let task = app.tasks.spawn({
        let (app, run) = (Arc::clone(app), Arc::clone(run));
        async move {
            let _change = run.change.lock().await;
            match run.state() {
                RunState::Running => return Ok(()),
                RunState::Hibernated => {}
                _ => return Err(trouble(&run)),
            }
            let started = Instant::now();
            run.enter(RunState::Resuming);
            if let Err(error) = bring_back(&app, &run).await {
                run.enter(RunState::Hibernated);
                return Err(error);
            }
            run.activity.touch();
            run.enter(RunState::Running);
            app.tasks.spawn(lifecycle::watch(Arc::clone(&app), Arc::clone(&run)));
            app.places.forget_hibernated(&run.id).await;
            let ms = millis(started.elapsed());
            tracing::info!(run = %run.id, ms, "resumed");
            Ok(run.log.append(Event::Resumed, json!({ "ms": ms })).await?)
        }
    });
    task.await.map_err(|error| ApiError::internal("cannot resume the run", error))?
}

async fn bring_back(app: &App, run: &LiveRun) -> Result<(), ApiError> {
    let folder = app.places.hibernated(&run.id);
    let owner = owner(app, &run.id, &run.tenant).await?;
    let manifest = archive::read(app, owner, &folder).await?;
    let mut spec = lifecycle::spec(app, &run.row, run.sandbox.clone(), manifest.root.clone());
    spec.pids = manifest.pids;
    // Its rules may have changed since it was created.
    spec.network = run.network().plan();
    // At the same time: nobody reaches it before it is known to be whole.
    let (restored, whole) =
        tokio::join!(app.engine.restore(spec, &folder), archive::check(&folder, &manifest));
    match (restored, whole) {
        (Ok(()), Ok(())) => {}
        (restored, Err(damage)) => {
            if restored.is_ok() {
                let _ = app.engine.destroy(&run.sandbox).await;
            }
            return Err(damage);
        }
        (Err(error), Ok(())) => return Err(engine_error("cannot resume the sandbox", error)),
    }
    if let Err(error) = app.store.run_resumed(&run.id).await {
        let _ = app.engine.destroy(&run.sandbox).await;
        return Err(error.into());
    }
    Ok(())
}

fn trouble(run: &LiveRun) -> ApiError {
    run.trouble().unwrap_or_else(|| {
        ApiError::new(Code::RunBusy, format!("{} is changing: try again", run.id))
            .after(Duration::from_secs(1))
    })
}

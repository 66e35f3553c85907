//! Forks of a running sandbox: one checkpoint, and any number of children restored
//! from it. The parent keeps running.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::{Json as Answer, extract::State};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::ensure_room_for_checkpoint;
use crate::{
    audit::Event,
    clock,
    server::{
        ApiError, App, Code,
        destroy_on_drop::DestroyOnDrop,
        extract::{Json, ResumedRun},
        lifecycle::{self, engine_error, millis},
        runs::{self, LiveRun},
    },
    store::{ResourceUsage, RunRow},
};
use isorun_api::RunId;
use isorun_api::{ErrorBody, ForkRequest, Forks, Status};

/// The maximum number of children of one request.
const MAX_FORKS_PER_REQUEST: i64 = 100;
/// The maximum number of children of one request that are restored at the same time.
const MAX_CONCURRENT_RESTORES: usize = 4;

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
pub async fn fork(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Json(request): Json<ForkRequest>,
) -> Result<Answer<Forks>, ApiError> {
    let count = request.count.unwrap_or(1);
    if !(1..=MAX_FORKS_PER_REQUEST).contains(&count) {
        return Err(ApiError::invalid(format!(
            "count is {count}: this server allows 1 to {MAX_FORKS_PER_REQUEST}"
        )));
    }
    let count = usize::try_from(count).unwrap_or(1);
    let creating = {
        let app = Arc::clone(&app);
        async move { create_forks(&app, &run, count).await }
    };
    let created = DestroyOnDrop::create(&app, "cannot copy the run", creating).await?;
    let forks = created.iter().map(|child| child.describe(&app.config)).collect();
    Ok(Answer(Forks { forks }))
}

async fn create_forks(
    app: &App,
    parent: &Arc<LiveRun>,
    count: usize,
) -> Result<Vec<Arc<LiveRun>>, ApiError> {
    lifecycle::accepts_runs(app, &parent.tenant)?;
    let _change = parent.lifecycle_lock.lock().await;
    let _use = parent.begin()?;
    let reservation = RunReservation::take(app, &parent.tenant, count)?;
    let draft = app.state_dirs.draft_dir()?;
    ensure_room_for_checkpoint(app, parent).await?;
    let started = Instant::now();
    app.engine
        .checkpoint(&parent.sandbox, draft.path(), true)
        .await
        .map_err(|error| engine_error("cannot copy the sandbox", error))?;
    let snapshot_ms = millis(started.elapsed());
    let children: Result<Vec<_>, ApiError> = {
        let creations = (0..count).map(|_| {
            let dir = draft.path();
            async move { Ok::<_, ApiError>(create_fork(app, parent, dir).await) }
        });
        let outcomes: Vec<_> =
            stream::iter(creations).buffered(MAX_CONCURRENT_RESTORES).try_collect().await?;
        let (created, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        let created: Vec<_> = created.into_iter().flatten().collect();
        match failed.into_iter().find_map(Result::err) {
            None => Ok(created),
            Some(error) => {
                reservation.hand_over(created.len());
                destroy_all(app, &created, "another copy could not be created").await;
                return Err(error);
            }
        }
    };
    let children = children?;
    reservation.hand_over(children.len());
    for child in &children {
        app.tasks.spawn(lifecycle::watch(Arc::clone(app), Arc::clone(child)));
        app.metrics.created.inc();
    }
    let ids: Vec<&str> = children.iter().map(|child| child.id.as_str()).collect();
    parent
        .log
        .append(Event::Forked, json!({ "children": ids, "snapshot_ms": snapshot_ms }))
        .await?;
    tracing::info!(run = %parent.id, count, ms = millis(started.elapsed()), "forked");
    Ok(children)
}

async fn create_fork(app: &App, parent: &LiveRun, dir: &Path) -> Result<Arc<LiveRun>, ApiError> {
    let details = json!({ "forked_from": parent.id });
    let base = RunRow { network: parent.network().store(&app.secret)?, ..parent.row.clone() };
    from_checkpoint(app, base, parent.sandbox.as_str(), dir, None, details).await
}

/// Restores a checkpoint as a new run with the settings of `base`. `image_holder` is the
/// sandbox or snapshot that keeps the image in use.
pub async fn from_checkpoint(
    app: &App,
    base: RunRow,
    image_holder: &str,
    dir: &Path,
    pids: Option<u32>,
    details: serde_json::Value,
) -> Result<Arc<LiveRun>, ApiError> {
    let started = Instant::now();
    let id =
        RunId::random().map_err(|error| ApiError::internal("cannot generate a run id", error))?;
    let sandbox: isorun_engine::SandboxId = id
        .as_str()
        .parse()
        .map_err(|error| ApiError::internal("cannot name the sandbox", error))?;
    let mut row = RunRow {
        id: id.clone(),
        status: Status::Creating,
        used: ResourceUsage::default(),
        create_ms: 0,
        created_at: clock::now_ms(),
        destroyed_at: None,
        reason: None,
        ..base
    };
    // Before the sandbox exists, so that what a crash leaves behind is found by its row.
    app.store.add_run(row.clone()).await?;
    let restored = async {
        let root = app.images.hold_also(id.as_str(), image_holder)?;
        let mut spec = lifecycle::spec(app, &row, sandbox.clone(), root);
        spec.pids = pids.unwrap_or(spec.pids);
        app.engine
            .restore(spec, dir)
            .await
            .map_err(|error| engine_error("cannot restore the sandbox from its checkpoint", error))
    };
    if let Err(error) = restored.await {
        lifecycle::roll_back(app, &id).await?;
        return Err(error);
    }
    row.create_ms = millis(started.elapsed());
    lifecycle::register(app, row, sandbox, details).await
}

async fn destroy_all(app: &App, runs: &[Arc<LiveRun>], why: &str) {
    for run in runs {
        if let Err(error) = lifecycle::destroy(app, run, why).await {
            tracing::error!(error = error.message, run = %run.id, "cannot destroy a copy");
        }
    }
}

/// Reserved places for new runs, released on drop unless runs have taken them.
pub struct RunReservation<'app> {
    runs: &'app runs::Runs,
    tenant: String,
    count: AtomicUsize,
}

impl<'app> RunReservation<'app> {
    /// Reserves `count` places within the limits of the tenant and of the server.
    pub fn take(app: &'app App, tenant: &str, count: usize) -> Result<Self, ApiError> {
        let reserved =
            Self { runs: &app.runs, tenant: tenant.to_owned(), count: AtomicUsize::new(0) };
        for _ in 0..count {
            app.runs.reserve_slot(tenant).map_err(|error| match error.code {
                Code::TooManyRuns => ApiError::new(
                    Code::TooManyRuns,
                    format!(
                        "cannot create {count} more runs: the limit is {} runs at once",
                        app.runs.max_per_tenant()
                    ),
                ),
                _ => error,
            })?;
            reserved.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(reserved)
    }

    /// Hands `count` places over to runs, which release them when they are destroyed.
    pub fn hand_over(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Drop for RunReservation<'_> {
    fn drop(&mut self) {
        for _ in 0..self.count.load(Ordering::Relaxed) {
            self.runs.release_slot(&self.tenant);
        }
    }
}

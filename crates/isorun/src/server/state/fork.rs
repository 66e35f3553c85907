//! Copies of a run that goes on: one checkpoint, and any number of children
//! restored from it.

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

use super::check_room;
use crate::{
    api::{ErrorBody, ForkRequest, Forks, Status},
    audit::Event,
    clock,
    id::RunId,
    server::{
        ApiError, App, Code,
        extract::{AwakeRun, Json},
        lifecycle::{self, engine_error, millis},
        newborn::Newborn,
        runs::{self, LiveRun},
    },
    store::{RunRow, Used},
};

/// Children of one request.
const MOST: i64 = 100;
/// Children that are made at the same time.
const AT_ONCE: usize = 4;

/// Copy a run
///
/// The copies have its files, memory and processes as they are now, and an id, limits and a life
/// of their own. It goes on itself. Either all of them are made or none; if the client goes away,
/// none.
#[utoipa::path(
    post, path = "/v1/runs/{id}/fork", tag = "state", operation_id = "fork",
    params(("id" = String, Path, description = "The run")),
    request_body = ForkRequest,
    responses(
        (status = 200, body = Forks),
        (status = 400, body = ErrorBody, description = "A count that cannot be"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 409, body = ErrorBody, description = "It is hibernated"),
        (status = 429, body = ErrorBody, description = "Too many runs"),
        (status = 507, body = ErrorBody, description = "The server's disk has no room"),
    ),
)]
pub async fn fork(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Json(request): Json<ForkRequest>,
) -> Result<Answer<Forks>, ApiError> {
    let count = request.count.unwrap_or(1);
    if !(1..=MOST).contains(&count) {
        return Err(ApiError::invalid(format!("count is {count}: this server allows 1 to {MOST}")));
    }
    let count = usize::try_from(count).unwrap_or(1);
    let making = {
        let app = Arc::clone(&app);
        async move { make(&app, &run, count).await }
    };
    let made = Newborn::make(&app, "cannot copy the run", making).await?;
    let forks = made.iter().map(|child| child.describe(&app.config)).collect();
    Ok(Answer(Forks { forks }))
}

async fn make(
    app: &App,
    parent: &Arc<LiveRun>,
    count: usize,
) -> Result<Vec<Arc<LiveRun>>, ApiError> {
    lifecycle::accepts_runs(app, &parent.tenant)?;
    let _change = parent.change.lock().await;
    let _use = parent.begin()?;
    let places = Reserved::take(app, &parent.tenant, count)?;
    let draft = app.places.draft()?;
    check_room(app, parent).await?;
    let started = Instant::now();
    app.engine
        .checkpoint(&parent.sandbox, draft.path(), true)
        .await
        .map_err(|error| engine_error("cannot copy the sandbox", error))?;
    let snapshot_ms = millis(started.elapsed());
    let children: Result<Vec<_>, ApiError> = {
        let makings = (0..count).map(|_| {
            let folder = draft.path();
            async move { Ok::<_, ApiError>(child(app, parent, folder).await) }
        });
        let outcomes: Vec<_> = stream::iter(makings).buffered(AT_ONCE).try_collect().await?;
        let (made, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        let made: Vec<_> = made.into_iter().flatten().collect();
        match failed.into_iter().find_map(Result::err) {
            None => Ok(made),
            Some(error) => {
                places.hand_over(made.len());
                destroy_all(app, &made, "another copy could not be made").await;
                return Err(error);
            }
        }
    };
    let children = children?;
    places.hand_over(children.len());
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

async fn child(app: &App, parent: &LiveRun, folder: &Path) -> Result<Arc<LiveRun>, ApiError> {
    let what = json!({ "forked_from": parent.id });
    let like = RunRow { network: parent.network().store(&app.secret)?, ..parent.row.clone() };
    from_checkpoint(app, like, parent.sandbox.as_str(), folder, None, what).await
}

/// A new run like another one, from a checkpoint. `held` is who keeps its image.
pub async fn from_checkpoint(
    app: &App,
    like: RunRow,
    held: &str,
    folder: &Path,
    pids: Option<u32>,
    what: serde_json::Value,
) -> Result<Arc<LiveRun>, ApiError> {
    let started = Instant::now();
    let id = RunId::random().map_err(|error| ApiError::internal("cannot draw a run id", error))?;
    let sandbox: isorun_engine::SandboxId = id
        .as_str()
        .parse()
        .map_err(|error| ApiError::internal("cannot name the sandbox", error))?;
    let mut row = RunRow {
        id: id.clone(),
        status: Status::Creating,
        used: Used::default(),
        create_ms: 0,
        created_at: clock::now_ms(),
        destroyed_at: None,
        reason: None,
        ..like
    };
    // Before the sandbox exists: what a crash leaves behind is found by its row.
    app.store.add_run(row.clone()).await?;
    let restored = async {
        let root = app.images.hold_also(id.as_str(), held)?;
        let mut spec = lifecycle::spec(app, &row, sandbox.clone(), root);
        spec.pids = pids.unwrap_or(spec.pids);
        app.engine
            .restore(spec, folder)
            .await
            .map_err(|error| engine_error("cannot make the sandbox from its checkpoint", error))
    };
    if let Err(error) = restored.await {
        lifecycle::forget(app, &id).await?;
        return Err(error);
    }
    row.create_ms = millis(started.elapsed());
    lifecycle::open(app, row, sandbox, what).await
}

async fn destroy_all(app: &App, runs: &[Arc<LiveRun>], why: &str) {
    for run in runs {
        if let Err(error) = lifecycle::destroy(app, run, why).await {
            tracing::error!(error = error.message, run = %run.id, "cannot destroy a copy");
        }
    }
}

/// Places for runs to be, which are given back unless runs have taken them.
pub struct Reserved<'app> {
    runs: &'app runs::Runs,
    tenant: String,
    count: AtomicUsize,
}

impl<'app> Reserved<'app> {
    pub fn take(app: &'app App, tenant: &str, count: usize) -> Result<Self, ApiError> {
        let reserved =
            Self { runs: &app.runs, tenant: tenant.to_owned(), count: AtomicUsize::new(0) };
        for _ in 0..count {
            app.runs.take_place(tenant).map_err(|error| match error.code {
                Code::TooManyRuns => ApiError::new(
                    Code::TooManyRuns,
                    format!(
                        "{count} more would be too many: {} runs at once is the limit",
                        app.runs.max_per_tenant()
                    ),
                ),
                _ => error,
            })?;
            reserved.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(reserved)
    }

    /// That many belong to runs now, which give them back when they end.
    pub fn hand_over(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        for _ in 0..self.count.load(Ordering::Relaxed) {
            self.runs.leave_place(&self.tenant);
        }
    }
}

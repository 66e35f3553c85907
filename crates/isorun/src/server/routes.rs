//! Runs and what is counted of them, and the table of all paths.

use std::time::Duration;

use axum::{Json as Answer, Router, extract::State, http::StatusCode, middleware, routing::any};
use serde::Deserialize;
use tokio::time::timeout;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, App, Caller, audit_log, auth, early, exec,
    extract::{Json, OwnRun, Params},
    files,
    lifecycle::{self, engine_error},
    limits, metrics, network, observe, openapi,
    order::{self, Order},
    proxy, shell, state, strict,
};
use crate::{
    api::{
        DestroyStats, ErrorBody, Health, History, NetworkChange, NewRun, Patch, Readiness, Run,
        RunList, RunStats, Usage,
    },
    clock,
    id::RunId,
};

/// Runs in one answer of the history.
const MOST_HISTORY: u32 = 1000;

/// How long the database may take to show that it is there.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Paths that need no key.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(openapi::show))
}

/// Paths that need a key.
fn keyed() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(create, list))
        .routes(routes!(history))
        .routes(routes!(get, patch, delete))
        .routes(routes!(stats))
        .routes(routes!(exec::once::once))
        .routes(routes!(exec::once::stream))
        .routes(routes!(exec::attach::attach))
        .routes(routes!(exec::attach::terminal))
        .routes(routes!(files::upload))
        .routes(routes!(files::download))
        .routes(routes!(files::list))
        .routes(routes!(network::profile_list))
        .routes(routes!(network::show, network::change))
        .routes(routes!(audit_log::show))
        .routes(routes!(shell::open))
        .routes(routes!(state::fork::fork))
        .routes(routes!(state::hibernation::sleep))
        .routes(routes!(state::hibernation::wake))
        .routes(routes!(state::snapshots::take))
        .routes(routes!(state::snapshots::restore))
        .routes(routes!(state::snapshots::list))
        .routes(routes!(state::snapshots::delete))
        .routes(routes!(usage))
        .routes(routes!(metrics::show))
}

/// Ports of runs. What they answer is theirs, and no part of the description.
fn proxied() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .route("/v1/runs/{id}/proxy/{port}", any(proxy::keyed))
        .route("/v1/runs/{id}/proxy/{port}/", any(proxy::keyed))
        .route("/v1/runs/{id}/proxy/{port}/{*path}", any(proxy::keyed))
}

/// What the paths are, described: from the same lists that serve them.
pub fn document() -> OpenApi {
    open().merge(keyed()).to_openapi()
}

/// Everything that the server serves.
pub fn service(app: &App) -> Router {
    let key = middleware::from_fn_with_state(app.clone(), auth::require_key);
    let operations = strict::Operations::of(&document());
    let known = middleware::from_fn_with_state(operations, strict::check);
    let keyed = keyed().route_layer(known).merge(proxied()).route_layer(key);
    let (router, _) = open().merge(keyed).split_for_parts();
    router
        .route("/sb/{*place}", any(proxy::anonymous))
        .fallback(observe::no_such_route)
        .method_not_allowed_fallback(observe::no_such_method)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(middleware::from_fn_with_state(app.clone(), limits::bound))
        .layer(middleware::from_fn_with_state(app.clone(), observe::record))
        .layer(middleware::from_fn(early::close))
        .with_state(app.clone())
}

/// Whether the server answers
#[utoipa::path(
    get, path = "/healthz", tag = "server", operation_id = "health",
    responses((status = 200, body = Health)),
    security(()),
)]
async fn health() -> Answer<Health> {
    Answer(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Whether the server takes new runs
#[utoipa::path(
    get, path = "/readyz", tag = "server", operation_id = "ready",
    responses(
        (status = 200, body = Readiness),
        (status = 503, body = Readiness, description = "It is stopping, its database is away, or it is short of something"),
    ),
    security(()),
)]
async fn ready(State(app): State<App>) -> (StatusCode, Answer<Readiness>) {
    let is_there = timeout(DATABASE_TIMEOUT, app.store.is_there()).await.unwrap_or(false);
    let trouble = if app.stopping.is_cancelled() {
        Some("stopping".to_owned())
    } else if !is_there {
        Some("no database".to_owned())
    } else {
        app.guard.shortage().map(|what| format!("short of {what}"))
    };
    let code = if trouble.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let status = trouble.unwrap_or_else(|| "ready".to_owned());
    let can = app.engine.capabilities();
    let engine = format!("{} {}", can.name, can.version);
    (code, Answer(Readiness { status, engine, isolation: can.isolation }))
}

/// Create a run
///
/// Answers when the sandbox takes commands. If the client goes away before, it is destroyed.
#[utoipa::path(
    post, path = "/v1/runs", tag = "runs", operation_id = "create_run",
    request_body = NewRun,
    responses(
        (status = 200, body = Run),
        (status = 400, body = ErrorBody, description = "A field that cannot be; the text names it"),
        (status = 401, body = ErrorBody, description = "No key, or one that is not known"),
        (status = 404, body = ErrorBody, description = "No such image"),
        (status = 413, body = ErrorBody, description = "A body of more than 1 MiB"),
        (status = 429, body = ErrorBody, description = "Too many requests, or too many runs"),
        (status = 501, body = ErrorBody, description = "A field that this server cannot do yet"),
        (status = 503, body = ErrorBody, description = "The server is stopping, or lacks something"),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewRun>,
) -> Result<Answer<Run>, ApiError> {
    let order = Order::new(new, &app.config.limits)?;
    let run = lifecycle::create(&app, caller, order).await?;
    Ok(Answer(run.describe(&app.config)))
}

/// The caller's runs
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", operation_id = "list_runs",
    responses((status = 200, body = RunList)),
)]
async fn list(State(app): State<App>, caller: Caller) -> Answer<RunList> {
    let runs = app.runs.list(Some(&caller.tenant));
    Answer(RunList { runs: runs.iter().map(|run| run.describe(&app.config)).collect() })
}

/// A run
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs", operation_id = "get_run",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Run),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
async fn get(State(app): State<App>, OwnRun(run): OwnRun) -> Answer<Run> {
    Answer(run.describe(&app.config))
}

/// Change how long a run may be idle, or what it reaches
#[utoipa::path(
    patch, path = "/v1/runs/{id}", tag = "runs", operation_id = "patch_run",
    params(("id" = String, Path, description = "The run")),
    request_body = Patch,
    responses(
        (status = 200, body = Run),
        (status = 400, body = ErrorBody, description = "A timeout that cannot be"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
async fn patch(
    State(app): State<App>,
    OwnRun(run): OwnRun,
    Json(patch): Json<Patch>,
) -> Result<Answer<Run>, ApiError> {
    let timeout = patch.timeout.map(|timeout| order::timeout("timeout", timeout)).transpose()?;
    let change = NetworkChange {
        network: patch.network,
        network_profile: patch.network_profile,
        ..NetworkChange::default()
    };
    let changes_network = change.network.is_some() || change.network_profile.is_some();
    if timeout.is_none() && !changes_network {
        return Err(ApiError::invalid(
            "nothing to change: give `timeout`, `network` or `network_profile`",
        ));
    }
    if changes_network {
        network::apply(&app, &run, change).await?;
    }
    if let Some(timeout) = timeout {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        app.store.set_run_timeout(&run.id, ms).await?;
        run.activity.set_timeout(timeout);
    }
    Ok(Answer(run.describe(&app.config)))
}

/// Destroy a run
///
/// Everything of it goes, and whoever waits for a command in it is told. Answers with what it
/// used.
#[utoipa::path(
    delete, path = "/v1/runs/{id}", tag = "runs", operation_id = "destroy_run",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = DestroyStats),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed before"),
    ),
)]
async fn delete(
    State(app): State<App>,
    OwnRun(run): OwnRun,
) -> Result<Answer<DestroyStats>, ApiError> {
    Ok(Answer(lifecycle::destroy(&app, &run, "a request destroyed it").await?))
}

/// What a run uses now
#[utoipa::path(
    get, path = "/v1/runs/{id}/stats", tag = "runs", operation_id = "run_stats",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = RunStats),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
async fn stats(State(app): State<App>, OwnRun(run): OwnRun) -> Result<Answer<RunStats>, ApiError> {
    let stats = match run.remains() {
        Some(stats) => stats,
        None => {
            let stats = app.engine.stats(&run.sandbox).await;
            run.total(stats.map_err(|error| engine_error("cannot measure the sandbox", error))?)
        }
    };
    Ok(Answer(RunStats {
        cpu_ms: stats.cpu_ms,
        mem_bytes: stats.mem_bytes,
        mem_peak_bytes: stats.mem_peak_bytes,
        disk_used_bytes: stats.disk_used_bytes,
        pids: stats.pids,
        uptime_ms: run.uptime_ms(),
    }))
}

/// How much of the history.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct HistoryParams {
    /// How many runs, the latest first; 100 if not given, 1000 at most.
    limit: Option<u32>,
    /// Those before this run, which is the last one of another answer.
    before: Option<String>,
}

/// The caller's runs that are gone
#[utoipa::path(
    get, path = "/v1/runs/history", tag = "runs", operation_id = "history",
    params(HistoryParams),
    responses((status = 200, body = History)),
)]
async fn history(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<HistoryParams>,
) -> Result<Answer<History>, ApiError> {
    let limit = params.limit.unwrap_or(100);
    if limit > MOST_HISTORY {
        return Err(ApiError::invalid(format!("limit is {limit}: {MOST_HISTORY} is the most")));
    }
    let before = params.before.map(|id| id.parse::<RunId>()).transpose();
    let before = before.map_err(|error| ApiError::invalid(format!("before: {error}")))?;
    Ok(Answer(History { sandboxes: app.store.history(&caller.tenant, before, limit).await? }))
}

/// What the caller's runs used
#[utoipa::path(
    get, path = "/v1/usage", tag = "runs", operation_id = "usage",
    responses((status = 200, body = Usage)),
)]
async fn usage(State(app): State<App>, caller: Caller) -> Result<Answer<Usage>, ApiError> {
    let mut usage = app.store.past_usage(&caller.tenant).await?;
    for run in app.runs.list(Some(&caller.tenant)) {
        usage.active_sandboxes += 1;
        let gib = run.row.mem_mib as f64 / 1024.0;
        usage.mem_seconds += gib * run.uptime_ms() as f64 / 1000.0;
        let stats = match run.remains() {
            Some(stats) => Some(stats),
            // One that ends meanwhile is counted next time.
            None => app.engine.stats(&run.sandbox).await.ok().map(|stats| run.total(stats)),
        };
        usage.cpu_seconds += stats.map_or(0.0, |stats| stats.cpu_ms as f64 / 1000.0);
    }
    usage.as_of = clock::rfc3339(clock::now_ms());
    Ok(Answer(usage))
}

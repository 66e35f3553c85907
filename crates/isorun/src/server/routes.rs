//! The routing table, and the handlers of runs, history and usage.

use std::time::Duration;

use axum::{
    Json as JsonResponse, Router, extract::State, http::StatusCode, middleware, routing::any,
};
use serde::Deserialize;
use tokio::time::timeout;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, App, Caller, audit_log, auth, early, exec,
    extract::{Json, OwnedRun, Params},
    files,
    lifecycle::{self, engine_error},
    limits, metrics, network, observe, openapi, proxy, shell, state, strict,
    validate::{self, CreateParams},
};
use crate::clock;
use isorun_api::RunId;
use isorun_api::{
    DestroyStats, ErrorBody, Health, History, NetworkChange, NewRun, Patch, Readiness, Run,
    RunList, RunStats, Usage,
};

/// The largest number of runs in a response of the history.
const MAX_HISTORY_RUNS: u32 = 1000;

/// The longest time that the database may take to respond to the readiness check.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the routes that need no key.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(openapi::show))
}

/// Returns the routes that need a key.
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
        .routes(routes!(state::hibernation::hibernate_run))
        .routes(routes!(state::hibernation::resume_run))
        .routes(routes!(state::snapshots::take))
        .routes(routes!(state::snapshots::restore))
        .routes(routes!(state::snapshots::list))
        .routes(routes!(state::snapshots::delete))
        .routes(routes!(usage))
        .routes(routes!(metrics::show))
}

/// Returns the routes to ports of runs. They are not part of the OpenAPI description.
fn proxied() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .route("/v1/runs/{id}/proxy/{port}", any(proxy::keyed))
        .route("/v1/runs/{id}/proxy/{port}/", any(proxy::keyed))
        .route("/v1/runs/{id}/proxy/{port}/{*path}", any(proxy::keyed))
}

/// Returns the OpenAPI description of all routes.
pub fn document() -> OpenApi {
    open().merge(keyed()).to_openapi()
}

/// Returns the complete router of the server.
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
        .layer(middleware::from_fn_with_state(app.clone(), limits::limit_requests))
        .layer(middleware::from_fn_with_state(app.clone(), observe::record))
        .layer(middleware::from_fn(early::close))
        .with_state(app.clone())
}

/// Check the server's health
#[utoipa::path(
    get, path = "/healthz", tag = "server", operation_id = "health",
    responses((status = 200, body = Health)),
    security(()),
)]
async fn health() -> JsonResponse<Health> {
    JsonResponse(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Check the server's readiness for new runs
#[utoipa::path(
    get, path = "/readyz", tag = "server", operation_id = "ready",
    responses(
        (status = 200, body = Readiness),
        (status = 503, body = Readiness, description = "The server is stopping, its database does not respond, or a resource is exhausted"),
    ),
    security(()),
)]
async fn ready(State(app): State<App>) -> (StatusCode, JsonResponse<Readiness>) {
    let reachable = timeout(DATABASE_TIMEOUT, app.store.is_reachable()).await.unwrap_or(false);
    let problem = if app.stopping.is_cancelled() {
        Some("stopping".to_owned())
    } else if !reachable {
        Some("no database".to_owned())
    } else {
        app.guard.shortage().map(|what| format!("short of {what}"))
    };
    let code = if problem.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let status = problem.unwrap_or_else(|| "ready".to_owned());
    let can = app.engine.capabilities();
    let engine = format!("{} {}", can.name, can.version);
    (code, JsonResponse(Readiness { status, engine, isolation: can.isolation }))
}

/// Create a run
///
/// Responds when the sandbox accepts commands. If the client disconnects before, the run is
/// destroyed.
#[utoipa::path(
    post, path = "/v1/runs", tag = "runs", operation_id = "create_run",
    request_body = NewRun,
    responses(
        (status = 200, body = Run),
        (status = 400, body = ErrorBody, description = "A field is not valid; the message names it"),
        (status = 401, body = ErrorBody, description = "The API key is missing or not valid"),
        (status = 404, body = ErrorBody, description = "The image does not exist"),
        (status = 413, body = ErrorBody, description = "The body is larger than 1 MiB"),
        (status = 429, body = ErrorBody, description = "Too many requests, or too many runs"),
        (status = 501, body = ErrorBody, description = "The server does not support a field"),
        (status = 503, body = ErrorBody, description = "The server is stopping, or a resource is exhausted"),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewRun>,
) -> Result<JsonResponse<Run>, ApiError> {
    let params = CreateParams::new(new, &app.config.limits)?;
    let run = lifecycle::create(&app, caller, params).await?;
    Ok(JsonResponse(run.describe(&app.config)))
}

/// List the caller's runs
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", operation_id = "list_runs",
    responses((status = 200, body = RunList)),
)]
async fn list(State(app): State<App>, caller: Caller) -> JsonResponse<RunList> {
    let runs = app.runs.list(Some(&caller.tenant));
    JsonResponse(RunList { runs: runs.iter().map(|run| run.describe(&app.config)).collect() })
}

/// Get a run
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs", operation_id = "get_run",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = Run),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
    ),
)]
async fn get(State(app): State<App>, OwnedRun(run): OwnedRun) -> JsonResponse<Run> {
    JsonResponse(run.describe(&app.config))
}

/// Change the idle timeout or the network rules of a run
#[utoipa::path(
    patch, path = "/v1/runs/{id}", tag = "runs", operation_id = "patch_run",
    params(("id" = String, Path, description = "The run")),
    request_body = Patch,
    responses(
        (status = 200, body = Run),
        (status = 400, body = ErrorBody, description = "The timeout or the rules are not valid"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
    ),
)]
async fn patch(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
    Json(patch): Json<Patch>,
) -> Result<JsonResponse<Run>, ApiError> {
    let timeout = patch.timeout.map(|timeout| validate::timeout("timeout", timeout)).transpose()?;
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
    Ok(JsonResponse(run.describe(&app.config)))
}

/// Destroy a run
///
/// Deletes its sandbox and data. Requests that wait for a command in it get an error. Responds with
/// its resource usage.
#[utoipa::path(
    delete, path = "/v1/runs/{id}", tag = "runs", operation_id = "destroy_run",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = DestroyStats),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was already destroyed"),
    ),
)]
async fn delete(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
) -> Result<JsonResponse<DestroyStats>, ApiError> {
    Ok(JsonResponse(lifecycle::destroy(&app, &run, "a request destroyed it").await?))
}

/// Get the current resource usage of a run
#[utoipa::path(
    get, path = "/v1/runs/{id}/stats", tag = "runs", operation_id = "run_stats",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = RunStats),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
    ),
)]
async fn stats(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
) -> Result<JsonResponse<RunStats>, ApiError> {
    let stats = match run.final_stats() {
        Some(stats) => stats,
        None => {
            let stats = app.engine.stats(&run.sandbox).await;
            run.total(stats.map_err(|error| engine_error("cannot measure the sandbox", error))?)
        }
    };
    Ok(JsonResponse(RunStats {
        cpu_ms: stats.cpu_ms,
        mem_bytes: stats.mem_bytes,
        mem_peak_bytes: stats.mem_peak_bytes,
        disk_used_bytes: stats.disk_used_bytes,
        pids: stats.pids,
        uptime_ms: run.uptime_ms(),
    }))
}

/// Parameters of the history.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct HistoryParams {
    /// Number of runs, the latest first; 100 by default, at most 1000.
    limit: Option<u32>,
    /// Returns runs before this one, which is the last of the previous response.
    before: Option<String>,
}

/// List the caller's destroyed runs
#[utoipa::path(
    get, path = "/v1/runs/history", tag = "runs", operation_id = "history",
    params(HistoryParams),
    responses((status = 200, body = History)),
)]
async fn history(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<HistoryParams>,
) -> Result<JsonResponse<History>, ApiError> {
    let limit = params.limit.unwrap_or(100);
    if limit > MAX_HISTORY_RUNS {
        return Err(ApiError::invalid(format!(
            "limit is {limit}: at most {MAX_HISTORY_RUNS} is allowed"
        )));
    }
    let before = params.before.map(|id| id.parse::<RunId>()).transpose();
    let before = before.map_err(|error| ApiError::invalid(format!("before: {error}")))?;
    Ok(JsonResponse(History { sandboxes: app.store.history(&caller.tenant, before, limit).await? }))
}

/// Get the total resource usage of the caller's runs
#[utoipa::path(
    get, path = "/v1/usage", tag = "runs", operation_id = "usage",
    responses((status = 200, body = Usage)),
)]
async fn usage(State(app): State<App>, caller: Caller) -> Result<JsonResponse<Usage>, ApiError> {
    let mut usage = app.store.past_usage(&caller.tenant).await?;
    for run in app.runs.list(Some(&caller.tenant)) {
        usage.active_sandboxes += 1;
        let gib = run.row.mem_mib as f64 / 1024.0;
        usage.mem_seconds += gib * run.uptime_ms() as f64 / 1000.0;
        let stats = match run.final_stats() {
            Some(stats) => Some(stats),
            // A run that ends meanwhile is counted in the next report.
            None => app.engine.stats(&run.sandbox).await.ok().map(|stats| run.total(stats)),
        };
        usage.cpu_seconds += stats.map_or(0.0, |stats| stats.cpu_ms as f64 / 1000.0);
    }
    usage.as_of = clock::rfc3339(clock::now_ms());
    Ok(JsonResponse(usage))
}

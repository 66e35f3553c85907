//! Routes of runs, their history and their usage.

use std::{collections::HashSet, time::Duration};

use axum::{
    Json as JsonResponse,
    extract::{Request, State},
};
use isorun_api::{
    DestroyStats, ErrorBody, History, NetworkChange, NewRun, Patch, Run, RunId, RunList, RunStats,
    Usage,
};
use isorun_peers::Peer;
use serde::Deserialize;

use super::{
    App,
    auth::Caller,
    elsewhere,
    error::ApiError,
    extract::{Json, OwnedRun, Params},
    proxy::TOKEN_NAME,
};
use crate::{
    clock,
    config::Config,
    core::{
        create,
        create_params::CreateParams,
        destroy,
        error::Error,
        live_run::{Defaults, LiveRun, UrlAccess},
        network_change, validate,
    },
    store::RunRow,
};

/// The largest number of runs in a response of the history.
const MAX_HISTORY_RUNS: u32 = 1000;

/// Returns the description for the API.
pub fn describe(run: &LiveRun, config: &Config) -> Run {
    Run {
        status: run.status(),
        timeout: run.activity.timeout().as_secs_f64(),
        ..describe_row(&run.row, &run.defaults, config)
    }
}

/// Returns the description of a run as it is stored.
fn describe_row(row: &RunRow, defaults: &Defaults, config: &Config) -> Run {
    Run {
        id: row.id.clone(),
        status: row.status,
        image: row.image.clone(),
        region: config.region.clone(),
        vcpus: row.vcpus,
        mem_mib: row.mem_mib,
        disk_mib: row.disk_mib,
        create_ms: row.create_ms,
        created_at: clock::rfc3339(row.created_at),
        timeout: Duration::from_millis(row.timeout_ms).as_secs_f64(),
        port_url: port_url(&row.id, &defaults.urls, config),
        on_idle: row.on_idle,
        auto_resume: row.auto_resume,
    }
}

/// Returns the URL of a run's ports for access without an API key, if that is enabled.
fn port_url(id: &RunId, urls: &UrlAccess, config: &Config) -> Option<String> {
    let token = match urls {
        _ if !config.urls.anonymous => return None,
        UrlAccess::Off => return None,
        UrlAccess::Open => String::new(),
        UrlAccess::Token(token) => format!("?{}={token}", TOKEN_NAME),
    };
    Some(match &config.urls.base {
        Some((scheme, name)) => {
            format!("{scheme}://{id}.{name}/sb/p/{{port}}/{token}")
        }
        None => format!("/sb/{id}/p/{{port}}/{token}"),
    })
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
pub async fn create_run(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewRun>,
) -> Result<JsonResponse<Run>, ApiError> {
    let params = CreateParams::new(new, &app.core.config.limits)?;
    let run = create::create(&app.core, &caller.tenant, params).await?;
    Ok(JsonResponse(describe(&run, &app.core.config)))
}

/// List the caller's runs
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", operation_id = "list_runs",
    responses((status = 200, body = RunList)),
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
) -> Result<JsonResponse<RunList>, ApiError> {
    let config = &app.core.config;
    let here = app.core.runs.list(Some(&caller.tenant));
    let elsewhere = app.core.store.runs_elsewhere(&caller.tenant).await?;
    let mut runs: Vec<(i64, Run)> =
        here.iter().map(|run| (run.row.created_at, describe(run, config))).collect();
    // One of this node's own may have arrived here meanwhile.
    let ids: HashSet<&RunId> = here.iter().map(|run| &run.id).collect();
    for row in elsewhere.iter().filter(|row| !ids.contains(&row.id)) {
        let defaults = Defaults::parse(&row.defaults);
        runs.push((row.created_at, describe_row(row, &defaults, config)));
    }
    runs.sort_by(|(a, x), (b, y)| (a, &x.id).cmp(&(b, &y.id)));
    Ok(JsonResponse(RunList { runs: runs.into_iter().map(|(_, run)| run).collect() }))
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
pub async fn get(State(app): State<App>, OwnedRun(run): OwnedRun) -> JsonResponse<Run> {
    JsonResponse(describe(&run, &app.core.config))
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
pub async fn patch(
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
        network_change::apply(&app.core, &run, change).await?;
    }
    if let Some(timeout) = timeout {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        app.core.store.set_run_timeout(&run.id, ms).await?;
        run.activity.set_timeout(timeout);
    }
    Ok(JsonResponse(describe(&run, &app.core.config)))
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
pub async fn delete(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
) -> Result<JsonResponse<DestroyStats>, ApiError> {
    Ok(JsonResponse(destroy::destroy(&app.core, &run, "a request destroyed it").await?))
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
pub async fn stats(
    State(app): State<App>,
    OwnedRun(run): OwnedRun,
) -> Result<JsonResponse<RunStats>, ApiError> {
    let stats = match run.final_stats() {
        Some(stats) => stats,
        None => {
            let stats = app.core.engines.stats(&run.sandbox).await;
            run.total(stats.map_err(|error| Error::engine("cannot measure the sandbox", error))?)
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
pub struct HistoryParams {
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
pub async fn history(
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
    Ok(JsonResponse(History {
        sandboxes: app.core.store.history(&caller.tenant, before, limit).await?,
    }))
}

/// Get the total resource usage of the caller's runs
#[utoipa::path(
    get, path = "/v1/usage", tag = "runs", operation_id = "usage",
    responses((status = 200, body = Usage)),
)]
pub async fn usage(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<JsonResponse<Usage>, ApiError> {
    // Another node that adds up the usage of all nodes asks for that of this one only.
    let is_part = request.extensions().get::<Peer>().is_some();
    let mut usage = if is_part {
        Usage::default()
    } else {
        let past = app.core.store.past_usage(&caller.tenant).await?;
        elsewhere::add_usage(&app, request.headers(), past).await
    };
    for run in app.core.runs.list(Some(&caller.tenant)) {
        usage.active_sandboxes += 1;
        let gib = run.row.mem_mib as f64 / 1024.0;
        usage.mem_seconds += gib * run.uptime_ms() as f64 / 1000.0;
        let stats = match run.final_stats() {
            Some(stats) => Some(stats),
            // A run that ends meanwhile is counted in the next report.
            None => app.core.engines.stats(&run.sandbox).await.ok().map(|stats| run.total(stats)),
        };
        usage.cpu_seconds += stats.map_or(0.0, |stats| stats.cpu_ms as f64 / 1000.0);
    }
    usage.as_of = clock::rfc3339(clock::now_ms());
    Ok(JsonResponse(usage))
}

//! The contexts of a run: list, create, restart, interrupt and remove them.

use std::sync::Arc;

use axum::extract::{Path, State};
use isorun_agent::{
    client::{self, ClientError},
    code as agent,
};
use isorun_api::{Context, ContextChanged, ContextList, ContextRequest, ContextStatus, ErrorBody};
use isorun_engine::AgentStream;

use super::{
    App,
    code::{interpreter, new_context},
    error::ApiError,
    exec::agent_error,
    extract::{Json, ResumedRun},
};
use crate::core::{live_run::LiveRun, validate};

/// List the contexts of a run
#[utoipa::path(
    get, path = "/v1/runs/{id}/contexts", tag = "code", operation_id = "contexts",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = ContextList),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
    ),
)]
pub async fn list(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
) -> Result<axum::Json<ContextList>, ApiError> {
    if run.interpreter.is_some() {
        return interpreter::contexts(&app, &run).await;
    }
    let contexts = ask(&app, &run, client::contexts).await?;
    Ok(axum::Json(ContextList { contexts: contexts.into_iter().map(context).collect() }))
}

/// Create a context
///
/// Responds when its interpreter has started.
#[utoipa::path(
    post, path = "/v1/runs/{id}/contexts", tag = "code", operation_id = "create_context",
    params(("id" = String, Path, description = "The run")),
    request_body = ContextRequest,
    responses(
        (status = 200, body = Context),
        (status = 400, body = ErrorBody, description = "The request is invalid"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
        (status = 422, body = ErrorBody, description = "The image has no interpreter for the language"),
        (status = 429, body = ErrorBody, description = "The limit of contexts is reached"),
    ),
)]
pub async fn create(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Json(request): Json<ContextRequest>,
) -> Result<axum::Json<Context>, ApiError> {
    let cwd = request.cwd.as_deref().map(|cwd| validate::path("cwd", cwd)).transpose()?;
    app.core.guard.admit_command(&run.tenant)?;
    if run.interpreter.is_some() {
        return interpreter::create_context(&app, &run, request.language, cwd).await;
    }
    let new = new_context(&run, request.language, cwd);
    let created = ask(&app, &run, |stream| client::create_context(stream, new)).await?;
    Ok(axum::Json(context(created)))
}

/// Remove a context
///
/// Ends its interpreter, and a cell that runs in it.
#[utoipa::path(
    delete, path = "/v1/runs/{id}/contexts/{context}", tag = "code",
    operation_id = "remove_context",
    params(
        ("id" = String, Path, description = "The run"),
        ("context" = String, Path, description = "The context"),
    ),
    responses(
        (status = 200, body = ContextChanged),
        (status = 404, body = ErrorBody, description = "The run or the context does not exist"),
    ),
)]
pub async fn remove(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Path((_, id)): Path<(String, String)>,
) -> Result<axum::Json<ContextChanged>, ApiError> {
    if run.interpreter.is_some() {
        interpreter::remove_context(&app, &run, &id).await?;
        return Ok(axum::Json(ContextChanged { id, status: "removed".to_owned() }));
    }
    ask(&app, &run, |stream| client::remove_context(stream, id.clone())).await?;
    Ok(axum::Json(ContextChanged { id, status: "removed".to_owned() }))
}

/// Restart a context
///
/// Ends its interpreter, and a cell that runs in it, and starts another interpreter without the
/// variables.
#[utoipa::path(
    post, path = "/v1/runs/{id}/contexts/{context}/restart", tag = "code",
    operation_id = "restart_context",
    params(
        ("id" = String, Path, description = "The run"),
        ("context" = String, Path, description = "The context"),
    ),
    responses(
        (status = 200, body = Context),
        (status = 404, body = ErrorBody, description = "The run or the context does not exist"),
    ),
)]
pub async fn restart(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Path((_, id)): Path<(String, String)>,
) -> Result<axum::Json<Context>, ApiError> {
    if run.interpreter.is_some() {
        return interpreter::restart_context(&app, &run, &id).await;
    }
    let restarted = ask(&app, &run, |stream| client::restart_context(stream, id)).await?;
    Ok(axum::Json(context(restarted)))
}

/// Interrupt the cell of a context
///
/// Has no effect on a context that runs no cell. A cell that does not end within five seconds is
/// ended with its interpreter.
#[utoipa::path(
    post, path = "/v1/runs/{id}/contexts/{context}/interrupt", tag = "code",
    operation_id = "interrupt_context",
    params(
        ("id" = String, Path, description = "The run"),
        ("context" = String, Path, description = "The context"),
    ),
    responses(
        (status = 200, body = ContextChanged),
        (status = 404, body = ErrorBody, description = "The run or the context does not exist"),
    ),
)]
pub async fn interrupt(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Path((_, id)): Path<(String, String)>,
) -> Result<axum::Json<ContextChanged>, ApiError> {
    if run.interpreter.is_some() {
        interpreter::interrupt_context(&app, &run, &id).await?;
        return Ok(axum::Json(ContextChanged { id, status: "interrupted".to_owned() }));
    }
    ask(&app, &run, |stream| client::interrupt_context(stream, id.clone())).await?;
    Ok(axum::Json(ContextChanged { id, status: "interrupted".to_owned() }))
}

/// Sends a request about contexts to the agent of a Linux sandbox.
async fn ask<T, F>(
    app: &App,
    run: &Arc<LiveRun>,
    request: impl FnOnce(AgentStream) -> F,
) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    run.during(async {
        let stream = app.core.connect(run).await?;
        request(stream).await.map_err(agent_error)
    })
    .await
}

fn context(info: agent::ContextInfo) -> Context {
    Context {
        id: info.id,
        language: info.language,
        cwd: info.cwd,
        status: match info.status {
            agent::ContextStatus::Idle => ContextStatus::Idle,
            agent::ContextStatus::Busy => ContextStatus::Busy,
            agent::ContextStatus::Dead => ContextStatus::Dead,
        },
        execution_count: info.execution_count,
        kernel: info.kernel,
    }
}

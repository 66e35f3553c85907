//! Extractors of handlers: validated bodies, queries and runs, with errors that name
//! the cause.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::request::Parts,
};
use isorun_api::RunId;
use serde::de::DeserializeOwned;

use super::{
    App,
    auth::Caller,
    error::{ApiError, Code},
    json_body::{collect, is_json},
};
use crate::{
    clock,
    core::{hibernation, live_run::LiveRun},
    strict_json,
};

/// A JSON body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        is_json(&parts.headers)?;
        let bytes = collect(body).await?;
        let parsed = strict_json::object(&bytes);
        parsed
            .map(Self)
            .map_err(|why| ApiError::invalid(format!("the body is not a valid request: {why}")))
    }
}

/// The parameters of the query.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, app).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(ApiError::invalid(format!("the query: {}", error.body_text()))),
        }
    }
}

/// A request for a WebSocket.
pub struct WebSocketRequest(pub WebSocketUpgrade);

impl FromRequestParts<App> for WebSocketRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        use WebSocketUpgradeRejection::{
            InvalidConnectionHeader, InvalidUpgradeHeader, MethodNotConnect, MethodNotGet,
        };
        let upgrade = WebSocketUpgrade::from_request_parts(parts, app).await;
        upgrade.map(Self).map_err(|rejection| {
            let why = match rejection {
                // The same at each node: what is no upgrade is forwarded by HTTP/2.
                InvalidConnectionHeader(_)
                | InvalidUpgradeHeader(_)
                | MethodNotConnect(_)
                | MethodNotGet(_) => {
                    "it has no header `Upgrade: websocket`, or is no CONNECT by HTTP/2".to_owned()
                }
                other => other.body_text(),
            };
            ApiError::invalid(format!("this path requires a WebSocket upgrade: {why}"))
        })
    }
}

/// The run that the path names, which must belong to the caller's tenant.
pub struct OwnedRun(pub Arc<LiveRun>);

impl FromRequestParts<App> for OwnedRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let (caller, id) = caller_and_id(parts, app).await?;
        if let Some(run) = app.core.runs.get(&id).filter(|run| run.tenant == caller.tenant) {
            return Ok(Self(run));
        }
        // Runs of other tenants look like runs that do not exist.
        match app.core.store.run(&id).await?.filter(|row| row.tenant == caller.tenant) {
            // It is being created, or another node of the cluster is taking it over.
            Some(row) if row.destroyed_at.is_none() && app.core.cluster.is_some() => {
                let message = format!("{id} is being moved or created: try again");
                Err(ApiError::new(Code::RunBusy, message).after(Duration::from_secs(1)))
            }
            Some(row) => Err(ApiError::new(
                Code::RunDestroyed,
                format!(
                    "{id} was destroyed at {}: {}",
                    clock::rfc3339(row.destroyed_at.unwrap_or(row.created_at)),
                    row.reason.as_deref().unwrap_or("it could not be kept"),
                ),
            )),
            None => Err(not_found(&id)),
        }
    }
}

/// A run like [`OwnedRun`], for operations that need its sandbox: a hibernated run with
/// `auto_resume` is resumed.
pub struct ResumedRun(pub Arc<LiveRun>);

impl FromRequestParts<App> for ResumedRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let OwnedRun(run) = OwnedRun::from_request_parts(parts, app).await?;
        hibernation::resume_if_automatic(&app.core, &run).await?;
        Ok(Self(run))
    }
}

/// The id of a run of the caller's tenant, which may have been destroyed.
pub struct OwnedRunId(pub RunId);

impl FromRequestParts<App> for OwnedRunId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let (caller, id) = caller_and_id(parts, app).await?;
        match app.core.store.run(&id).await? {
            Some(row) if row.tenant == caller.tenant => Ok(Self(id)),
            _ => Err(not_found(&id)),
        }
    }
}

async fn caller_and_id(parts: &mut Parts, app: &App) -> Result<(Caller, RunId), ApiError> {
    let caller = Caller::from_request_parts(parts, app).await?;
    // The path may have further parameters.
    let Path(names) = Path::<HashMap<String, String>>::from_request_parts(parts, app)
        .await
        .map_err(|error| ApiError::invalid(format!("the path: {}", error.body_text())))?;
    let id = names.get("id").map(String::as_str).unwrap_or_default();
    let id = id.parse().map_err(|error| ApiError::new(Code::RunNotFound, format!("{error}")))?;
    Ok((caller, id))
}

fn not_found(id: &RunId) -> ApiError {
    ApiError::new(
        Code::RunNotFound,
        format!("the run {id} does not exist or belongs to another tenant"),
    )
}

//! What handlers are given: bodies, queries and runs, checked, with errors that
//! say what was wrong.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    ApiError, App, Caller, Code, config::MAX_JSON, limits, runs::LiveRun, state::hibernation,
    strict,
};
use crate::{clock, id::RunId};

/// How much of a refused body is read all the same, and for how long.
const DRAINED: usize = 256 << 20;
const DRAINING: Duration = Duration::from_secs(5);

/// A body of JSON.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        strict::is_json(&parts.headers)?;
        let bytes = collect(body).await?;
        let parsed = strict::object(&bytes);
        parsed
            .map(Self)
            .map_err(|why| ApiError::invalid(format!("the body is no valid request: {why}")))
    }
}

/// Reads a body that is JSON to its end.
pub async fn collect(body: Body) -> Result<BytesMut, ApiError> {
    let mut body = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(limits::broken_body)?);
        if bytes.len() > MAX_JSON {
            drain(&mut body).await;
            let message = format!("the body is larger than {MAX_JSON} bytes");
            return Err(ApiError::new(Code::TooLarge, message));
        }
    }
    Ok(bytes)
}

/// Reads on, for a while, what nobody wants: a connection that closes on a
/// client that still sends loses the answer.
pub async fn drain(body: &mut BodyDataStream) {
    let mut room = DRAINED;
    let reading = async {
        while let Some(Ok(piece)) = body.next().await
            && piece.len() < room
        {
            room -= piece.len();
        }
    };
    let _ = timeout(DRAINING, reading).await;
}

/// The parameters behind the question mark.
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

/// The caller's own run that the path names.
pub struct OwnRun(pub Arc<LiveRun>);

impl FromRequestParts<App> for OwnRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let (caller, id) = asked(parts, app).await?;
        if let Some(run) = app.runs.get(&id).filter(|run| run.tenant == caller.tenant) {
            return Ok(Self(run));
        }
        // Foreign runs look like runs that never were.
        match app.store.run(&id).await?.filter(|row| row.tenant == caller.tenant) {
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

/// The same, for what needs its sandbox: one that was hibernated and is to be
/// resumed by that, is.
pub struct AwakeRun(pub Arc<LiveRun>);

impl FromRequestParts<App> for AwakeRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let OwnRun(run) = OwnRun::from_request_parts(parts, app).await?;
        hibernation::wake_if_asked(app, &run).await?;
        Ok(Self(run))
    }
}

/// The id of a run of the caller, there or gone.
pub struct OwnRunId(pub RunId);

impl FromRequestParts<App> for OwnRunId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let (caller, id) = asked(parts, app).await?;
        match app.store.run(&id).await? {
            Some(row) if row.tenant == caller.tenant => Ok(Self(id)),
            _ => Err(not_found(&id)),
        }
    }
}

async fn asked(parts: &mut Parts, app: &App) -> Result<(Caller, RunId), ApiError> {
    let caller = Caller::from_request_parts(parts, app).await?;
    let Path(id) = Path::<String>::from_request_parts(parts, app)
        .await
        .map_err(|error| ApiError::invalid(format!("the path: {}", error.body_text())))?;
    let id = id.parse().map_err(|error| ApiError::new(Code::RunNotFound, format!("{error}")))?;
    Ok((caller, id))
}

fn not_found(id: &RunId) -> ApiError {
    ApiError::new(
        Code::RunNotFound,
        format!("there is no run {id}: it was never created, or with another tenant's key"),
    )
}

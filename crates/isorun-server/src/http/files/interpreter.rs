//! Files of a run that is an interpreter. They are in memory, so that an upload is
//! collected before it is written; its memory is counted for the tenant meanwhile.

use std::sync::Arc;

use axum::{
    Json as JsonResponse,
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, TryStreamExt};
use isorun_agent::protocol::Name;
use isorun_api::{FILE_MODE, Written};

use super::{NAME_OVERHEAD_BYTES, listing_response, too_large, with_stall_timeout};
use crate::{
    core::live_run::LiveRun,
    http::{
        App,
        body::{body_error, too_slow},
        code::interpreter::api_error,
        error::ApiError,
    },
};

/// Writes a file.
pub async fn upload(
    app: &App,
    run: &Arc<LiveRun>,
    path: String,
    body: Body,
) -> Result<JsonResponse<Written>, ApiError> {
    check_name(&path)?;
    let max_bytes = app.core.config.limits.upload.min(run.row.disk_mib << 20);
    let memory = &app.core.accounts.memory;
    let refusal = |exhausted| ApiError::from(memory.refusal(exhausted));
    let mut hold = memory.take(&run.tenant, 0).map_err(refusal)?;
    let work = async {
        let mut pieces =
            with_stall_timeout(body.into_data_stream().map_err(std::io::Error::other).boxed())
                .boxed();
        let mut content = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| match too_slow(&error) {
                Some(_) => body_error(error),
                None => ApiError::invalid(format!(
                    "the upload was interrupted, and nothing was written: {error}"
                )),
            })?;
            hold.grow(piece.len() as u64).map_err(refusal)?;
            if (content.len() + piece.len()) as u64 > max_bytes {
                return Err(too_large(max_bytes));
            }
            content.extend_from_slice(&piece);
        }
        let size = content.len() as u64;
        let interpreters = &app.core.engines.interpreters;
        let written = interpreters.write_file(&run.sandbox, path.clone(), content).await;
        written.map_err(|error| api_error(run, error))?;
        Ok(JsonResponse(Written { path: path.clone(), size }))
    };
    run.during(work).await
}

/// Reads a file.
pub async fn download(app: &App, run: &Arc<LiveRun>, path: String) -> Result<Response, ApiError> {
    check_name(&path)?;
    let (interpreters, memory) = (&app.core.engines.interpreters, &app.core.accounts.memory);
    let work = async {
        let size = interpreters.file_size(&run.sandbox, &path);
        let size = size.map_err(|error| api_error(run, error))?;
        // Before it is read: many clients may ask for large files at once.
        let hold = memory.take(&run.tenant, size);
        let hold = hold.map_err(|exhausted| ApiError::from(memory.refusal(exhausted)))?;
        let read = interpreters.read_file(&run.sandbox, path, size).await;
        let file = read.map_err(|error| api_error(run, error))?;
        Ok::<_, ApiError>((file, hold))
    };
    let (file, hold) = run.during(work).await?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    let mode = [(FILE_MODE, format!("{:o}", file.mode & 0o7777))];
    let content = bytes::Bytes::from(file.content);
    // The memory is held until the last piece was sent.
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>(content)]);
    let pieces = pieces.map(move |piece| {
        let _held = &hold;
        piece
    });
    Ok((kind, mode, Body::from_stream(pieces)).into_response())
}

/// Lists a directory.
pub async fn list(app: &App, run: &Arc<LiveRun>, path: String) -> Result<Response, ApiError> {
    check_name(&path)?;
    let work = async {
        let listed = app.core.engines.interpreters.list_files(&run.sandbox, path).await;
        listed.map_err(|error| api_error(run, error))
    };
    let names = run.during(work).await?;
    let memory = &app.core.accounts.memory;
    let bytes: usize = names.iter().map(|name| name.len() + NAME_OVERHEAD_BYTES).sum();
    let hold = memory.take(&run.tenant, bytes as u64);
    let hold = hold.map_err(|exhausted| ApiError::from(memory.refusal(exhausted)))?;
    let names = names.iter().map(|name| Name::from(name.as_str())).collect();
    Ok(listing_response(names, hold))
}

/// Refuses names that are not UTF-8, which an interpreter does not have.
fn check_name(path: &str) -> Result<(), ApiError> {
    if path.contains(char::REPLACEMENT_CHARACTER) {
        return Err(ApiError::invalid(format!(
            "path is {path:?}: names in an interpreter are UTF-8, without U+FFFD"
        )));
    }
    Ok(())
}

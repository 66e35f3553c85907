//! A run's audit log over HTTP, one line an entry.

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{ApiError, App, extract::OwnRunId};
use crate::{
    api::{AuditEntry, ErrorBody},
    store::StoreError,
};

/// Entries that are read at once.
const PAGE: u32 = 256;

/// A run's audit log
///
/// One JSON object in each line, the oldest first; also of a run that was destroyed. Each `hmac`
/// covers the entry and the `hmac` before it; `isorun audit verify` checks them where the server
/// is.
#[utoipa::path(
    get, path = "/v1/runs/{id}/audit", tag = "runs", operation_id = "audit",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = AuditEntry, content_type = "application/x-ndjson"),
        (status = 404, body = ErrorBody, description = "No such run"),
    ),
)]
pub async fn show(State(app): State<App>, OwnRunId(id): OwnRunId) -> Result<Response, ApiError> {
    let pages = stream::try_unfold((app, id, 0), async |(app, id, beyond)| {
        let rows = app.store.audit(&id, beyond, PAGE).await?;
        let Some(last) = rows.last().map(|row| row.seq) else { return Ok(None) };
        let mut lines = Vec::new();
        for row in rows {
            // Plain data: it cannot fail.
            let _ = serde_json::to_writer(&mut lines, &AuditEntry::from(row));
            lines.push(b'\n');
        }
        Ok::<_, StoreError>(Some((lines, (app, id, last))))
    });
    let kind = (header::CONTENT_TYPE, "application/x-ndjson");
    Ok(([kind], Body::from_stream(pages)).into_response())
}

//! The audit log of a run over HTTP, as one line for each entry.

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{App, error::ApiError, extract::OwnedRunId};
use crate::store::StoreError;
use isorun_api::{AuditEntry, ErrorBody};

/// The number of entries that are read with one query.
const ENTRIES_PER_PAGE: u32 = 256;

/// Get a run's audit log
///
/// One JSON object in each line, the oldest first; also of a run that was destroyed. Each `hmac`
/// covers the entry and the previous `hmac`; `isorun audit verify` verifies them on the server's
/// machine.
#[utoipa::path(
    get, path = "/v1/runs/{id}/audit", tag = "runs", operation_id = "audit",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, body = AuditEntry, content_type = "application/x-ndjson"),
        (status = 404, body = ErrorBody, description = "The run does not exist"),
    ),
)]
pub async fn show(
    State(app): State<App>,
    OwnedRunId(id): OwnedRunId,
) -> Result<Response, ApiError> {
    let pages = stream::try_unfold((app, id, 0), async |(app, id, last_seq)| {
        let rows = app.core.store.audit(&id, last_seq, ENTRIES_PER_PAGE).await?;
        let Some(last) = rows.last().map(|row| row.seq) else { return Ok(None) };
        let mut lines = Vec::new();
        for row in rows {
            // Serializing plain data cannot fail.
            let _ = serde_json::to_writer(&mut lines, &AuditEntry::from(row));
            lines.push(b'\n');
        }
        Ok::<_, StoreError>(Some((lines, (app, id, last))))
    });
    let kind = (header::CONTENT_TYPE, "application/x-ndjson");
    Ok(([kind], Body::from_stream(pages)).into_response())
}

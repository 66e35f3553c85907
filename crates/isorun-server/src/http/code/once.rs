//! Cells with a single response, or with server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use isorun_api::{CodeError, CodeEvent, CodeRequest, Encoding, ErrorBody, Execution};
use serde::Serialize;

use super::{
    CellOutput, CellSpec, RunningCell,
    guest_event::{GuestResult, omitted},
    start,
};
use crate::{
    config::MAX_RESULTS_BYTES,
    core::accounts::ledger::Hold,
    http::{
        App,
        error::ApiError,
        exec::{
            answer::{Encoder, MAX_UNCHUNKED_BYTES, Piece, body},
            output_buffer::OutputBuffer,
            text::Decoder,
        },
        extract::{Json, ResumedRun},
    },
};

/// The interval of keep-alive comments in a stream.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The number of results in one response; further results are left out.
const MAX_RESULTS: usize = 10_000;

/// Run code in a context
///
/// Responds when the cell has ended, with its results, output and error. Code that raises an
/// exception, exceeds its timeout or ends the interpreter has an `error` in a successful response.
/// Output beyond the server's size limit is left out, as its last piece says. If the client
/// disconnects, the cell is interrupted; its context is kept.
#[utoipa::path(
    post, path = "/v1/runs/{id}/code", tag = "code", operation_id = "code",
    params(("id" = String, Path, description = "The run")),
    request_body = CodeRequest,
    responses(
        (status = 200, body = Execution),
        (status = 400, body = ErrorBody, description = "The request is invalid"),
        (status = 404, body = ErrorBody, description = "The run or the context does not exist"),
        (status = 409, body = ErrorBody, description = "The context runs another cell"),
        (status = 410, body = ErrorBody, description = "The sandbox exited unexpectedly"),
        (status = 422, body = ErrorBody, description = "The image has no interpreter for the language"),
        (status = 429, body = ErrorBody, description = "Too many contexts or concurrent commands"),
    ),
)]
pub async fn once(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Json(request): Json<CodeRequest>,
) -> Result<Response, ApiError> {
    let cell = start(&app, &run, CellSpec::new(request, &run)?)?;
    let buffer =
        || OutputBuffer::new(&app.core.accounts.memory, &run.tenant, app.core.config.limits.output);
    let collected = collect(cell, buffer(), buffer()).await?;
    Ok(collected.response())
}

/// Run code in a context, and stream its results and output
///
/// Responds with server-sent events, each a JSON object with a `type` that is also the name of the
/// event: `stdout` and `stderr` with `text`, `result`, `error`, and then one `end` with
/// `execution_count`; or one `failure` if the request fails after the response has started. If the
/// client disconnects, the cell is interrupted; its context is kept.
#[utoipa::path(
    post, path = "/v1/runs/{id}/code/stream", tag = "code", operation_id = "code_stream",
    params(("id" = String, Path, description = "The run")),
    request_body = CodeRequest,
    responses(
        (status = 200, body = CodeEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody, description = "The request is invalid"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
        (status = 410, body = ErrorBody, description = "The sandbox exited unexpectedly"),
    ),
)]
pub async fn stream(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Json(request): Json<CodeRequest>,
) -> Result<Response, ApiError> {
    let cell = start(&app, &run, CellSpec::new(request, &run)?)?;
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL);
    Ok(Sse::new(events(cell)).keep_alive(keep_alive).into_response())
}

/// What a cell has shown until its end.
struct Collected {
    /// The results, as JSON texts.
    results: Vec<(String, Option<Hold>)>,
    stdout: OutputBuffer,
    stderr: OutputBuffer,
    error: Option<CodeError>,
    execution_count: u64,
}

async fn collect(
    mut cell: RunningCell,
    stdout: OutputBuffer,
    stderr: OutputBuffer,
) -> Result<Collected, ApiError> {
    let mut all =
        Collected { results: Vec::new(), stdout, stderr, error: None, execution_count: 0 };
    let mut bytes = 0;
    while let Some(item) = cell.output.recv().await {
        match item {
            CellOutput::Stdout(text) => all.stdout.add(&text),
            CellOutput::Stderr(text) => all.stderr.add(&text),
            CellOutput::Error(error) => all.error = Some(error),
            CellOutput::Result(_, _) if all.results.len() >= MAX_RESULTS => {}
            CellOutput::Result(result, hold) => {
                let mut text = json(&result);
                if bytes + text.len() > MAX_RESULTS_BYTES {
                    let why = format!("over the limit of {MAX_RESULTS_BYTES} for all results");
                    text = json(&omitted(&result, &why));
                    all.results.push((text, None));
                } else {
                    bytes += text.len();
                    all.results.push((text, hold));
                }
            }
            CellOutput::End(end) => {
                all.execution_count = end?;
                return Ok(all);
            }
        }
    }
    Err(lost_cell_error())
}

impl Collected {
    fn response(self) -> Response {
        let results: usize = self.results.iter().map(|(text, _)| text.len()).sum();
        let is_short = results + self.stdout.len() + self.stderr.len() <= MAX_UNCHUNKED_BYTES;
        let mut pieces = vec![Piece::Raw("{\"results\":[".to_owned())];
        for (at, (text, hold)) in self.results.into_iter().enumerate() {
            if at > 0 {
                pieces.push(Piece::Raw(",".to_owned()));
            }
            pieces.push(match hold {
                Some(hold) => Piece::Held(text, hold),
                None => Piece::Raw(text),
            });
        }
        pieces.push(Piece::Raw("],\"logs\":{\"stdout\":[".to_owned()));
        push_log(&mut pieces, self.stdout);
        pieces.push(Piece::Raw("],\"stderr\":[".to_owned()));
        push_log(&mut pieces, self.stderr);
        pieces.push(Piece::Raw(format!(
            "]}},\"error\":{},\"execution_count\":{}}}",
            json(&self.error),
            self.execution_count
        )));
        pieces.reverse();
        let mut response = Response::new(body(pieces, is_short));
        *response.status_mut() = StatusCode::OK;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

fn push_log(pieces: &mut Vec<Piece>, output: OutputBuffer) {
    let (length, truncated) = (output.len(), output.is_truncated());
    if length > 0 {
        pieces.push(Piece::Raw("\"".to_owned()));
        pieces.push(Piece::Output(output, Encoder::new(Encoding::Text, truncated)));
        pieces.push(Piece::Raw("\"".to_owned()));
    }
    if truncated {
        let comma = if length > 0 { "," } else { "" };
        let note = format!("\n[... output after {length} bytes was left out]");
        pieces.push(Piece::Raw(format!("{comma}{}", json(&note))));
    }
}

fn json(value: &impl Serialize) -> String {
    // Serializing texts cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

fn lost_cell_error() -> ApiError {
    ApiError::internal("the cell was lost", "its task ended without a result")
}

fn events(cell: RunningCell) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    let state = Some((cell, Decoder::new(Encoding::Text), Decoder::new(Encoding::Text)));
    stream::unfold(state, async |state| {
        let (mut cell, mut out, mut err) = state?;
        let mut is_last = false;
        let batch = match cell.output.recv().await {
            Some(CellOutput::Stdout(bytes)) => vec![stdout(out.feed(&bytes))],
            Some(CellOutput::Stderr(bytes)) => vec![stderr(err.feed(&bytes))],
            Some(CellOutput::Result(result, _hold)) => vec![result_event(&result)],
            Some(CellOutput::Error(error)) => vec![
                stdout(out.finish()),
                stderr(err.finish()),
                Some(plain(&CodeEvent::Error(error), "error")),
            ],
            Some(CellOutput::End(end)) => {
                is_last = true;
                vec![stdout(out.finish()), stderr(err.finish()), Some(last(end))]
            }
            None => {
                is_last = true;
                vec![Some(last(Err(lost_cell_error())))]
            }
        };
        let state = (!is_last).then_some((cell, out, err));
        Some((stream::iter(batch.into_iter().flatten().map(Ok)), state))
    })
    .flatten()
}

fn stdout(text: String) -> Option<SseEvent> {
    (!text.is_empty()).then(|| plain(&CodeEvent::Stdout { text }, "stdout"))
}

fn stderr(text: String) -> Option<SseEvent> {
    (!text.is_empty()).then(|| plain(&CodeEvent::Stderr { text }, "stderr"))
}

fn last(end: Result<u64, ApiError>) -> SseEvent {
    match end {
        Ok(execution_count) => plain(&CodeEvent::End { execution_count }, "end"),
        Err(error) => {
            let event = CodeEvent::Failure {
                status: error.code.status().as_u16(),
                code: error.code.name().to_owned(),
                error: error.message,
            };
            plain(&event, "failure")
        }
    }
}

fn result_event(result: &GuestResult) -> Option<SseEvent> {
    let text = json(result);
    let fields = text.strip_prefix('{')?;
    Some(SseEvent::default().event("result").data(format!("{{\"type\":\"result\",{fields}")))
}

fn plain(event: &CodeEvent, name: &str) -> SseEvent {
    SseEvent::default().event(name).data(json(event))
}

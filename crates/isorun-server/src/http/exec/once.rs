//! Commands with a single response, or with server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use isorun_agent::protocol::Status;

use super::{
    CommandInput, CommandOutput, CommandSpec, RunningCommand, answer::response,
    output_buffer::OutputBuffer, start, text,
};
use crate::{
    core::live_run::LiveRun,
    http::{
        App,
        error::ApiError,
        extract::{Json, ResumedRun},
    },
};
use isorun_api::{Encoding, ErrorBody, ExecEvent, ExecOutcome, ExecRequest};

/// The interval of keep-alive comments in a stream.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Run a command
///
/// Responds when the command has exited. Output beyond the server's size limit or its memory for
/// responses is truncated, as reported in the response. If the client disconnects, the command is
/// killed.
#[utoipa::path(
    post, path = "/v1/runs/{id}/exec", tag = "exec", operation_id = "exec",
    params(("id" = String, Path, description = "The run")),
    request_body = ExecRequest,
    responses(
        (status = 200, body = ExecOutcome),
        (status = 400, body = ErrorBody, description = "The command cannot be run"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
        (status = 410, body = ErrorBody, description = "The sandbox exited unexpectedly"),
        (status = 429, body = ErrorBody, description = "Too many concurrent commands"),
        (status = 504, body = ErrorBody, description = "The command exceeded its timeout; the body contains its output so far"),
    ),
)]
pub async fn once(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let running = start_command(&app, &run, &request)?;
    let buffer =
        || OutputBuffer::new(&app.core.accounts.memory, &run.tenant, app.core.config.limits.output);
    let (status, stdout, stderr) = collect(running, buffer(), buffer()).await;
    Ok(response(status, request.encoding, stdout, stderr))
}

/// Run a command, and stream its output
///
/// Responds with server-sent events, each a JSON object with a `type` that is also the name of the
/// event: `stdout` and `stderr` with `data`, then one `exit` with `exit_code`, or one `error` with
/// `error` and `code`. If the client disconnects, the command is killed.
#[utoipa::path(
    post, path = "/v1/runs/{id}/exec/stream", tag = "exec", operation_id = "exec_stream",
    params(("id" = String, Path, description = "The run")),
    request_body = ExecRequest,
    responses(
        (status = 200, body = ExecEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody, description = "The command cannot be run"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
        (status = 410, body = ErrorBody, description = "The sandbox exited unexpectedly"),
    ),
)]
pub async fn stream(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let running = start_command(&app, &run, &request)?;
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL);
    Ok(Sse::new(events(running, request.encoding)).keep_alive(keep_alive).into_response())
}

fn start_command(
    app: &App,
    run: &Arc<LiveRun>,
    request: &ExecRequest,
) -> Result<RunningCommand, ApiError> {
    let spec = CommandSpec::new(request, request.stdin.is_some())?;
    let running = start(app, run, spec)?;
    if let Some(text) = &request.stdin {
        // The queue has room: these are the first items.
        let _ = running.input.try_send(CommandInput::Data(Bytes::from(text.clone())));
        let _ = running.input.try_send(CommandInput::Eof);
    }
    Ok(running)
}

async fn collect(
    mut running: RunningCommand,
    mut stdout: OutputBuffer,
    mut stderr: OutputBuffer,
) -> (Result<Status, ApiError>, OutputBuffer, OutputBuffer) {
    while let Some(piece) = running.output.recv().await {
        match piece {
            CommandOutput::Stdout(bytes) => stdout.add(&bytes),
            CommandOutput::Stderr(bytes) => stderr.add(&bytes),
            CommandOutput::End(end) => return (end, stdout, stderr),
        }
    }
    (Err(lost_command_error()), stdout, stderr)
}

fn lost_command_error() -> ApiError {
    ApiError::internal("the command was lost", "its task ended without a result")
}

fn events(
    running: RunningCommand,
    encoding: Encoding,
) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    let state = Some((running, text::Decoder::new(encoding), text::Decoder::new(encoding)));
    stream::unfold(state, async |state| {
        let (mut running, mut out, mut err) = state?;
        let (batch, is_last) = match running.output.recv().await {
            Some(CommandOutput::Stdout(bytes)) => {
                (vec![ExecEvent::Stdout { data: out.feed(&bytes) }], false)
            }
            Some(CommandOutput::Stderr(bytes)) => {
                (vec![ExecEvent::Stderr { data: err.feed(&bytes) }], false)
            }
            Some(CommandOutput::End(end)) => (final_events(end, &mut out, &mut err), true),
            None => (final_events(Err(lost_command_error()), &mut out, &mut err), true),
        };
        let state = (!is_last).then_some((running, out, err));
        Some((stream::iter(batch.into_iter().filter(|event| !is_empty(event)).map(encode)), state))
    })
    .flatten()
}

/// Returns the rest of incomplete characters, then the last event.
fn final_events(
    end: Result<Status, ApiError>,
    out: &mut text::Decoder,
    err: &mut text::Decoder,
) -> Vec<ExecEvent> {
    vec![
        ExecEvent::Stdout { data: out.finish() },
        ExecEvent::Stderr { data: err.finish() },
        super::final_event(end),
    ]
}

fn is_empty(event: &ExecEvent) -> bool {
    matches!(event, ExecEvent::Stdout { data } | ExecEvent::Stderr { data } if data.is_empty())
}

fn encode(event: ExecEvent) -> Result<SseEvent, Infallible> {
    let name = match &event {
        ExecEvent::Stdout { .. } => "stdout",
        ExecEvent::Stderr { .. } => "stderr",
        ExecEvent::Exit { .. } => "exit",
        ExecEvent::Error { .. } => "error",
    };
    let data = serde_json::to_string(&event).unwrap_or_default();
    Ok(SseEvent::default().event(name).data(data))
}

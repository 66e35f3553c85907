//! A command with one answer, or with server-sent events.

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

use super::{Input, Output, Running, Task, answer::answer, held::HeldOutput, start, text};
use crate::{
    api::{Encoding, ErrorBody, ExecEvent, ExecOutcome, ExecRequest},
    server::{
        ApiError, App,
        extract::{AwakeRun, Json},
        runs::LiveRun,
    },
};

/// How often a silent stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Run a command
///
/// Answers when the command has ended. Output beyond the server's limit, or its memory for answers,
/// is left out, and the answer says so. If the client goes away, the command is killed.
#[utoipa::path(
    post, path = "/v1/runs/{id}/exec", tag = "exec", operation_id = "exec",
    params(("id" = String, Path, description = "The run")),
    request_body = ExecRequest,
    responses(
        (status = 200, body = ExecOutcome),
        (status = 400, body = ErrorBody, description = "The command cannot be run"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 410, body = ErrorBody, description = "The sandbox died"),
        (status = 429, body = ErrorBody, description = "Too many commands at once"),
        (status = 504, body = ErrorBody, description = "It took longer than its timeout; with what it had printed"),
    ),
)]
pub async fn once(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let running = begin(&app, &run, &request)?;
    let held = || HeldOutput::new(&app.accounts.memory, &run.tenant, app.config.limits.output);
    let (status, stdout, stderr) = collect(running, held(), held()).await;
    Ok(answer(status, request.encoding, stdout, stderr))
}

/// Run a command, and see its output as it comes
///
/// Server-sent events, each a JSON object with a `type` that is also the event's name: `stdout`
/// and `stderr` with `data`, then one `exit` with `exit_code`, or one `error` with `error` and
/// `code`. If the client goes away, the command is killed.
#[utoipa::path(
    post, path = "/v1/runs/{id}/exec/stream", tag = "exec", operation_id = "exec_stream",
    params(("id" = String, Path, description = "The run")),
    request_body = ExecRequest,
    responses(
        (status = 200, body = ExecEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody, description = "The command cannot be run"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 410, body = ErrorBody, description = "The sandbox died"),
    ),
)]
pub async fn stream(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Json(request): Json<ExecRequest>,
) -> Result<Response, ApiError> {
    let running = begin(&app, &run, &request)?;
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events(running, request.encoding)).keep_alive(keep_alive).into_response())
}

fn begin(app: &App, run: &Arc<LiveRun>, request: &ExecRequest) -> Result<Running, ApiError> {
    let task = Task::new(request, request.stdin.is_some())?;
    let running = start(app, run, task)?;
    if let Some(text) = &request.stdin {
        // There is room: these are the first ones.
        let _ = running.input.try_send(Input::Data(Bytes::from(text.clone())));
        let _ = running.input.try_send(Input::Eof);
    }
    Ok(running)
}

async fn collect(
    mut running: Running,
    mut stdout: HeldOutput,
    mut stderr: HeldOutput,
) -> (Result<Status, ApiError>, HeldOutput, HeldOutput) {
    while let Some(piece) = running.output.recv().await {
        match piece {
            Output::Stdout(bytes) => stdout.add(&bytes),
            Output::Stderr(bytes) => stderr.add(&bytes),
            Output::End(end) => return (end, stdout, stderr),
        }
    }
    (Err(lost()), stdout, stderr)
}

fn lost() -> ApiError {
    ApiError::internal("the command was lost", "its task ended without a last word")
}

fn events(
    running: Running,
    encoding: Encoding,
) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    let state = Some((running, text::Decoder::new(encoding), text::Decoder::new(encoding)));
    stream::unfold(state, async |state| {
        let (mut running, mut out, mut err) = state?;
        let (batch, over) = match running.output.recv().await {
            Some(Output::Stdout(bytes)) => {
                (vec![ExecEvent::Stdout { data: out.feed(&bytes) }], false)
            }
            Some(Output::Stderr(bytes)) => {
                (vec![ExecEvent::Stderr { data: err.feed(&bytes) }], false)
            }
            Some(Output::End(end)) => (last_words(end, &mut out, &mut err), true),
            None => (last_words(Err(lost()), &mut out, &mut err), true),
        };
        let state = (!over).then_some((running, out, err));
        Some((stream::iter(batch.into_iter().filter(|event| !is_empty(event)).map(encode)), state))
    })
    .flatten()
}

/// What was held back of a character, then the end.
fn last_words(
    end: Result<Status, ApiError>,
    out: &mut text::Decoder,
    err: &mut text::Decoder,
) -> Vec<ExecEvent> {
    vec![
        ExecEvent::Stdout { data: out.finish() },
        ExecEvent::Stderr { data: err.finish() },
        super::ending(end),
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

//! Persistent bash sessions over a WebSocket, which run one command after the other.
//!
//! To the client, a binary frame is one byte for the stream, 1 or 2, and then output; all
//! other frames are text frames, as JSON. A client that loses its connection can
//! reattach to the session within ten minutes.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, stream::SplitStream};
use isorun_agent::{
    client::{self, ClientError, ShellControl, ShellEvent, ShellEvents, ShellHandle},
    protocol::{self, FailureKind, Run, Status},
};
use isorun_engine::AgentStream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::{
    App,
    error::{ApiError, Code},
    exec::{
        agent_error,
        attach::{MAX_MESSAGE_BYTES, parse_frame, too_long},
        connector,
    },
    extract::{Params, ResumedRun, WebSocketRequest},
};
use crate::{
    clock::millis,
    config,
    core::{
        live_run::{InUse, LiveRun},
        validate,
    },
    store::Event,
};
use isorun_api::random_hex;
use isorun_api::{ErrorBody, ShellInput, ShellOutput};

/// The interval of pings. A client that sends nothing for three intervals is
/// disconnected.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// The longest time for sending the last frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest number of characters of a command in the audit log.
const MAX_LOGGED_CHARS: usize = 4096;

/// Parameters of a shell.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ShellParams {
    /// The id of a session to reattach to, after a lost connection or in a fork. By default a new
    /// session is created.
    session: Option<String>,
    /// The working directory of a new session; by default that of the image.
    cwd: Option<String>,
}

/// Open a persistent bash session, over a WebSocket
///
/// The first text frame is `{"type":"ready","session":"..."}`. Then
/// `{"type":"run","command":"...","timeout":30}` runs a command: binary frames are a byte that is
/// 1 or 2 for the stream, followed by output; the last frame of the command is
/// `{"type":"result","exit_code":0}`, or `{"type":"timeout"}`, after which the shell accepts the
/// next command. `{"type":"interrupt"}` interrupts the command; `{"type":"close"}` ends the shell.
/// When the shell exits, the last frame is `{"type":"closed","exit_code":42}`. If the client
/// disconnects without `close`, the shell is kept for ten minutes, and `session` reattaches to it.
#[utoipa::path(
    get, path = "/v1/runs/{id}/shell", tag = "exec", operation_id = "shell",
    params(("id" = String, Path, description = "The run"), ShellParams),
    responses(
        (status = 101, description = "A WebSocket follows"),
        (status = 400, body = ErrorBody, description = "The request is not a WebSocket upgrade"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
        (status = 409, body = ErrorBody, description = "The run is hibernated"),
    ),
)]
pub async fn open(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Params(params): Params<ShellParams>,
    upgrade: Result<WebSocketRequest, ApiError>,
) -> Result<Response, ApiError> {
    run.require_linux("shells")?;
    let WebSocketRequest(upgrade) = upgrade?;
    if let Some(error) = run.not_running_error() {
        return Err(error.into());
    }
    let cwd = params.cwd.as_deref().map(|cwd| validate::path("cwd", cwd)).transpose()?;
    let permit = run.exec_permit()?;
    let task_token = app.core.tasks.token();
    Ok(upgrade.max_message_size(MAX_MESSAGE_BYTES).on_upgrade(move |socket| async move {
        // Counts as activity while it is open, even if it is silent, like a terminal.
        let busy = run.mark_in_use();
        serve(&app, &run, socket, params.session, cwd).await;
        drop((busy, permit, task_token));
    }))
}

async fn serve(
    app: &App,
    run: &Arc<LiveRun>,
    mut socket: WebSocket,
    session: Option<String>,
    cwd: Option<String>,
) {
    let starting = async {
        let busy = run.mark_in_use();
        let started = start(app, run, session, cwd).await;
        drop(busy);
        match started {
            Ok(started) => Ok(started),
            Err(error) => Err(run.root_cause(error).await),
        }
    };
    let started = tokio::select! {
        started = starting => started,
        why = run.ended() => Err(why.into()),
    };
    let last = match started {
        Ok((shell, session)) => {
            if socket.send(text(&ShellOutput::Ready { session })).await.is_err() {
                return;
            }
            relay(app, run, &mut socket, shell).await
        }
        Err(error) => Some(Err(error)),
    };
    let Some(last) = last else { return };
    let last_frame = match last {
        Ok(status) => ShellOutput::Closed { exit_code: status.shell_code() },
        Err(error) => ShellOutput::Error {
            status: error.code.status().as_u16(),
            code: error.code.name().to_owned(),
            error: error.message,
        },
    };
    let close = CloseFrame { code: close_code::NORMAL, reason: "the shell has exited".into() };
    let closing = async {
        socket.send(text(&last_frame)).await?;
        socket.send(Message::Close(Some(close))).await
    };
    // Does not wait for a client that does not read.
    let _ = timeout(CLOSE_TIMEOUT, closing).await;
}

async fn start(
    app: &App,
    run: &Arc<LiveRun>,
    session: Option<String>,
    cwd: Option<String>,
) -> Result<(ShellHandle<AgentStream>, String), ApiError> {
    let connect = connector(app, run);
    if let Some(session) = session {
        let shell =
            client::attach_shell(connect, session.clone()).await.map_err(|error| match error {
                ClientError::Failed(failure) if failure.kind == FailureKind::NotFound => {
                    ApiError::new(Code::NotFound, failure.message)
                }
                error => agent_error(error),
            })?;
        return Ok((shell, session));
    }
    let token = random_hex::<16>()
        .map_err(|error| ApiError::internal("cannot get random numbers", error))?;
    run.log.append(Event::ExecStart, json!({ "shell": true })).await?;
    let request = protocol::Shell {
        env: run.defaults.env.clone().into_iter().collect(),
        cwd: cwd.or_else(|| run.defaults.workdir.clone()),
        user: run.defaults.user.clone(),
        token: token.clone(),
    };
    let shell = client::shell(connect, request).await.map_err(agent_error)?;
    Ok((shell, token))
}

/// The result of a shell, or `None` if the client disconnected.
type End = Option<Result<Status, ApiError>>;

/// Relays frames in both directions, until the shell exits or the client disconnects.
async fn relay(
    app: &App,
    run: &Arc<LiveRun>,
    socket: &mut WebSocket,
    shell: ShellHandle<AgentStream>,
) -> End {
    let ShellHandle { mut events, control, .. } = shell;
    let (mut sink, mut stream) = socket.split();
    // Holds a guard while a command runs: from its `run` frame to its result.
    let (started_command, mut running_command) = tokio::sync::mpsc::channel::<InUse<'_>>(1);
    let send = async {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.tick().await;
        loop {
            let frame = tokio::select! {
                event = next(&mut events) => match event {
                    Ok(ShellEvent::Stdout(bytes)) => frame_output(1, &bytes),
                    Ok(ShellEvent::Stderr(bytes)) => frame_output(2, &bytes),
                    Ok(ShellEvent::Ran(status)) => {
                        // The command has finished.
                        drop(running_command.try_recv());
                        app.core.metrics.execs.inc();
                        text(&outcome(status))
                    }
                    Ok(ShellEvent::Exited(status)) => return Some(Ok(status)),
                    Err(error) => return Some(Err(run.root_cause(agent_error(error)).await)),
                },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            if sink.send(frame).await.is_err() {
                return None;
            }
        }
    };
    let receive = receive(app, run, &mut stream, &control, &started_command);
    let (send, receive) = (pin!(send), pin!(receive));
    tokio::select! {
        end = send => end,
        end = receive => end.map(Err),
        why = run.ended() => Some(Err(why.into())),
    }
}

async fn next(events: &mut ShellEvents<AgentStream>) -> Result<ShellEvent, ClientError> {
    events.next().await
}

fn outcome(status: Status) -> ShellOutput {
    match status {
        Status::TimedOut => ShellOutput::Timeout {
            error: "the command took longer than its timeout, and was interrupted; the shell \
                    accepts the next command"
                .to_owned(),
        },
        status => ShellOutput::Result { exit_code: status.shell_code() },
    }
}

/// Forwards requests of the client, until it disconnects or sends an invalid message.
async fn receive<'run>(
    app: &App,
    run: &'run Arc<LiveRun>,
    stream: &mut SplitStream<&mut WebSocket>,
    control: &ShellControl<AgentStream>,
    started_command: &tokio::sync::mpsc::Sender<InUse<'run>>,
) -> Option<ApiError> {
    loop {
        // Every ping gets a pong: a client that is silent for longer is disconnected.
        let frame = timeout(PING_INTERVAL * 3, stream.next()).await.ok()??;
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return too_long(&error),
        };
        let text = match frame {
            Message::Text(text) => text,
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Binary(_) => {
                return Some(ApiError::invalid("only text frames are allowed, as JSON"));
            }
        };
        let input = match parse_frame(&text) {
            Ok(input) => input,
            Err(error) => return Some(error),
        };
        let done = match input {
            ShellInput::Run { command, timeout } => {
                let task = match validated(command, timeout) {
                    Ok(task) => task,
                    Err(error) => return Some(error),
                };
                if started_command.try_send(run.mark_in_use()).is_err() {
                    return Some(ApiError::invalid(
                        "a command is already running: wait for its result, or open another shell",
                    ));
                }
                if let Err(error) = app.core.guard.admit_command(&run.tenant) {
                    return Some(error.into());
                }
                let logged_command: String = task.command.chars().take(MAX_LOGGED_CHARS).collect();
                let details = json!({ "shell": true, "command": logged_command });
                let (logged, sent) =
                    tokio::join!(run.log.append(Event::ExecStart, details), control.run(task));
                if let Err(error) = logged {
                    return Some(error.into());
                }
                sent
            }
            ShellInput::Interrupt {} => control.interrupt().await,
            ShellInput::Close {} => control.close().await,
        };
        // If the shell has exited, the frame is dropped; its exit is reported.
        if let Err(error @ ClientError::TooLong(_)) = done {
            return Some(agent_error(error));
        }
    }
}

fn validated(command: String, seconds: Option<f64>) -> Result<Run, ApiError> {
    validate::no_nul("command", &command)?;
    let limit = seconds.map_or(Ok(config::DEFAULT_EXEC_TIMEOUT), |seconds| {
        validate::timeout("timeout", seconds)
    })?;
    let timeout_ms = (!limit.is_zero()).then(|| millis(limit).max(1));
    Ok(Run { command, timeout_ms })
}

fn frame_output(stream: u8, bytes: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(bytes.len() + 1);
    frame.put_u8(stream);
    frame.put_slice(bytes);
    Message::Binary(frame.freeze())
}

fn text(output: &ShellOutput) -> Message {
    // Serializing plain data cannot fail.
    Message::Text(serde_json::to_string(output).unwrap_or_default().into())
}

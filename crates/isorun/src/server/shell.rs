//! A bash that stays, over a WebSocket: one command after the other.
//!
//! To the client, a binary frame is output after one byte that says of which
//! stream, 1 or 2; everything else is a text frame, as JSON. A client that loses
//! its connection asks for the same session again within ten minutes.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, stream::SplitStream};
use isorun_agent::{
    client::{self, ClientError, Shell, ShellControl, ShellEvent, ShellEvents},
    protocol::{self, FailureKind, Run, Status},
};
use isorun_engine::AgentStream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::{
    ApiError, App, Code, config,
    exec::{
        agent_error,
        attach::{MAX_MESSAGE, order_of, too_long},
        connector,
    },
    extract::{AwakeRun, Params},
    order,
    runs::{InUse, LiveRun},
};
use crate::{
    api::{ErrorBody, ShellInput, ShellSays},
    audit::Event,
    id::random_hex,
};

/// How often a silent client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
const FAREWELL: Duration = Duration::from_secs(10);
/// How much of a command stands in the audit log.
const LOGGED: usize = 4096;

/// Which shell.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ShellParams {
    /// The name of a session whose connection was lost, or that the original of this run had; a
    /// new one if not given.
    session: Option<String>,
    /// The folder that a new one starts in; the image's if not given.
    cwd: Option<String>,
}

/// A bash that stays, over a WebSocket
///
/// The first text frame is `{"type":"ready","session":"..."}`. Then
/// `{"type":"run","command":"...","timeout":30}` runs a command: binary frames are its output, a
/// byte that is 1 or 2 for the stream and then what was printed; at its end comes
/// `{"type":"result","exit_code":0}`, or `{"type":"timeout"}`, after which the shell is as it was.
/// `{"type":"interrupt"}` interrupts the command; `{"type":"close"}` ends the shell. If the shell
/// ends, the last frame is `{"type":"closed","exit_code":42}`. If the client goes away without
/// `close`, the shell stays for ten minutes, and `session` finds it again.
#[utoipa::path(
    get, path = "/v1/runs/{id}/shell", tag = "exec", operation_id = "shell",
    params(("id" = String, Path, description = "The run"), ShellParams),
    responses(
        (status = 101, description = "A WebSocket follows"),
        (status = 400, body = ErrorBody, description = "No WebSocket was asked for"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
        (status = 409, body = ErrorBody, description = "It is hibernated"),
    ),
)]
pub async fn open(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Params(params): Params<ShellParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::invalid(format!("this path is for WebSockets: {}", rejection.body_text()))
    })?;
    if let Some(trouble) = run.trouble() {
        return Err(trouble);
    }
    let cwd = params.cwd.as_deref().map(|cwd| order::path("cwd", cwd)).transpose()?;
    let permit = run.permit()?;
    let until_told = app.tasks.token();
    Ok(upgrade.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| async move {
        // As a terminal, also while it is silent.
        let busy = run.busy();
        serve(&app, &run, socket, params.session, cwd).await;
        drop((busy, permit, until_told));
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
        let busy = run.busy();
        let started = start(app, run, session, cwd).await;
        drop(busy);
        match started {
            Ok(started) => Ok(started),
            Err(error) => Err(run.blame(error).await),
        }
    };
    let started = tokio::select! {
        started = starting => started,
        why = run.ended() => Err(why),
    };
    let last = match started {
        Ok((shell, session)) => {
            if socket.send(text(&ShellSays::Ready { session })).await.is_err() {
                return;
            }
            converse(app, run, &mut socket, shell).await
        }
        Err(error) => Some(Err(error)),
    };
    let Some(last) = last else { return };
    let says = match last {
        Ok(status) => ShellSays::Closed { exit_code: status.shell_code() },
        Err(error) => ShellSays::Error {
            status: error.code.status().as_u16(),
            code: error.code.name().to_owned(),
            error: error.message,
        },
    };
    let close = CloseFrame { code: close_code::NORMAL, reason: "the shell has ended".into() };
    let farewell = async {
        socket.send(text(&says)).await?;
        socket.send(Message::Close(Some(close))).await
    };
    // A client that does not read is not waited for.
    let _ = timeout(FAREWELL, farewell).await;
}

async fn start(
    app: &App,
    run: &Arc<LiveRun>,
    session: Option<String>,
    cwd: Option<String>,
) -> Result<(Shell<AgentStream>, String), ApiError> {
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
    let token = random_hex::<16>().map_err(|error| ApiError::internal("no random", error))?;
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

/// What one half of a conversation has to tell the other.
type End = Option<Result<Status, ApiError>>;

/// Carries everything both ways, until the shell ends (what it came to) or the
/// client goes away (nothing).
async fn converse(
    app: &App,
    run: &Arc<LiveRun>,
    socket: &mut WebSocket,
    shell: Shell<AgentStream>,
) -> End {
    let Shell { mut events, control, .. } = shell;
    let (mut sink, mut stream) = socket.split();
    // While a command runs; that of the client's word and that of the shell's.
    let (begun, mut beginning) = tokio::sync::mpsc::channel::<InUse<'_>>(1);
    let speak = async {
        let mut ping = tokio::time::interval(PING);
        ping.tick().await;
        loop {
            let frame = tokio::select! {
                event = next(&mut events) => match event {
                    Ok(ShellEvent::Stdout(bytes)) => framed(1, &bytes),
                    Ok(ShellEvent::Stderr(bytes)) => framed(2, &bytes),
                    Ok(ShellEvent::Ran(status)) => {
                        // It is over: no longer in use.
                        drop(beginning.try_recv());
                        app.metrics.execs.inc();
                        text(&outcome(status))
                    }
                    Ok(ShellEvent::Exited(status)) => return Some(Ok(status)),
                    Err(error) => return Some(Err(run.blame(agent_error(error)).await)),
                },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            if sink.send(frame).await.is_err() {
                return None;
            }
        }
    };
    let listen = listen(app, run, &mut stream, &control, &begun);
    let (speak, listen) = (pin!(speak), pin!(listen));
    tokio::select! {
        end = speak => end,
        end = listen => end.map(Err),
        why = run.ended() => Some(Err(why)),
    }
}

async fn next(events: &mut ShellEvents<AgentStream>) -> Result<ShellEvent, ClientError> {
    events.next().await
}

fn outcome(status: Status) -> ShellSays {
    match status {
        Status::TimedOut => ShellSays::Timeout {
            error: "the command took longer than its timeout, and was interrupted; the shell is \
                    as it was"
                .to_owned(),
        },
        status => ShellSays::Result { exit_code: status.shell_code() },
    }
}

/// Hands on what the client says, until it goes away or says nonsense.
async fn listen<'run>(
    app: &App,
    run: &'run Arc<LiveRun>,
    stream: &mut SplitStream<&mut WebSocket>,
    control: &ShellControl<AgentStream>,
    begun: &tokio::sync::mpsc::Sender<InUse<'run>>,
) -> Option<ApiError> {
    loop {
        // Every ping has an answer: a client that is silent for longer is gone.
        let said = timeout(PING * 3, stream.next()).await.ok()??;
        let said = match said {
            Ok(said) => said,
            Err(error) => return too_long(&error),
        };
        let said = match said {
            Message::Text(said) => said,
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Binary(_) => {
                return Some(ApiError::invalid("a shell takes text frames only, as JSON"));
            }
        };
        let input = match order_of(&said) {
            Ok(input) => input,
            Err(error) => return Some(error),
        };
        let done = match input {
            ShellInput::Run { command, timeout } => {
                let task = match checked(command, timeout) {
                    Ok(task) => task,
                    Err(error) => return Some(error),
                };
                if begun.try_send(run.busy()).is_err() {
                    return Some(ApiError::invalid(
                        "a command runs already: one at a time, or open another shell",
                    ));
                }
                if let Err(error) = app.guard.admit_command(&run.tenant) {
                    return Some(error);
                }
                let shown: String = task.command.chars().take(LOGGED).collect();
                let what = json!({ "shell": true, "command": shown });
                let (logged, sent) =
                    tokio::join!(run.log.append(Event::ExecStart, what), control.run(task));
                if let Err(error) = logged {
                    return Some(error.into());
                }
                sent
            }
            ShellInput::Interrupt {} => control.interrupt().await,
            ShellInput::Close {} => control.close().await,
        };
        // One that has ended reads nothing; its end is told.
        if let Err(error @ ClientError::TooLong(_)) = done {
            return Some(agent_error(error));
        }
    }
}

fn checked(command: String, seconds: Option<f64>) -> Result<Run, ApiError> {
    order::no_nul("command", &command)?;
    let limit = seconds
        .map_or(Ok(config::DEFAULT_EXEC_TIMEOUT), |seconds| order::timeout("timeout", seconds))?;
    let timeout_ms = (!limit.is_zero()).then(|| super::lifecycle::millis(limit).max(1));
    Ok(Run { command, timeout_ms })
}

fn framed(stream: u8, bytes: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(bytes.len() + 1);
    frame.put_u8(stream);
    frame.put_slice(bytes);
    Message::Binary(frame.freeze())
}

fn text(says: &ShellSays) -> Message {
    // Plain data: it cannot fail.
    Message::Text(serde_json::to_string(says).unwrap_or_default().into())
}

//! Commands over a WebSocket: with live input, on pipes or on a terminal.
//!
//! From the client, a binary frame is input and a text frame is a control message as
//! JSON. To the client, a text frame is the final event as JSON; a binary frame is
//! output: unchanged on a terminal; on pipes after one byte for the stream, 1 or 2.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use isorun_agent::protocol::Size;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::mpsc, time::timeout};

use super::{CommandInput, CommandOutput, CommandSpec, RunningCommand, final_event, start};
use crate::{
    config::MAX_JSON_BYTES,
    core::live_run::LiveRun,
    http::{
        App,
        error::{ApiError, Code},
        extract::{Params, ResumedRun, WebSocketRequest},
    },
    strict_json,
};
use isorun_api::{AttachInput, Command, Encoding, ErrorBody, ExecRequest, TerminalInput};

/// The largest message of a client that is read, in bytes. A longer one closes the
/// connection; a text frame that is too long but below this limit gets an error.
pub const MAX_MESSAGE_BYTES: usize = 8 * MAX_JSON_BYTES;
/// The timeout for the first frame of a client, and for sending it the final frames.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of pings. A client that sends nothing for three intervals is
/// disconnected.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Parameters of a terminal.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TerminalParams {
    /// Columns; 80 by default.
    cols: Option<u16>,
    /// Rows; 24 by default.
    rows: Option<u16>,
    /// A shell command line, instead of an interactive shell.
    command: Option<String>,
    /// The working directory.
    cwd: Option<String>,
    /// Timeout in seconds, after which it is killed; none by default.
    timeout: Option<f64>,
}

/// Open a shell on a terminal, over a WebSocket
///
/// Binary frames are terminal input and output. The text frame
/// `{"type":"resize","cols":120,"rows":40}` changes the size. The last frame is the text
/// `{"type":"exit","exit_code":0}`, or an `error`. If the client disconnects, the shell is killed.
#[utoipa::path(
    get, path = "/v1/runs/{id}/terminal", tag = "exec", operation_id = "terminal",
    params(("id" = String, Path, description = "The run"), TerminalParams),
    responses(
        (status = 101, description = "A WebSocket follows"),
        (status = 400, body = ErrorBody, description = "The request is not a WebSocket upgrade"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
    ),
)]
pub async fn terminal(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    Params(params): Params<TerminalParams>,
    upgrade: Result<WebSocketRequest, ApiError>,
) -> Result<Response, ApiError> {
    run.require_linux("terminals")?;
    let WebSocketRequest(upgrade) = upgrade?;
    let size = Size { cols: params.cols.unwrap_or(80), rows: params.rows.unwrap_or(24) };
    if size.cols == 0 || size.rows == 0 {
        return Err(ApiError::invalid("cols and rows must be at least 1"));
    }
    let command = match params.command {
        Some(line) => Command::Shell(line),
        // Prefers bash, if the image has it.
        None => Command::Shell("command -v bash >/dev/null && exec bash -l; exec sh -l".to_owned()),
    };
    let request = ExecRequest {
        command,
        timeout: Some(params.timeout.unwrap_or(0.0)),
        env: None,
        cwd: params.cwd,
        stdin: None,
        encoding: Encoding::Text,
    };
    let spec = CommandSpec::new(&request, true)?.on_terminal(size);
    let running = start(&app, &run, spec)?;
    let task_token = app.core.tasks.token();
    Ok(upgrade.max_message_size(MAX_MESSAGE_BYTES).on_upgrade(move |socket| async move {
        let (sink, stream) = socket.split();
        relay(sink, stream, running, StreamKind::Terminal).await;
        drop(task_token);
    }))
}

/// Run a command with live input, over a WebSocket
///
/// The first text frame is the request of `exec`, without `stdin`. After it, binary frames are
/// standard input; the text frame `{"type":"eof"}` closes it, and `{"type":"signal","signal":15}`
/// sends a signal. From the server, a binary frame is a byte that is 1 for standard output or 2
/// for standard error, followed by the output; the last frame is the text
/// `{"type":"exit","exit_code":0}`, or an `error`. If the client disconnects, the command is
/// killed.
#[utoipa::path(
    get, path = "/v1/runs/{id}/exec/attach", tag = "exec", operation_id = "exec_attach",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 101, description = "A WebSocket follows"),
        (status = 400, body = ErrorBody, description = "The request is not a WebSocket upgrade"),
        (status = 404, body = ErrorBody, description = "The run does not exist, or was destroyed"),
    ),
)]
pub async fn attach(
    State(app): State<App>,
    ResumedRun(run): ResumedRun,
    upgrade: Result<WebSocketRequest, ApiError>,
) -> Result<Response, ApiError> {
    run.require_linux("commands")?;
    let WebSocketRequest(upgrade) = upgrade?;
    if let Some(error) = run.not_running_error() {
        return Err(error.into());
    }
    let task_token = app.core.tasks.token();
    Ok(upgrade.max_message_size(MAX_MESSAGE_BYTES).on_upgrade(move |socket| async move {
        let (mut sink, mut stream) = socket.split();
        match read_request(&app, &run, &mut stream).await {
            Ok(running) => relay(sink, stream, running, StreamKind::Pipes).await,
            Err(error) => send_end(&mut sink, Err(error)).await,
        }
        drop(task_token);
    }))
}

async fn read_request(
    app: &App,
    run: &Arc<LiveRun>,
    stream: &mut SplitStream<WebSocket>,
) -> Result<RunningCommand, ApiError> {
    let frame = timeout(HANDSHAKE_TIMEOUT, stream.next()).await;
    let text = match frame {
        Ok(Some(Ok(Message::Text(text)))) => text,
        Ok(Some(Err(error))) if let Some(error) = too_long(&error) => return Err(error),
        _ => {
            return Err(ApiError::invalid(
                "the first frame must be a text frame with the request, as JSON",
            ));
        }
    };
    let request: ExecRequest = parse_frame(&text)?;
    if request.stdin.is_some() {
        return Err(ApiError::invalid("stdin is not allowed here: send it as binary frames"));
    }
    start(app, run, CommandSpec::new(&request, true)?)
}

/// Parses a text frame, with the size limit of request bodies.
pub fn parse_frame<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    if text.len() > MAX_JSON_BYTES {
        return Err(ApiError::new(
            Code::TooLarge,
            format!("a text frame has {} bytes: at most {MAX_JSON_BYTES} are allowed", text.len()),
        ));
    }
    strict_json::object(text.as_bytes())
        .map_err(|why| ApiError::invalid(format!("a text frame is not a valid message: {why}")))
}

/// Returns the error for a message that exceeds the size limit.
pub fn too_long(error: &axum::Error) -> Option<ApiError> {
    // The error type is of a library that is not a direct dependency.
    error.to_string().contains("Message too long").then(|| {
        ApiError::new(
            Code::TooLarge,
            format!(
                "a frame is too long: at most {MAX_JSON_BYTES} bytes are allowed in a text frame, and \
                 {MAX_MESSAGE_BYTES} in a binary one"
            ),
        )
    })
}

/// The format of output and control messages.
#[derive(Clone, Copy)]
enum StreamKind {
    Pipes,
    Terminal,
}

async fn relay(
    mut sink: SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
    running: RunningCommand,
    kind: StreamKind,
) {
    let RunningCommand { mut output, input } = running;
    let send = async {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.tick().await;
        loop {
            let frame = tokio::select! {
                piece = output.recv() => match piece {
                    Some(CommandOutput::Stdout(bytes)) => frame_output(1, bytes, kind),
                    Some(CommandOutput::Stderr(bytes)) => frame_output(2, bytes, kind),
                    Some(CommandOutput::End(end)) => return Some(end),
                    None => return None,
                },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            if sink.send(frame).await.is_err() {
                return None;
            }
        }
    };
    let end = tokio::select! {
        end = send => end,
        error = receive(&mut stream, &input, kind) => error.map(Err),
    };
    // Kills the command, if it is still running.
    drop(output);
    if let Some(end) = end {
        send_end(&mut sink, end).await;
    }
}

/// Forwards input of the client, until it disconnects or sends an invalid message.
async fn receive(
    stream: &mut SplitStream<WebSocket>,
    input: &mpsc::Sender<CommandInput>,
    kind: StreamKind,
) -> Option<ApiError> {
    loop {
        // Every ping gets a pong: a client that is silent for longer is disconnected.
        let frame = timeout(PING_INTERVAL * 3, stream.next()).await.ok()??;
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return too_long(&error),
        };
        let input_frame = match frame {
            Message::Binary(bytes) => Ok(CommandInput::Data(bytes)),
            Message::Text(text) => parse_input(&text, kind),
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match input_frame {
            // Waits while the command does not read, which blocks the client, too. If
            // the command has exited, the input is dropped; its exit is reported.
            Ok(command_input) => {
                let _ = input.send(command_input).await;
            }
            Err(error) => return Some(error),
        }
    }
}

fn parse_input(text: &str, kind: StreamKind) -> Result<CommandInput, ApiError> {
    match kind {
        StreamKind::Terminal => match parse_frame(text)? {
            TerminalInput::Resize { cols, rows } if cols > 0 && rows > 0 => {
                Ok(CommandInput::Resize(Size { cols, rows }))
            }
            TerminalInput::Resize { .. } => {
                Err(ApiError::invalid("cols and rows must be at least 1"))
            }
        },
        StreamKind::Pipes => match parse_frame(text)? {
            AttachInput::Eof {} => Ok(CommandInput::Eof),
            AttachInput::Signal { signal } if (1..=64).contains(&signal) => {
                Ok(CommandInput::Signal(signal.unsigned_abs()))
            }
            AttachInput::Signal { signal } => {
                Err(ApiError::invalid(format!("signal is {signal}: 1 to 64 are allowed")))
            }
        },
    }
}

fn frame_output(stream: u8, bytes: Bytes, kind: StreamKind) -> Message {
    match kind {
        StreamKind::Terminal => Message::Binary(bytes),
        StreamKind::Pipes => {
            let mut frame = BytesMut::with_capacity(bytes.len() + 1);
            frame.put_u8(stream);
            frame.put(bytes);
            Message::Binary(frame.freeze())
        }
    }
}

async fn send_end(
    sink: &mut SplitSink<WebSocket, Message>,
    end: Result<isorun_agent::protocol::Status, ApiError>,
) {
    let text = serde_json::to_string(&final_event(end)).unwrap_or_default();
    let close = CloseFrame { code: close_code::NORMAL, reason: "the command has exited".into() };
    let closing = async {
        sink.send(Message::Text(text.into())).await?;
        sink.send(Message::Close(Some(close))).await
    };
    // Does not wait for a client that does not read.
    let _ = timeout(HANDSHAKE_TIMEOUT, closing).await;
}

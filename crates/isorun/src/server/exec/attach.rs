//! Commands over a WebSocket: with live input, on pipes or on a terminal.
//!
//! From the client, a binary frame is input and a text frame is an order as
//! JSON. To the client, a text frame is the last word as JSON; a binary frame is
//! output: on a terminal as it is, on pipes after one byte that says of which
//! stream, 1 or 2.

use std::{sync::Arc, time::Duration};

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
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use isorun_agent::protocol::Size;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::mpsc, time::timeout};

use super::{Input, Output, Running, Task, ending, start};
use crate::{
    api::{AttachInput, Command, Encoding, ErrorBody, ExecRequest, TerminalInput},
    server::{
        ApiError, App, Code,
        config::MAX_JSON,
        extract::{AwakeRun, Params},
        runs::LiveRun,
        strict,
    },
};

/// Bytes of a client's message that are read. One that is longer ends the
/// connection at once; one that is too long and shorter than this is answered.
pub const MAX_MESSAGE: usize = 8 * MAX_JSON;
/// How long a client may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// How often a silent client is asked whether it is there, and how long it may
/// be silent all in all.
const PING: Duration = Duration::from_secs(20);

/// A terminal's beginning.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TerminalParams {
    /// Characters in a line; 80 if not given.
    cols: Option<u16>,
    /// Lines; 24 if not given.
    rows: Option<u16>,
    /// A line for the shell, instead of a shell that asks.
    command: Option<String>,
    /// The folder that it starts in.
    cwd: Option<String>,
    /// Seconds until it is killed; never if not given.
    timeout: Option<f64>,
}

/// A shell on a terminal, over a WebSocket
///
/// Binary frames are what is typed, and what the terminal shows. The text frame
/// `{"type":"resize","cols":120,"rows":40}` changes its size. The last frame is the text
/// `{"type":"exit","exit_code":0}`, or an `error`. If the client goes away, the shell is killed.
#[utoipa::path(
    get, path = "/v1/runs/{id}/terminal", tag = "exec", operation_id = "terminal",
    params(("id" = String, Path, description = "The run"), TerminalParams),
    responses(
        (status = 101, description = "A WebSocket follows"),
        (status = 400, body = ErrorBody, description = "No WebSocket was asked for"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
pub async fn terminal(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    Params(params): Params<TerminalParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(no_websocket)?;
    let size = Size { cols: params.cols.unwrap_or(80), rows: params.rows.unwrap_or(24) };
    if size.cols == 0 || size.rows == 0 {
        return Err(ApiError::invalid("cols and rows: a terminal has at least one of each"));
    }
    let command = match params.command {
        Some(line) => Command::Shell(line),
        // The better shell, if the image has it.
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
    let task = Task::new(&request, true)?.on_terminal(size);
    let running = start(&app, &run, task)?;
    let until_told = app.tasks.token();
    Ok(upgrade.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| async move {
        let (sink, stream) = socket.split();
        relay(sink, stream, running, Form::Terminal).await;
        drop(until_told);
    }))
}

/// Run a command with live input, over a WebSocket
///
/// The first text frame is the request of `exec`, without `stdin`. Then binary frames are its
/// standard input, and the text frames `{"type":"eof"}` and `{"type":"signal","signal":15}` are
/// obeyed. From the server, a binary frame is a byte that is 1 for standard output or 2 for
/// standard error, and then what was printed; the last frame is the text
/// `{"type":"exit","exit_code":0}`, or an `error`. If the client goes away, the command is killed.
#[utoipa::path(
    get, path = "/v1/runs/{id}/exec/attach", tag = "exec", operation_id = "exec_attach",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 101, description = "A WebSocket follows"),
        (status = 400, body = ErrorBody, description = "No WebSocket was asked for"),
        (status = 404, body = ErrorBody, description = "No such run, or it was destroyed"),
    ),
)]
pub async fn attach(
    State(app): State<App>,
    AwakeRun(run): AwakeRun,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(no_websocket)?;
    if let Some(trouble) = run.trouble() {
        return Err(trouble);
    }
    let until_told = app.tasks.token();
    Ok(upgrade.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| async move {
        let (mut sink, mut stream) = socket.split();
        match first_word(&app, &run, &mut stream).await {
            Ok(running) => relay(sink, stream, running, Form::Pipes).await,
            Err(error) => last_word(&mut sink, Err(error)).await,
        }
        drop(until_told);
    }))
}

fn no_websocket(rejection: WebSocketUpgradeRejection) -> ApiError {
    ApiError::invalid(format!("this path is for WebSockets: {}", rejection.body_text()))
}

async fn first_word(
    app: &App,
    run: &Arc<LiveRun>,
    stream: &mut SplitStream<WebSocket>,
) -> Result<Running, ApiError> {
    let said = timeout(FIRST_WORD, stream.next()).await;
    let text = match said {
        Ok(Some(Ok(Message::Text(text)))) => text,
        Ok(Some(Err(error))) if let Some(error) = too_long(&error) => return Err(error),
        _ => {
            return Err(ApiError::invalid(
                "the first frame has to be a text: the request, as JSON",
            ));
        }
    };
    let request: ExecRequest = order_of(&text)?;
    if request.stdin.is_some() {
        return Err(ApiError::invalid("stdin: send it as binary frames"));
    }
    start(app, run, Task::new(&request, true)?)
}

/// Reads a text frame, which may be as long as the body of a request.
pub fn order_of<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    if text.len() > MAX_JSON {
        return Err(ApiError::new(
            Code::TooLarge,
            format!("a text frame has {} bytes, and may have {MAX_JSON}", text.len()),
        ));
    }
    strict::object(text.as_bytes())
        .map_err(|why| ApiError::invalid(format!("a text frame is no valid order: {why}")))
}

/// Returns what a client is told whose message was longer than is read.
pub fn too_long(error: &axum::Error) -> Option<ApiError> {
    // The library that says so is no dependency of ours.
    error.to_string().contains("Message too long").then(|| {
        ApiError::new(
            Code::TooLarge,
            format!("a frame is too long: a text may have {MAX_JSON} bytes, another {MAX_MESSAGE}"),
        )
    })
}

/// How output and orders look.
#[derive(Clone, Copy)]
enum Form {
    Pipes,
    Terminal,
}

async fn relay(
    mut sink: SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
    running: Running,
    form: Form,
) {
    let Running { mut output, input } = running;
    let speak = async {
        let mut ping = tokio::time::interval(PING);
        ping.tick().await;
        loop {
            let frame = tokio::select! {
                piece = output.recv() => match piece {
                    Some(Output::Stdout(bytes)) => framed(1, bytes, form),
                    Some(Output::Stderr(bytes)) => framed(2, bytes, form),
                    Some(Output::End(end)) => return Some(end),
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
        end = speak => end,
        error = listen(&mut stream, &input, form) => error.map(Err),
    };
    // Kills the command, if it is not over.
    drop(output);
    if let Some(end) = end {
        last_word(&mut sink, end).await;
    }
}

/// Hands on what the client says, until it goes away or says nonsense.
async fn listen(
    stream: &mut SplitStream<WebSocket>,
    input: &mpsc::Sender<Input>,
    form: Form,
) -> Option<ApiError> {
    loop {
        // Every ping has an answer: a client that is silent for longer is gone.
        let said = timeout(PING * 3, stream.next()).await.ok()??;
        let said = match said {
            Ok(said) => said,
            Err(error) => return too_long(&error),
        };
        let order = match said {
            Message::Binary(bytes) => Ok(Input::Data(bytes)),
            Message::Text(text) => understood(&text, form),
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match order {
            // Waits while the command does not read, and so does the client.
            // A command that has ended reads nothing; its end is told.
            Ok(order) => {
                let _ = input.send(order).await;
            }
            Err(error) => return Some(error),
        }
    }
}

fn understood(text: &str, form: Form) -> Result<Input, ApiError> {
    match form {
        Form::Terminal => match order_of(text)? {
            TerminalInput::Resize { cols, rows } if cols > 0 && rows > 0 => {
                Ok(Input::Resize(Size { cols, rows }))
            }
            TerminalInput::Resize { .. } => {
                Err(ApiError::invalid("cols and rows: a terminal has at least one of each"))
            }
        },
        Form::Pipes => match order_of(text)? {
            AttachInput::Eof {} => Ok(Input::Eof),
            AttachInput::Signal { signal } if (1..=64).contains(&signal) => {
                Ok(Input::Signal(signal.unsigned_abs()))
            }
            AttachInput::Signal { signal } => {
                Err(ApiError::invalid(format!("there is no signal {signal}: they are 1 to 64")))
            }
        },
    }
}

fn framed(stream: u8, bytes: Bytes, form: Form) -> Message {
    match form {
        Form::Terminal => Message::Binary(bytes),
        Form::Pipes => {
            let mut frame = BytesMut::with_capacity(bytes.len() + 1);
            frame.put_u8(stream);
            frame.put(bytes);
            Message::Binary(frame.freeze())
        }
    }
}

async fn last_word(
    sink: &mut SplitSink<WebSocket, Message>,
    end: Result<isorun_agent::protocol::Status, ApiError>,
) {
    let text = serde_json::to_string(&ending(end)).unwrap_or_default();
    let close = CloseFrame { code: close_code::NORMAL, reason: "the command has ended".into() };
    let farewell = async {
        sink.send(Message::Text(text.into())).await?;
        sink.send(Message::Close(Some(close))).await
    };
    // A client that does not read is not waited for.
    let _ = timeout(FIRST_WORD, farewell).await;
}

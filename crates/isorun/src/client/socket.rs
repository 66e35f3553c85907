//! A command or a terminal over a WebSocket.

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use reqwest::{RequestBuilder, StatusCode, Upgraded, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

use super::{Client, ClientError, root_cause};
use isorun_api::{AttachInput, ErrorBody, ExecEvent, TerminalInput};

/// The connection to a command or a terminal.
pub struct Attachment {
    pub events: Events,
    pub input: Input,
}

/// The receiving half of an [`Attachment`].
pub struct Events(SplitStream<WebSocketStream<Upgraded>>);

/// The sending half of an [`Attachment`].
pub struct Input(SplitSink<WebSocketStream<Upgraded>, Message>);

/// An event of a command or a terminal.
#[derive(Debug)]
pub enum AttachEvent {
    /// Output. Without a terminal the first byte is the number of the stream.
    Output(Bytes),
    /// The exit code. It is the last event.
    Exit(i32),
}

impl Attachment {
    pub(super) async fn open(
        client: &Client,
        request: RequestBuilder,
    ) -> Result<Self, ClientError> {
        let (sink, stream) = upgrade(client, request).await?.split();
        Ok(Self { events: Events(stream), input: Input(sink) })
    }

    pub(super) async fn send_text(&mut self, text: String) -> Result<(), ClientError> {
        self.input.send(Message::Text(text.into())).await
    }
}

/// Opens a WebSocket.
pub(super) async fn upgrade(
    client: &Client,
    request: RequestBuilder,
) -> Result<WebSocketStream<Upgraded>, ClientError> {
    let key = generate_key();
    let request = request
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key);
    let response = client.send(request).await?;
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS
        || accepted.is_none_or(|accepted| accepted != derive_accept_key(key.as_bytes()).as_str())
    {
        return Err(ClientError::Connection(
            "the server did not upgrade it to a WebSocket".to_owned(),
        ));
    }
    let stream =
        response.upgrade().await.map_err(|error| ClientError::Connection(root_cause(&error)))?;
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

impl Events {
    /// Receives the next event. [`AttachEvent::Exit`] and errors are final.
    pub async fn next(&mut self) -> Result<AttachEvent, ClientError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(AttachEvent::Output(bytes)),
                Some(Ok(Message::Text(text))) => return final_event(&text),
                // Pongs are sent by the next read.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => {
                    return Err(ClientError::Connection(
                        "it was closed before the command exited".to_owned(),
                    ));
                }
                Some(Err(error)) => return Err(connection_error(&error)),
            }
        }
    }
}

fn final_event(text: &str) -> Result<AttachEvent, ClientError> {
    match serde_json::from_str(text) {
        Ok(ExecEvent::Exit { exit_code }) => Ok(AttachEvent::Exit(exit_code)),
        Ok(ExecEvent::Error { error, code, status }) => {
            let body = ErrorBody { error, code, stdout: None, stderr: None };
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            Err(ClientError::Refused { status, body: Box::new(body) })
        }
        _ => Err(ClientError::Connection("the server sent an invalid message".to_owned())),
    }
}

impl Input {
    /// Sends bytes of standard input, or keys of a terminal.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        self.send(Message::Binary(bytes)).await
    }

    /// Closes standard input.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        self.json(&AttachInput::Eof {}).await
    }

    /// Sets the size of the terminal.
    pub async fn resize(&mut self, (cols, rows): (u16, u16)) -> Result<(), ClientError> {
        self.json(&TerminalInput::Resize { cols, rows }).await
    }

    async fn json(&mut self, value: &impl serde::Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(value)
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.0.send(message).await.map_err(|error| connection_error(&error))
    }
}

pub(super) fn connection_error(error: &WsError) -> ClientError {
    ClientError::Connection(root_cause(error))
}

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

use super::{Client, ClientError, deepest};
use crate::api::{AttachInput, ErrorBody, ExecEvent, TerminalInput};

/// Both directions of it.
pub struct Attached {
    pub events: Events,
    pub input: Input,
}

/// What it says.
pub struct Events(SplitStream<WebSocketStream<Upgraded>>);

/// What it is told.
pub struct Input(SplitSink<WebSocketStream<Upgraded>, Message>);

/// What a command or terminal says.
#[derive(Debug)]
pub enum Said {
    /// A terminal's bytes; or on pipes, after a byte that tells the stream.
    Output(Bytes),
    /// It ended with this code. Nothing follows.
    Exit(i32),
}

impl Attached {
    pub(super) async fn open(
        client: &Client,
        request: RequestBuilder,
    ) -> Result<Self, ClientError> {
        let (sink, stream) = upgrade(client, request).await?.split();
        Ok(Self { events: Events(stream), input: Input(sink) })
    }

    pub(super) async fn order(&mut self, text: String) -> Result<(), ClientError> {
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
        return Err(ClientError::Broken("the server opens no WebSocket".to_owned()));
    }
    let stream = response.upgrade().await.map_err(|error| ClientError::Broken(deepest(&error)))?;
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

impl Events {
    /// What comes next. After [`Said::Exit`] or an error nothing does.
    pub async fn next(&mut self) -> Result<Said, ClientError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Said::Output(bytes)),
                Some(Ok(Message::Text(text))) => return last_word(&text),
                // Answers to pings go out with the next thing that is read.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => {
                    return Err(ClientError::Broken(
                        "it closed before the command's end".to_owned(),
                    ));
                }
                Some(Err(error)) => return Err(broken(&error)),
            }
        }
    }
}

fn last_word(text: &str) -> Result<Said, ClientError> {
    match serde_json::from_str(text) {
        Ok(ExecEvent::Exit { exit_code }) => Ok(Said::Exit(exit_code)),
        Ok(ExecEvent::Error { error, code, status }) => {
            let body = ErrorBody { error, code, stdout: None, stderr: None };
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            Err(ClientError::Refused { status, body: Box::new(body) })
        }
        _ => Err(ClientError::Broken("the server says nonsense".to_owned())),
    }
}

impl Input {
    pub async fn bytes(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        self.send(Message::Binary(bytes)).await
    }

    pub async fn end(&mut self) -> Result<(), ClientError> {
        self.json(&AttachInput::Eof {}).await
    }

    pub async fn resize(&mut self, (cols, rows): (u16, u16)) -> Result<(), ClientError> {
        self.json(&TerminalInput::Resize { cols, rows }).await
    }

    async fn json(&mut self, value: &impl serde::Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(value)
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.0.send(message).await.map_err(|error| broken(&error))
    }
}

pub(super) fn broken(error: &WsError) -> ClientError {
    ClientError::Broken(deepest(error))
}

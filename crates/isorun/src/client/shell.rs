//! A shell over a WebSocket.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use reqwest::{StatusCode, Upgraded};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{ClientError, socket::connection_error};
use isorun_api::{ErrorBody, ShellInput, ShellOutput};

/// A shell that runs one command after the other.
pub struct ShellSession {
    /// The id with which a client reattaches after it has lost the connection.
    pub session: String,
    socket: WebSocketStream<Upgraded>,
}

/// An event of a shell.
#[derive(Debug)]
pub enum ShellEvent {
    /// Output; the flag is true for standard error.
    Output(bool, Bytes),
    /// The exit code of a command.
    Result(i32),
    /// A command exceeded its timeout: the error message.
    Timeout(String),
    /// The exit code of the shell. It is the last event.
    Closed(i32),
}

impl ShellSession {
    /// Waits until the shell is ready.
    pub(super) async fn open(mut socket: WebSocketStream<Upgraded>) -> Result<Self, ClientError> {
        loop {
            match receive(&mut socket).await? {
                Received::Ready(session) => return Ok(Self { session, socket }),
                Received::Event(_) => {}
            }
        }
    }

    /// Starts a command. A timeout of 0 seconds means that there is none.
    pub async fn run(&mut self, command: &str, timeout: f64) -> Result<(), ClientError> {
        let command = command.to_owned();
        self.send(&ShellInput::Run { command, timeout: Some(timeout) }).await
    }

    /// Receives the next event.
    pub async fn next(&mut self) -> Result<ShellEvent, ClientError> {
        loop {
            if let Received::Event(event) = receive(&mut self.socket).await? {
                return Ok(event);
            }
        }
    }

    /// Closes the shell, and waits until it has exited.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.send(&ShellInput::Close {}).await?;
        while !matches!(self.next().await?, ShellEvent::Closed(_)) {}
        Ok(())
    }

    async fn send(&mut self, input: &ShellInput) -> Result<(), ClientError> {
        let text = serde_json::to_string(input)
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        self.socket.send(Message::Text(text.into())).await.map_err(|error| connection_error(&error))
    }
}

/// A message of the server.
enum Received {
    /// The shell is ready; the id of its session.
    Ready(String),
    Event(ShellEvent),
}

async fn receive(socket: &mut WebSocketStream<Upgraded>) -> Result<Received, ClientError> {
    loop {
        let text = match socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Binary(mut bytes))) => {
                let stream = (!bytes.is_empty()).then(|| bytes.split_to(1));
                let is_stderr = stream.is_some_and(|stream| stream.first() == Some(&2));
                return Ok(Received::Event(ShellEvent::Output(is_stderr, bytes)));
            }
            Some(Ok(Message::Close(_))) | None => {
                return Err(ClientError::Connection(
                    "it was closed before the shell exited".to_owned(),
                ));
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(connection_error(&error)),
        };
        let event = match serde_json::from_str(&text) {
            Ok(ShellOutput::Ready { session }) => return Ok(Received::Ready(session)),
            Ok(ShellOutput::Result { exit_code }) => ShellEvent::Result(exit_code),
            Ok(ShellOutput::Timeout { error }) => ShellEvent::Timeout(error),
            Ok(ShellOutput::Closed { exit_code }) => ShellEvent::Closed(exit_code),
            Ok(ShellOutput::Error { error, code, status }) => {
                let body = ErrorBody { error, code, stdout: None, stderr: None };
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                return Err(ClientError::Refused { status, body: Box::new(body) });
            }
            Err(_) => {
                return Err(ClientError::Connection(
                    "the server sent an invalid message".to_owned(),
                ));
            }
        };
        return Ok(Received::Event(event));
    }
}

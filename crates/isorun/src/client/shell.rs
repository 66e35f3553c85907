//! A shell over a WebSocket.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use reqwest::{StatusCode, Upgraded};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{ClientError, socket::broken};
use crate::api::{ErrorBody, ShellInput, ShellOutput};

/// A shell, for one command after the other.
pub struct Conversation {
    /// Its name, for who loses the connection.
    pub session: String,
    socket: WebSocketStream<Upgraded>,
}

/// What a shell says.
#[derive(Debug)]
pub enum Told {
    /// Something was printed, on standard error if so.
    Output(bool, Bytes),
    /// A command ended.
    Result(i32),
    /// The time of a command was over, in these words.
    Timeout(String),
    /// The shell ended. Nothing follows.
    Closed(i32),
}

impl Conversation {
    pub(super) async fn begin(mut socket: WebSocketStream<Upgraded>) -> Result<Self, ClientError> {
        loop {
            match understood(&mut socket).await? {
                Heard::Ready(session) => return Ok(Self { session, socket }),
                Heard::Told(_) => {}
            }
        }
    }

    /// Gives it a command; 0 seconds are for ever.
    pub async fn run(&mut self, command: &str, timeout: f64) -> Result<(), ClientError> {
        let command = command.to_owned();
        self.say(&ShellInput::Run { command, timeout: Some(timeout) }).await
    }

    /// What comes next.
    pub async fn next(&mut self) -> Result<Told, ClientError> {
        loop {
            if let Heard::Told(told) = understood(&mut self.socket).await? {
                return Ok(told);
            }
        }
    }

    /// Ends it.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.say(&ShellInput::Close {}).await?;
        while !matches!(self.next().await?, Told::Closed(_)) {}
        Ok(())
    }

    async fn say(&mut self, input: &ShellInput) -> Result<(), ClientError> {
        let text = serde_json::to_string(input)
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        self.socket.send(Message::Text(text.into())).await.map_err(|error| broken(&error))
    }
}

enum Heard {
    Ready(String),
    Told(Told),
}

async fn understood(socket: &mut WebSocketStream<Upgraded>) -> Result<Heard, ClientError> {
    loop {
        let said = match socket.next().await {
            Some(Ok(Message::Text(said))) => said,
            Some(Ok(Message::Binary(mut bytes))) => {
                let of = (!bytes.is_empty()).then(|| bytes.split_to(1));
                let is_error = of.is_some_and(|of| of.first() == Some(&2));
                return Ok(Heard::Told(Told::Output(is_error, bytes)));
            }
            Some(Ok(Message::Close(_))) | None => {
                return Err(ClientError::Broken("it closed without a last word".to_owned()));
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(broken(&error)),
        };
        let told = match serde_json::from_str(&said) {
            Ok(ShellOutput::Ready { session }) => return Ok(Heard::Ready(session)),
            Ok(ShellOutput::Result { exit_code }) => Told::Result(exit_code),
            Ok(ShellOutput::Timeout { error }) => Told::Timeout(error),
            Ok(ShellOutput::Closed { exit_code }) => Told::Closed(exit_code),
            Ok(ShellOutput::Error { error, code, status }) => {
                let body = ErrorBody { error, code, stdout: None, stderr: None };
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                return Err(ClientError::Refused { status, body: Box::new(body) });
            }
            Err(_) => return Err(ClientError::Broken("the server says nonsense".to_owned())),
        };
        return Ok(Heard::Told(told));
    }
}

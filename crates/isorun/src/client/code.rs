//! Code in contexts, as a stream of events.

use futures_util::StreamExt;
use isorun_api::{CodeEvent, CodeRequest, ErrorBody, RunId};
use reqwest::{Method, Response, StatusCode};

use super::{Client, ClientError, root_cause};

/// The longest event, in bytes.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// The events of a running cell. Dropping it interrupts the cell.
pub struct CodeEvents {
    response:
        std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    rest: Vec<u8>,
    /// The start of `rest` that has no line break in it.
    searched: usize,
    data: String,
}

impl Client {
    /// Runs code in a context.
    pub async fn run_code(
        &self,
        id: &RunId,
        request: &CodeRequest,
    ) -> Result<CodeEvents, ClientError> {
        let path = format!("v1/runs/{id}/code/stream");
        let response: Response = self.send(self.json(Method::POST, &path, request)?).await?;
        Ok(CodeEvents {
            response: Box::pin(response.bytes_stream()),
            rest: Vec::new(),
            searched: 0,
            data: String::new(),
        })
    }
}

impl CodeEvents {
    /// Returns the next event.
    pub async fn next(&mut self) -> Result<CodeEvent, ClientError> {
        loop {
            while let Some(line) = self.next_line() {
                if let Some(data) = line.strip_prefix("data:") {
                    self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
                } else if line.is_empty() && !self.data.is_empty() {
                    return parse(&std::mem::take(&mut self.data));
                }
            }
            if self.rest.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err(ClientError::Connection("an event is too long".to_owned()));
            }
            match self.response.next().await {
                Some(Ok(bytes)) => self.rest.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(ClientError::Connection(root_cause(&error))),
                None => {
                    let message = "the connection ended before the cell did".to_owned();
                    return Err(ClientError::Connection(message));
                }
            }
        }
    }

    fn next_line(&mut self) -> Option<String> {
        let unsearched = self.rest.get(self.searched..).unwrap_or_default();
        let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.rest.len();
            return None;
        };
        let line: Vec<u8> = self.rest.drain(..=self.searched + end).collect();
        self.searched = 0;
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn parse(data: &str) -> Result<CodeEvent, ClientError> {
    match serde_json::from_str(data) {
        Ok(CodeEvent::Failure { error, code, status }) => Err(ClientError::Refused {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            body: Box::new(ErrorBody { error, code, stdout: None, stderr: None }),
        }),
        Ok(event) => Ok(event),
        Err(error) => Err(ClientError::Connection(format!("an event is invalid: {error}"))),
    }
}

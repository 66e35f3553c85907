//! The error of a request.

use crate::codec::{CodecError, MAX_PAYLOAD_BYTES};
use crate::protocol::Failure;

/// The error of a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent could not execute the request.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// The connection ended before the reply. The sandbox or its agent has exited.
    #[error("the connection to the sandbox ended before the answer")]
    Disconnected,
    /// The agent violated the protocol.
    #[error("the sandbox's agent violated the protocol: {0}")]
    Protocol(String),
    /// The request is too long to be sent.
    #[error("the request has {0} bytes; the maximum is {MAX_PAYLOAD_BYTES}")]
    TooLong(usize),
    /// The caller's own source or sink of bytes failed.
    #[error("the local side failed: {0}")]
    Local(std::io::Error),
}

impl From<CodecError> for ClientError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Io(_) | CodecError::Truncated => Self::Disconnected,
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// Returns the error of an unexpected frame. Shortens the frame, since the agent
/// chooses its length.
pub fn unexpected(received: &dyn std::fmt::Debug) -> ClientError {
    let received: String = format!("{received:?}").chars().take(200).collect();
    ClientError::Protocol(format!("unexpected frame: {received}"))
}

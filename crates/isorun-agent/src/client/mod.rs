//! The server's end of a connection to an agent: typed requests over any stream.
//!
//! Every function takes a new connection for one request. To cancel a request, drop
//! the returned future or handle.

mod exec;
mod files;
mod forward;
mod link;
mod shell;

pub use exec::{ExecControl, ExecEvent, ExecEvents, ExecHandle, Output, exec, exec_with_reattach};
pub use files::{FileReader, list, list_parts, make_dir, read_file, remove, stat, write_file};
pub use forward::{Forward, forward};
pub use link::Connect;
pub use shell::{ShellControl, ShellEvent, ShellEvents, ShellHandle, attach_shell, shell};

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use crate::codec::{CodecError, Frame, FrameReader, FrameWriter, MAX_PAYLOAD_BYTES};
use crate::protocol::{Configure, Failure, Hello, Info, OLDEST_VERSION, Reply, Request, VERSION};

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

/// Returns the state of the agent and figures of the sandbox. Also a health check.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn info<S: AsyncRead + AsyncWrite>(stream: S) -> Result<Info, ClientError> {
    match send_request(stream, &Request::Info).await? {
        Reply::Info(info) => Ok(info),
        other => Err(unexpected(&other)),
    }
}

/// Configures a sandbox. For engines.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn configure<S: AsyncRead + AsyncWrite>(
    stream: S,
    configure: Configure,
) -> Result<(), ClientError> {
    done(send_request(stream, &Request::Configure(configure)).await?)
}

/// Prepares a sandbox for a checkpoint: resolves when every other connection to its
/// agent has ended. For engines.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn freeze<S: AsyncRead + AsyncWrite>(stream: S) -> Result<(), ClientError> {
    let mut call = Call::start(stream, &Request::Freeze).await?;
    done(call.reply().await?)?;
    // The agent closes its end now. The reset of the connection proves that it has.
    call.writer.shutdown().await?;
    while let Ok(Some(_)) = call.reader.next().await {}
    Ok(())
}

/// A connection on which the request was sent and the welcome received.
struct Call<S> {
    reader: FrameReader<ReadHalf<S>>,
    writer: FrameWriter<WriteHalf<S>>,
}

impl<S: AsyncRead + AsyncWrite> Call<S> {
    async fn start(stream: S, request: &Request) -> Result<Self, ClientError> {
        let (reader, writer) = tokio::io::split(stream);
        let mut call = Self { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) };
        call.writer.queue(&Frame::Hello(Hello::SUPPORTED))?;
        call.writer.queue(&Frame::Request(request.clone())).map_err(|error| match error {
            CodecError::TooLong(length) => ClientError::TooLong(length),
            error => error.into(),
        })?;
        call.writer.flush().await?;
        match call.reader.next().await? {
            Some(Frame::Welcome(welcome))
                if (OLDEST_VERSION..=VERSION).contains(&welcome.version) =>
            {
                Ok(call)
            }
            Some(Frame::Welcome(welcome)) => Err(ClientError::Protocol(format!(
                "it chose version {}, which was not offered",
                welcome.version
            ))),
            Some(Frame::Failed(failure)) => Err(failure.into()),
            Some(other) => Err(unexpected(&other)),
            None => Err(ClientError::Disconnected),
        }
    }

    async fn reply(&mut self) -> Result<Reply, ClientError> {
        match self.reader.next().await? {
            Some(Frame::Reply(reply)) => Ok(reply),
            Some(Frame::Failed(failure)) => Err(failure.into()),
            Some(other) => Err(unexpected(&other)),
            None => Err(ClientError::Disconnected),
        }
    }
}

async fn send_request<S: AsyncRead + AsyncWrite>(
    stream: S,
    request: &Request,
) -> Result<Reply, ClientError> {
    Call::start(stream, request).await?.reply().await
}

fn done(reply: Reply) -> Result<(), ClientError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Returns the error of an unexpected frame. Shortens the frame, since the agent
/// chooses its length.
fn unexpected(received: &dyn std::fmt::Debug) -> ClientError {
    let received: String = format!("{received:?}").chars().take(200).collect();
    ClientError::Protocol(format!("unexpected frame: {received}"))
}

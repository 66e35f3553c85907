//! The server's end of a connection to an agent: typed requests over any stream.
//!
//! Every function takes a fresh connection, for one request. To cancel what was
//! asked, drop what it gave.

mod exec;
mod files;
mod forward;
mod link;
mod shell;

pub use exec::{Exec, ExecControl, ExecEvent, ExecEvents, Output, exec, exec_lasting};
pub use files::{FileReader, list, list_parts, make_dir, read_file, remove, stat, write_file};
pub use forward::{Forward, forward};
pub use link::Connect;
pub use shell::{Shell, ShellControl, ShellEvent, ShellEvents, attach_shell, shell};

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use crate::codec::{CodecError, Frame, FrameReader, FrameWriter};
use crate::protocol::{Configure, Failure, Hello, Info, OLDEST_VERSION, Reply, Request, VERSION};

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent could not do what was asked.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// The connection ended before the answer. The sandbox is gone, or its agent
    /// is.
    #[error("the connection to the sandbox ended before the answer")]
    Disconnected,
    /// The agent speaks in a way that makes no sense.
    #[error("the sandbox's agent answers nonsense: {0}")]
    Protocol(String),
    /// The request is too long to be sent.
    #[error("the request has {0} bytes, and may have {max}", max = crate::codec::MAX_PAYLOAD)]
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

/// What goes on in a sandbox; also a check that its agent is well.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn info<S: AsyncRead + AsyncWrite>(stream: S) -> Result<Info, ClientError> {
    match ask(stream, &Request::Info).await? {
        Reply::Info(info) => Ok(info),
        other => Err(unexpected(&other)),
    }
}

/// Tells a sandbox about itself. For engines.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn configure<S: AsyncRead + AsyncWrite>(
    stream: S,
    configure: Configure,
) -> Result<(), ClientError> {
    done(ask(stream, &Request::Configure(configure)).await?)
}

/// Gets a sandbox ready for a checkpoint: resolves when every other connection
/// to its agent has ended. For engines.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn freeze<S: AsyncRead + AsyncWrite>(stream: S) -> Result<(), ClientError> {
    let mut call = Call::start(stream, &Request::Freeze).await?;
    done(call.reply().await?)?;
    // Now the agent closes its end, and the reset of that is the proof.
    call.writer.shutdown().await?;
    while let Ok(Some(_)) = call.reader.next().await {}
    Ok(())
}

/// A connection on which the request is sent and the agent has said welcome.
struct Call<S> {
    reader: FrameReader<ReadHalf<S>>,
    writer: FrameWriter<WriteHalf<S>>,
}

impl<S: AsyncRead + AsyncWrite> Call<S> {
    async fn start(stream: S, request: &Request) -> Result<Self, ClientError> {
        let (reader, writer) = tokio::io::split(stream);
        let mut call = Self { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) };
        call.writer.queue(&Frame::Hello(Hello::OURS))?;
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

async fn ask<S: AsyncRead + AsyncWrite>(
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

/// What an agent said out of turn. Shortened: it chose the length.
fn unexpected(said: &dyn std::fmt::Debug) -> ClientError {
    let said: String = format!("{said:?}").chars().take(200).collect();
    ClientError::Protocol(format!("out of turn: {said}"))
}

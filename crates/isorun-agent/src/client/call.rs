//! A connection to an agent, with one request on it.

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use super::error::{ClientError, unexpected};
use crate::codec::{CodecError, Frame, FrameReader, FrameWriter};
use crate::protocol::{Hello, OLDEST_VERSION, Reply, Request, VERSION};

/// A connection on which the request was sent and the welcome received.
pub struct Call<S> {
    pub reader: FrameReader<ReadHalf<S>>,
    pub writer: FrameWriter<WriteHalf<S>>,
}

impl<S: AsyncRead + AsyncWrite> Call<S> {
    /// Sends a request on a new connection and receives the welcome.
    pub async fn start(stream: S, request: &Request) -> Result<Self, ClientError> {
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

    /// Returns the next reply.
    pub async fn reply(&mut self) -> Result<Reply, ClientError> {
        match self.reader.next().await? {
            Some(Frame::Reply(reply)) => Ok(reply),
            Some(Frame::Failed(failure)) => Err(failure.into()),
            Some(other) => Err(unexpected(&other)),
            None => Err(ClientError::Disconnected),
        }
    }
}

/// Sends a request on a new connection and returns the reply.
pub async fn send_request<S: AsyncRead + AsyncWrite>(
    stream: S,
    request: &Request,
) -> Result<Reply, ClientError> {
    Call::start(stream, request).await?.reply().await
}

/// Checks that a reply has no content.
pub fn done(reply: Reply) -> Result<(), ClientError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

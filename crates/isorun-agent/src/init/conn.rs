//! A connection to a client: frames in both directions.

use std::io;

use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use isorun_agent::codec::{CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{Failure, Reply};

/// A connection to a client. The halves are separate fields so that both can be
/// used at the same time.
pub struct Conn {
    pub reader: FrameReader<OwnedReadHalf>,
    pub writer: FrameWriter<OwnedWriteHalf>,
}

impl Conn {
    /// Creates the connection of an accepted stream.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // Closing must reset the connection: one that lingers would make a checkpoint
        // fail.
        stream.set_zero_linger()?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) })
    }

    /// Returns the next frame. Fails if the client has disconnected.
    pub async fn next(&mut self) -> Result<Frame, CodecError> {
        self.reader.next().await?.ok_or(CodecError::Truncated)
    }

    /// Sends the outcome of a request.
    pub async fn reply(&mut self, outcome: Result<Reply, Failure>) -> Result<(), CodecError> {
        match outcome {
            Ok(reply) => self.writer.send(&Frame::Reply(reply)).await,
            Err(failure) => self.fail(failure).await,
        }
    }

    /// Sends the reason why a request failed.
    pub async fn fail(&mut self, failure: Failure) -> Result<(), CodecError> {
        self.writer.send(&Frame::Failed(failure)).await
    }

    /// Sends a frame, unless the client disconnects before it reads it.
    pub async fn deliver(&mut self, frame: &Frame) -> Result<(), CodecError> {
        self.writer.queue(frame)?;
        loop {
            tokio::select! {
                flushed = self.writer.flush() => return flushed,
                // Frames for the program arrive too late: it has exited.
                frame = self.reader.next() => if frame?.is_none() {
                    return Err(CodecError::Truncated);
                },
            }
        }
    }

    /// Discards frames until the client has closed the connection.
    pub async fn drain(&mut self) {
        while let Ok(Some(_)) = self.reader.next().await {}
    }
}

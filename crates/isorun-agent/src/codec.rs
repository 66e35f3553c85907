//! Frames: how messages lie in a stream of bytes.
//!
//! A frame is a length (four bytes, little-endian), a kind (one byte), and that
//! many bytes of payload. [`Decoder`] has no I/O; [`FrameReader`] and
//! [`FrameWriter`] put it on a stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::protocol::{Failure, Hello, Reply, Request, Run, Size, Status, Welcome};

/// The longest payload of a frame that is read.
pub const MAX_PAYLOAD: usize = 2 * 1024 * 1024;
/// The longest run of bytes that is sent as one frame.
pub const CHUNK: usize = 128 * 1024;

const HEADER: usize = 5;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The client's first one.
    Hello(Hello),
    /// The agent's first one.
    Welcome(Welcome),
    /// What the client asks.
    Request(Request),
    /// The agent's answer.
    Reply(Reply),
    /// The agent could not do it. The last one.
    Failed(Failure),
    /// Bytes of a file, either way.
    Data(Bytes),
    /// No more of them.
    DataEnd,
    /// The program runs.
    Started {
        /// Its number inside.
        pid: u32,
    },
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// No more of them.
    StdinEnd,
    /// It took this many of them.
    StdinTaken(u32),
    /// It wrote this; on a terminal also what goes to standard error.
    Stdout(Bytes),
    /// It wrote this to standard error.
    Stderr(Bytes),
    /// Send it and what it has started this signal.
    Signal(u32),
    /// Its terminal has this size now.
    Resize(Size),
    /// It ended. The last one.
    Exited(Status),
    /// A command for a shell.
    Run(Run),
    /// The shell's command came to this. What it wrote went before.
    Ran(Status),
    /// From the agent: nothing more comes on this connection, attach on another
    /// one. From the client, as its answer: nothing more comes from here either.
    Detach,
    /// End the shell.
    Close,
}

/// What a stream said is no frame. There is no way to go on after it.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A frame of {0} bytes is longer than any may be.
    #[error("a frame of {0} bytes is longer than the {MAX_PAYLOAD} that it may have")]
    TooLong(usize),
    /// There is no kind {0} of frames.
    #[error("there is no kind {0} of frames")]
    UnknownKind(u8),
    /// The payload is not what its kind says.
    #[error("a frame of kind {kind} does not hold what it should: {source}")]
    Payload {
        /// The kind.
        kind: u8,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A payload has the wrong length for its kind.
    #[error("a frame of kind {kind} has {length} bytes")]
    Length {
        /// The kind.
        kind: u8,
        /// The length.
        length: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Io(#[from] std::io::Error),
}

impl Frame {
    /// Appends this frame to a buffer.
    ///
    /// # Errors
    ///
    /// [`CodecError::TooLong`], with the buffer as it was.
    pub fn encode(&self, into: &mut BytesMut) -> Result<(), CodecError> {
        let payload = match self {
            Self::Hello(hello) => json(hello),
            Self::Welcome(welcome) => json(welcome),
            Self::Request(request) => json(request),
            Self::Reply(reply) => json(reply),
            Self::Failed(failure) => json(failure),
            Self::Exited(status) | Self::Ran(status) => json(status),
            Self::Run(run) => json(run),
            Self::Data(bytes) | Self::Stdin(bytes) | Self::Stdout(bytes) | Self::Stderr(bytes) => {
                bytes.clone()
            }
            Self::Started { pid: number } | Self::StdinTaken(number) | Self::Signal(number) => {
                Bytes::copy_from_slice(&number.to_le_bytes())
            }
            Self::Resize(size) => {
                let mut bytes = BytesMut::with_capacity(4);
                bytes.put_u16_le(size.rows);
                bytes.put_u16_le(size.cols);
                bytes.freeze()
            }
            Self::DataEnd | Self::StdinEnd | Self::Detach | Self::Close => Bytes::new(),
        };
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= MAX_PAYLOAD)
            .ok_or(CodecError::TooLong(payload.len()))?;
        into.reserve(HEADER + payload.len());
        into.put_u32_le(length);
        into.put_u8(self.kind());
        into.put_slice(&payload);
        Ok(())
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Request(_) => 3,
            Self::Reply(_) => 4,
            Self::Failed(_) => 5,
            Self::Data(_) => 6,
            Self::DataEnd => 7,
            Self::Started { .. } => 8,
            Self::Stdin(_) => 9,
            Self::StdinEnd => 10,
            Self::StdinTaken(_) => 11,
            Self::Stdout(_) => 12,
            Self::Stderr(_) => 13,
            Self::Signal(_) => 14,
            Self::Resize(_) => 15,
            Self::Exited(_) => 16,
            Self::Run(_) => 17,
            Self::Ran(_) => 18,
            Self::Detach => 19,
            Self::Close => 20,
        }
    }

    fn parse(kind: u8, payload: Bytes) -> Result<Self, CodecError> {
        Ok(match kind {
            1 => Self::Hello(parse(kind, &payload)?),
            2 => Self::Welcome(parse(kind, &payload)?),
            3 => Self::Request(parse(kind, &payload)?),
            4 => Self::Reply(parse(kind, &payload)?),
            5 => Self::Failed(parse(kind, &payload)?),
            6 => Self::Data(payload),
            7 => Self::DataEnd,
            8 => Self::Started { pid: number(kind, &payload)? },
            9 => Self::Stdin(payload),
            10 => Self::StdinEnd,
            11 => Self::StdinTaken(number(kind, &payload)?),
            12 => Self::Stdout(payload),
            13 => Self::Stderr(payload),
            14 => Self::Signal(number(kind, &payload)?),
            15 => {
                let both = number(kind, &payload)?;
                Self::Resize(Size { rows: (both & 0xffff) as u16, cols: (both >> 16) as u16 })
            }
            16 => Self::Exited(parse(kind, &payload)?),
            17 => Self::Run(parse(kind, &payload)?),
            18 => Self::Ran(parse(kind, &payload)?),
            19 => Self::Detach,
            20 => Self::Close,
            _ => return Err(CodecError::UnknownKind(kind)),
        })
    }
}

/// Takes bytes as they come and gives frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where to put bytes that have arrived.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether nothing is left over from the last frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next frame, if all of it has arrived.
    ///
    /// # Errors
    ///
    /// What has arrived is no frame.
    pub fn decode(&mut self) -> Result<Option<Frame>, CodecError> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, kind] = *header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_PAYLOAD {
            return Err(CodecError::TooLong(length));
        }
        if self.buffer.len() < HEADER + length {
            self.buffer.reserve(HEADER + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Frame::parse(kind, self.buffer.split_to(length).freeze()).map(Some)
    }
}

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader of a stream's frames.
    pub fn new(stream: R) -> Self {
        Self { stream, decoder: Decoder::default() }
    }

    /// The stream, and what was read of it and is no frame yet.
    pub fn into_parts(self) -> (R, Decoder) {
        (self.stream, self.decoder)
    }

    /// The next frame, or `None` at the end of the stream. May be cancelled: no
    /// byte is lost.
    ///
    /// # Errors
    ///
    /// The stream failed, or said what is no frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, CodecError> {
        loop {
            if let Some(frame) = self.decoder.decode()? {
                return Ok(Some(frame));
            }
            let buffer = self.decoder.buffer();
            if buffer.capacity() - buffer.len() < CHUNK / 2 {
                buffer.reserve(CHUNK + HEADER);
            }
            if self.stream.read_buf(buffer).await? == 0 {
                return if self.decoder.is_empty() { Ok(None) } else { Err(CodecError::Truncated) };
            }
        }
    }
}

/// Writes frames to a stream.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// A writer of frames to a stream.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The stream; what was queued and not flushed is lost.
    pub fn into_inner(self) -> W {
        self.stream
    }

    /// Writes one frame. If this is cancelled, part of the frame may remain; it
    /// is written before the next one, or by [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// The stream failed, or the frame is too long.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), CodecError> {
        self.flush().await?;
        frame.encode(&mut self.buffer)?;
        self.flush().await
    }

    /// Puts a frame where the next [`flush`](Self::flush) or
    /// [`send`](Self::send) will write it.
    ///
    /// # Errors
    ///
    /// The frame is too long.
    pub fn queue(&mut self, frame: &Frame) -> Result<(), CodecError> {
        frame.encode(&mut self.buffer)
    }

    /// Whether nothing remains to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Writes what remains.
    ///
    /// # Errors
    ///
    /// The stream failed.
    pub async fn flush(&mut self) -> Result<(), CodecError> {
        while !self.buffer.is_empty() {
            if self.stream.write_buf(&mut self.buffer).await? == 0 {
                return Err(CodecError::Io(std::io::ErrorKind::WriteZero.into()));
            }
        }
        Ok(())
    }

    /// Says that no more will be written.
    ///
    /// # Errors
    ///
    /// The stream failed.
    pub async fn shutdown(&mut self) -> Result<(), CodecError> {
        self.flush().await?;
        Ok(self.stream.shutdown().await?)
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // These types have no map with keys that are not text, the only thing that
    // could fail.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

fn parse<T: DeserializeOwned>(kind: u8, payload: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(payload).map_err(|source| CodecError::Payload { kind, source })
}

fn number(kind: u8, payload: &[u8]) -> Result<u32, CodecError> {
    let bytes =
        payload.try_into().map_err(|_| CodecError::Length { kind, length: payload.len() })?;
    Ok(u32::from_le_bytes(bytes))
}

//! Frames: the encoding of messages in a byte stream.
//!
//! A frame consists of a length (four bytes, little-endian), a kind (one byte), and
//! a payload of that length. [`Decoder`] has no I/O; [`FrameReader`] and
//! [`FrameWriter`] use it on a stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::code::CellEnd;
use crate::protocol::{Failure, Hello, Reply, Request, Run, Size, Status, Welcome};

/// The maximum length of a frame's payload, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 2 * 1024 * 1024;
/// The maximum number of data bytes that are sent as one frame.
pub const CHUNK_BYTES: usize = 128 * 1024;

const HEADER_BYTES: usize = 5;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The client's first frame.
    Hello(Hello),
    /// The agent's first frame.
    Welcome(Welcome),
    /// The request of the client.
    Request(Request),
    /// The reply of the agent.
    Reply(Reply),
    /// The request failed. The last frame.
    Failed(Failure),
    /// Bytes of a file, in either direction.
    Data(Bytes),
    /// The end of the data.
    DataEnd,
    /// The program has started.
    Started {
        /// Its process id inside.
        pid: u32,
    },
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// The end of its standard input.
    StdinEnd,
    /// It has read this many bytes of its standard input.
    StdinTaken(u32),
    /// Its standard output; on a terminal together with its standard error.
    Stdout(Bytes),
    /// Its standard error.
    Stderr(Bytes),
    /// Sends this signal to it and to the processes that it has started.
    Signal(u32),
    /// Sets the size of its terminal.
    Resize(Size),
    /// It exited. The last frame.
    Exited(Status),
    /// A command for a shell.
    Run(Run),
    /// The exit status of the shell's command. All of its output was sent before.
    Ran(Status),
    /// From the agent: no further frame follows on this connection; attach on another
    /// one. From the client, as its answer: no further frame follows from the client
    /// either.
    Detach,
    /// Ends the shell.
    Close,
    /// A part of an event of a cell, in JSON. More parts follow.
    EventPart(Bytes),
    /// The last part of an event of a cell.
    Event(Bytes),
    /// The cell ended. The last frame of the cell.
    CellEnd(CellEnd),
}

/// The error of an invalid frame or a failed stream. Decoding cannot continue after
/// it.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A frame's payload of {0} bytes is longer than the maximum.
    #[error("a frame's payload has {0} bytes; the maximum is {MAX_PAYLOAD_BYTES}")]
    TooLong(usize),
    /// The kind of frame {0} is unknown.
    #[error("unknown kind of frame: {0}")]
    UnknownKind(u8),
    /// The payload cannot be parsed as that of its kind.
    #[error("a frame of kind {kind} has an invalid payload: {source}")]
    Payload {
        /// The kind.
        kind: u8,
        /// The error of the JSON parser.
        #[source]
        source: serde_json::Error,
    },
    /// A payload has the wrong length for its kind.
    #[error("a frame of kind {kind} has an invalid length of {length} bytes")]
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
            Self::CellEnd(end) => json(end),
            Self::Data(bytes)
            | Self::Stdin(bytes)
            | Self::Stdout(bytes)
            | Self::Stderr(bytes)
            | Self::EventPart(bytes)
            | Self::Event(bytes) => bytes.clone(),
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
            .filter(|_| payload.len() <= MAX_PAYLOAD_BYTES)
            .ok_or(CodecError::TooLong(payload.len()))?;
        into.reserve(HEADER_BYTES + payload.len());
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
            Self::EventPart(_) => 21,
            Self::Event(_) => 22,
            Self::CellEnd(_) => 23,
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
            21 => Self::EventPart(payload),
            22 => Self::Event(payload),
            23 => Self::CellEnd(parse(kind, &payload)?),
            _ => return Err(CodecError::UnknownKind(kind)),
        })
    }
}

/// Decodes frames from bytes as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Returns the buffer to which arriving bytes are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Reports whether no incomplete frame is in the buffer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns the next frame if it has arrived completely.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid frame.
    pub fn decode(&mut self) -> Result<Option<Frame>, CodecError> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, kind] = *header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_PAYLOAD_BYTES {
            return Err(CodecError::TooLong(length));
        }
        if self.buffer.len() < HEADER_BYTES + length {
            self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
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
    /// Creates a reader of frames from a stream.
    pub fn new(stream: R) -> Self {
        Self { stream, decoder: Decoder::default() }
    }

    /// Returns the stream, and the decoder with bytes that were read but not decoded.
    pub fn into_parts(self) -> (R, Decoder) {
        (self.stream, self.decoder)
    }

    /// Reads the next frame, or returns `None` at the end of the stream. May be
    /// cancelled: no byte is lost.
    ///
    /// # Errors
    ///
    /// The stream failed, or a frame is invalid.
    pub async fn next(&mut self) -> Result<Option<Frame>, CodecError> {
        loop {
            if let Some(frame) = self.decoder.decode()? {
                return Ok(Some(frame));
            }
            let buffer = self.decoder.buffer();
            if buffer.capacity() - buffer.len() < CHUNK_BYTES / 2 {
                buffer.reserve(CHUNK_BYTES + HEADER_BYTES);
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
    /// Creates a writer of frames to a stream.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Returns the stream. Frames that were queued and not flushed are lost.
    pub fn into_inner(self) -> W {
        self.stream
    }

    /// Writes one frame. If this is cancelled, part of the frame may remain; it is
    /// written before the next one, or by [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// The stream failed, or the frame is too long.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), CodecError> {
        self.flush().await?;
        frame.encode(&mut self.buffer)?;
        self.flush().await
    }

    /// Queues a frame that the next [`flush`](Self::flush) or [`send`](Self::send)
    /// writes.
    ///
    /// # Errors
    ///
    /// The frame is too long.
    pub fn queue(&mut self, frame: &Frame) -> Result<(), CodecError> {
        frame.encode(&mut self.buffer)
    }

    /// Reports whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Writes the queued frames.
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

    /// Writes the queued frames and shuts down the stream's writing direction.
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
    // Serialization can fail only for maps with keys that are not strings, which these
    // types do not have.
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

//! The frames between the agent and the program that runs cells in an interpreter.
//!
//! A frame consists of a kind (one byte), a length (four bytes, little-endian) and a
//! payload of that length. User code shares the process with the runner and can write
//! anything: every frame is checked, and none is held in memory as a whole.
//!
//! ```text
//! agent                          runner
//!                     ◀─────  Ready {kernel}        or Failed {message}
//! Cell {code}  ─────▶
//!                     ◀─────  Result, Error
//!                     ◀─────  ResultAndWait
//! Ack          ─────▶                               all output until here was read
//!                     ◀─────  End
//! ```
//!
//! The output of a cell comes through pipes. A runner that continues after a result
//! waits for its acknowledgement, before which the agent reads the output that was
//! written earlier: so results and output keep their order.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The maximum length of the payload of a frame, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 36 << 20;
/// The maximum length of a payload that the agent itself reads, in bytes.
pub const MAX_CONTROL_BYTES: usize = 64 << 10;
/// The maximum length of one part of a payload, in bytes.
const MAX_PART_BYTES: usize = 128 << 10;
const HEADER_BYTES: usize = 5;

/// The kinds of frames of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The interpreter accepts cells.
    Ready,
    /// The interpreter could not be started.
    Failed,
    /// A result. The cell has ended otherwise.
    Result,
    /// A result of a cell that continues after an acknowledgement.
    ResultAndWait,
    /// The error of the cell.
    Error,
    /// The cell has ended.
    End,
}

/// A part of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A frame starts.
    Start(Kind),
    /// Bytes of its payload; never empty.
    Data(Bytes),
    /// The frame ends.
    End(Kind),
}

/// An invalid frame. The stream cannot be read after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    /// The kind is unknown.
    #[error("a frame has the unknown kind {0}")]
    Kind(u8),
    /// The payload is too long.
    #[error("a frame has {0} bytes")]
    Length(usize),
}

/// Decodes the frames of a runner from bytes as they arrive.
#[derive(Debug, Default)]
pub struct PartDecoder {
    buffer: BytesMut,
    /// The frame in progress, and the rest of its length.
    frame: Option<(Kind, usize)>,
}

impl PartDecoder {
    /// Returns the buffer to which arriving bytes are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns the next part that has arrived.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid frame.
    pub fn decode(&mut self) -> Result<Option<Part>, InvalidFrame> {
        if let Some((kind, left)) = &mut self.frame {
            if *left == 0 {
                let kind = *kind;
                self.frame = None;
                return Ok(Some(Part::End(kind)));
            }
            let count = self.buffer.len().min(*left).min(MAX_PART_BYTES);
            if count == 0 {
                return Ok(None);
            }
            *left -= count;
            return Ok(Some(Part::Data(self.buffer.split_to(count).freeze())));
        }
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [kind, a, b, c, d] = *header;
        let kind = Kind::parse(kind).ok_or(InvalidFrame::Kind(kind))?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > kind.max_bytes() {
            return Err(InvalidFrame::Length(length));
        }
        self.buffer.advance(HEADER_BYTES);
        self.frame = Some((kind, length));
        Ok(Some(Part::Start(kind)))
    }
}

impl Kind {
    fn parse(kind: u8) -> Option<Self> {
        Some(match kind {
            b'R' => Self::Ready,
            b'F' => Self::Failed,
            b'p' => Self::Result,
            b'P' => Self::ResultAndWait,
            b'X' => Self::Error,
            b'E' => Self::End,
            _ => return None,
        })
    }

    fn max_bytes(self) -> usize {
        match self {
            Self::Ready | Self::Failed | Self::End => MAX_CONTROL_BYTES,
            Self::Result | Self::ResultAndWait | Self::Error => MAX_PAYLOAD_BYTES,
        }
    }
}

/// Returns the frame that starts a cell.
#[must_use]
pub fn cell(code: &str, execution_count: u64) -> Bytes {
    let payload = serde_json::json!({ "code": code, "execution_count": execution_count });
    frame(b'C', payload.to_string().as_bytes())
}

/// Returns the frame that acknowledges a result.
#[must_use]
pub fn ack() -> Bytes {
    frame(b'A', b"")
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    bytes.put_u8(kind);
    // Requests are limited to far less than 4 GiB.
    bytes.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    bytes.put_slice(payload);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<Part>, InvalidFrame> {
        let (mut decoder, mut parts) = (PartDecoder::default(), Vec::new());
        for piece in pieces {
            decoder.buffer().extend_from_slice(piece);
            while let Some(part) = decoder.decode()? {
                parts.push(part);
            }
        }
        Ok(parts)
    }

    #[test]
    fn frames_are_passed_on_in_parts() {
        let bytes = b"p\x03\0\0\0abcE\0\0\0\0";
        let whole = [
            Part::Start(Kind::Result),
            Part::Data(Bytes::from_static(b"abc")),
            Part::End(Kind::Result),
            Part::Start(Kind::End),
            Part::End(Kind::End),
        ];
        assert_eq!(decode(&[bytes]).unwrap(), whole);
        for cut in 1..bytes.len() {
            let (one, two) = bytes.split_at(cut);
            let parts = decode(&[one, two]).unwrap();
            let data: Vec<u8> = parts
                .iter()
                .filter_map(|part| match part {
                    Part::Data(data) => Some(data.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert_eq!(data, b"abc", "cut at {cut}");
        }
    }

    #[test]
    fn invalid_frames_are_refused_at_their_header() {
        assert_eq!(decode(&[b"{\"type\":"]), Err(InvalidFrame::Kind(b'{')));
        assert_eq!(decode(&[b"p\xff\xff\xff\xff"]), Err(InvalidFrame::Length(u32::MAX as usize)));
        let length = u32::try_from(MAX_CONTROL_BYTES + 1).unwrap().to_le_bytes();
        assert!(decode(&[&[b"E", &length[..]].concat()]).is_err());
        assert_eq!(decode(&[b"", b"X\0\0"]), Ok(Vec::new()));
    }
}

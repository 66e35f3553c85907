//! The input and output streams over a private file. They are always ready, and hold no
//! bytes.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::OpenInode;
use crate::{
    file_failure::FileFailure,
    files::{
        errors::StreamErrorCode,
        host::{MAX_TRANSFER_BYTES, Position},
    },
};

/// An input stream that starts at a position.
pub(in crate::files) struct PrivateReader {
    open: Arc<OpenInode>,
    position: u64,
}

impl PrivateReader {
    pub(in crate::files) fn new(open: Arc<OpenInode>, position: u64) -> Self {
        Self { open, position }
    }
}

#[async_trait::async_trait]
impl InputStream for PrivateReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let size = size.min(MAX_TRANSFER_BYTES);
        let mut state = self.open.files.lock();
        let read = state.tree.read(self.open.ino, self.position, size, SystemTime::now());
        let bytes = read.map_err(failed)?;
        if bytes.is_empty() {
            // Does not end the stream: the file may grow.
            return Err(StreamError::Closed);
        }
        self.position = self.position.saturating_add(bytes.len() as u64);
        Ok(bytes.into())
    }
}

#[async_trait::async_trait]
impl Pollable for PrivateReader {
    async fn ready(&mut self) {}
}

/// An output stream that starts at a position or at the end of the file.
pub(in crate::files) struct PrivateWriter {
    open: Arc<OpenInode>,
    position: Position,
}

impl PrivateWriter {
    pub(in crate::files) fn new(open: Arc<OpenInode>, position: Position) -> Self {
        Self { open, position }
    }
}

#[async_trait::async_trait]
impl OutputStream for PrivateWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > MAX_TRANSFER_BYTES {
            return Err(StreamError::trap("more was written than check-write permits"));
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let offset = match self.position {
                Position::At(offset) => Some(offset),
                Position::End => None,
            };
            let mut state = self.open.files.lock();
            let written = state.tree.write(self.open.ino, offset, rest, SystemTime::now());
            let (count, end) = written.map_err(|failure| {
                self.open.pending_error.set(failure.into());
                failed(failure)
            })?;
            rest = &rest[count..];
            if offset.is_some() {
                self.position = Position::At(end);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_TRANSFER_BYTES)
    }
}

#[async_trait::async_trait]
impl Pollable for PrivateWriter {
    async fn ready(&mut self) {}
}

fn failed(failure: FileFailure) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::from(StreamErrorCode(failure.into())))
}

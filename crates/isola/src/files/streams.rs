//! The input and output streams over a file's content.
//!
//! A blocking operation of a guest runs within its call. For a non-blocking one,
//! which the guest starts and polls later, the host holds a buffer in the
//! meantime; those buffers are counted.

use std::{io, sync::Arc};

use bytes::Bytes;
use wasmtime_wasi::{
    p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
    runtime::AbortOnDropJoinHandle,
};

use super::{
    OpenFile,
    errors::code,
    host::{self, MAX_TRANSFER_BYTES, Position},
    work::{BufferReservation, Worker},
};

/// The number of bytes that are read ahead for a guest that polls a stream before
/// it reads.
const READ_AHEAD_BYTES: usize = 4 << 10;

/// The task of an operation that was started.
type OperationTask<T> = AbortOnDropJoinHandle<wasmtime::Result<StreamResult<T>>>;

/// An input stream over a file, starting at a position.
pub(super) struct FileReader {
    file: Arc<OpenFile>,
    worker: Worker,
    position: u64,
    state: ReadState,
}

enum ReadState {
    Idle,
    Reading(OperationTask<Bytes>, BufferReservation),
    /// The result of a read, and the reservation if the host still holds its buffer.
    Read(StreamResult<Bytes>, Option<BufferReservation>),
    Closed,
}

impl FileReader {
    pub(super) fn new(file: Arc<OpenFile>, worker: Worker, position: u64) -> Self {
        Self { file, worker, position, state: ReadState::Idle }
    }

    /// Returns the operation that reads up to `size` bytes.
    fn operation(&self, size: usize) -> impl FnOnce() -> StreamResult<Bytes> + Send + use<> {
        let (file, position) = (Arc::clone(&self.file), self.position);
        move || match host::read(&file.file, position, size) {
            Ok(bytes) if bytes.is_empty() => Err(StreamError::Closed),
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }

    /// Starts to read in a separate task.
    fn start_read(&mut self, size: usize) {
        let size = size.min(MAX_TRANSFER_BYTES);
        let Some(buffer) = self.worker.reserve_buffer(size) else {
            self.state = ReadState::Read(Err(no_buffer()), None);
            return;
        };
        let task = self.worker.start(self.operation(size));
        self.state = ReadState::Reading(task, buffer);
    }

    /// Waits for a read that is running.
    async fn finish_read(&mut self) {
        if let ReadState::Reading(task, _) = &mut self.state {
            let read = flatten(task.await);
            let state = std::mem::replace(&mut self.state, ReadState::Closed);
            if let ReadState::Reading(_, buffer) = state {
                self.state = ReadState::Read(read, Some(buffer));
            }
        }
    }
}

#[async_trait::async_trait]
impl InputStream for FileReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match std::mem::replace(&mut self.state, ReadState::Closed) {
            ReadState::Idle => {
                self.state = ReadState::Idle;
                if size > 0 {
                    self.start_read(size);
                }
                Ok(Bytes::new())
            }
            ReadState::Reading(task, buffer) => {
                self.state = ReadState::Reading(task, buffer);
                Ok(Bytes::new())
            }
            ReadState::Read(Ok(mut bytes), buffer) => {
                let taken = bytes.split_to(bytes.len().min(size));
                self.position += taken.len() as u64;
                self.state = if bytes.is_empty() {
                    ReadState::Idle
                } else {
                    ReadState::Read(Ok(bytes), buffer)
                };
                Ok(taken)
            }
            ReadState::Read(Err(error), _) => {
                // The end of the file does not end the stream: the file may grow.
                if let StreamError::Closed = error {
                    self.state = ReadState::Idle;
                }
                Err(error)
            }
            ReadState::Closed => Err(StreamError::Closed),
        }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.finish_read().await;
        if let ReadState::Idle = self.state
            && size > 0
        {
            // All of it is taken at once, so no buffer is reserved.
            let read = flatten(self.worker.run(self.operation(size)).await);
            self.state = ReadState::Read(read, None);
        }
        self.read(size)
    }

    async fn cancel(&mut self) {
        if let ReadState::Reading(task, _) = std::mem::replace(&mut self.state, ReadState::Closed) {
            task.cancel().await;
        }
    }
}

#[async_trait::async_trait]
impl Pollable for FileReader {
    async fn ready(&mut self) {
        if let ReadState::Idle = self.state {
            self.start_read(READ_AHEAD_BYTES);
        }
        self.finish_read().await;
    }
}

/// An output stream over a file, starting at a position or at its end.
pub(super) struct FileWriter {
    file: Arc<OpenFile>,
    worker: Worker,
    position: Position,
    state: WriteState,
}

enum WriteState {
    Ready,
    Writing { task: OperationTask<u64>, _buffer: BufferReservation },
    Failed(StreamError),
    Closed,
}

impl FileWriter {
    pub(super) fn new(file: Arc<OpenFile>, worker: Worker, position: Position) -> Self {
        Self { file, worker, position, state: WriteState::Ready }
    }

    fn operation(&self, bytes: Bytes) -> impl FnOnce() -> StreamResult<u64> + Send + use<> {
        let (file, position) = (Arc::clone(&self.file), self.position);
        move || {
            host::write(&file.file, &bytes, position).map_err(|error| {
                file.pending_error.set(code(&error));
                StreamError::LastOperationFailed(error.into())
            })
        }
    }

    fn advance(&mut self, written: StreamResult<u64>) {
        self.state = match written {
            Ok(length) => {
                if let Position::At(offset) = &mut self.position {
                    *offset = offset.saturating_add(length);
                }
                WriteState::Ready
            }
            Err(error) => WriteState::Failed(error),
        };
    }

    /// Returns the error of the last operation, once.
    fn check(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, WriteState::Closed) {
            WriteState::Failed(error) => Err(error),
            WriteState::Closed => Err(StreamError::Closed),
            state => {
                self.state = state;
                Ok(())
            }
        }
    }
}

#[async_trait::async_trait]
impl OutputStream for FileWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if let WriteState::Closed = self.state {
            return Err(StreamError::Closed);
        }
        if !matches!(self.state, WriteState::Ready) || bytes.len() > MAX_TRANSFER_BYTES {
            return Err(StreamError::trap("more was written than check-write permits"));
        }
        let Some(buffer) = self.worker.reserve_buffer(bytes.len()) else {
            self.state = WriteState::Closed;
            return Err(no_buffer());
        };
        let task = self.worker.start(self.operation(bytes));
        self.state = WriteState::Writing { task, _buffer: buffer };
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        self.check()?;
        let written = flatten(self.worker.run(self.operation(bytes)).await);
        self.advance(written);
        self.check()
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.check()?;
        Ok(if matches!(self.state, WriteState::Ready) { MAX_TRANSFER_BYTES } else { 0 })
    }

    async fn cancel(&mut self) {
        if let WriteState::Writing { task, .. } =
            std::mem::replace(&mut self.state, WriteState::Closed)
        {
            task.cancel().await;
        }
    }
}

#[async_trait::async_trait]
impl Pollable for FileWriter {
    async fn ready(&mut self) {
        if let WriteState::Writing { task, .. } = &mut self.state {
            let written = flatten(task.await);
            self.advance(written);
        }
    }
}

fn flatten<T>(result: wasmtime::Result<StreamResult<T>>) -> StreamResult<T> {
    result.map_err(StreamError::Trap)?
}

fn no_buffer() -> StreamError {
    StreamError::LastOperationFailed(io::Error::from(io::ErrorKind::OutOfMemory).into())
}

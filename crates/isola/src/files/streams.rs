//! The streams over a file's content.
//!
//! A guest that waits for its file runs the operation itself, within its call.
//! The other form of WASI, to begin something and look for it later, makes the
//! host hold a buffer meanwhile; those are counted.

use std::{io, sync::Arc};

use bytes::Bytes;
use wasmtime_wasi::{
    p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
    runtime::AbortOnDropJoinHandle,
};

use super::{
    OpenFile,
    host::{self, MAX_TRANSFER, Position},
    work::{Buffer, Worker},
};

/// Bytes that are read ahead for a guest that waits without having asked.
const READ_AHEAD: usize = 4 << 10;

/// An operation that was begun.
type Begun<T> = AbortOnDropJoinHandle<wasmtime::Result<StreamResult<T>>>;

/// Reads a file from a position on.
pub(super) struct Reader {
    file: Arc<OpenFile>,
    worker: Worker,
    position: u64,
    state: ReadState,
}

enum ReadState {
    Idle,
    Reading(Begun<Bytes>, Buffer),
    /// What was read; the host's room for it, if it holds it for longer.
    Read(StreamResult<Bytes>, Option<Buffer>),
    Closed,
}

impl Reader {
    pub(super) fn new(file: Arc<OpenFile>, worker: Worker, position: u64) -> Self {
        Self { file, worker, position, state: ReadState::Idle }
    }

    /// The operation that reads.
    fn operation(&self, size: usize) -> impl FnOnce() -> StreamResult<Bytes> + Send + use<> {
        let (file, position) = (Arc::clone(&self.file), self.position);
        move || match host::read(&file.file, position, size) {
            Ok(bytes) if bytes.is_empty() => Err(StreamError::Closed),
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }

    /// Begins to read, in a task of its own.
    fn begin(&mut self, size: usize) {
        let size = size.min(MAX_TRANSFER);
        let Some(buffer) = self.worker.buffer(size) else {
            self.state = ReadState::Read(Err(no_buffer()), None);
            return;
        };
        let task = self.worker.begin(self.operation(size));
        self.state = ReadState::Reading(task, buffer);
    }

    async fn settle(&mut self) {
        if let ReadState::Reading(task, _) = &mut self.state {
            let read = flat(task.await);
            let state = std::mem::replace(&mut self.state, ReadState::Closed);
            if let ReadState::Reading(_, buffer) = state {
                self.state = ReadState::Read(read, Some(buffer));
            }
        }
    }
}

#[async_trait::async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match std::mem::replace(&mut self.state, ReadState::Closed) {
            ReadState::Idle => {
                self.state = ReadState::Idle;
                if size > 0 {
                    self.begin(size);
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
                // The end of a file is no end of the stream: the file may grow.
                if let StreamError::Closed = error {
                    self.state = ReadState::Idle;
                }
                Err(error)
            }
            ReadState::Closed => Err(StreamError::Closed),
        }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.settle().await;
        if let ReadState::Idle = self.state
            && size > 0
        {
            // All of it is taken at once, so it needs no room.
            let read = flat(self.worker.run(self.operation(size)).await);
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
impl Pollable for Reader {
    async fn ready(&mut self) {
        if let ReadState::Idle = self.state {
            self.begin(READ_AHEAD);
        }
        self.settle().await;
    }
}

/// Writes a file from a position on, or at its end.
pub(super) struct Writer {
    file: Arc<OpenFile>,
    worker: Worker,
    position: Position,
    state: WriteState,
}

enum WriteState {
    Ready,
    Writing { task: Begun<u64>, _room: Buffer },
    Failed(StreamError),
    Closed,
}

impl Writer {
    pub(super) fn new(file: Arc<OpenFile>, worker: Worker, position: Position) -> Self {
        Self { file, worker, position, state: WriteState::Ready }
    }

    fn operation(&self, bytes: Bytes) -> impl FnOnce() -> StreamResult<u64> + Send + use<> {
        let (file, position) = (Arc::clone(&self.file), self.position);
        move || {
            host::write(&file.file, &bytes, position)
                .map_err(|error| StreamError::LastOperationFailed(error.into()))
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
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if let WriteState::Closed = self.state {
            return Err(StreamError::Closed);
        }
        if !matches!(self.state, WriteState::Ready) || bytes.len() > MAX_TRANSFER {
            return Err(StreamError::trap("more was written than check-write permits"));
        }
        let Some(buffer) = self.worker.buffer(bytes.len()) else {
            self.state = WriteState::Closed;
            return Err(no_buffer());
        };
        let task = self.worker.begin(self.operation(bytes));
        self.state = WriteState::Writing { task, _room: buffer };
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        self.check()?;
        let written = flat(self.worker.run(self.operation(bytes)).await);
        self.advance(written);
        self.check()
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.check()?;
        Ok(if matches!(self.state, WriteState::Ready) { MAX_TRANSFER } else { 0 })
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
impl Pollable for Writer {
    async fn ready(&mut self) {
        if let WriteState::Writing { task, .. } = &mut self.state {
            let written = flat(task.await);
            self.advance(written);
        }
    }
}

fn flat<T>(result: wasmtime::Result<StreamResult<T>>) -> StreamResult<T> {
    result.map_err(StreamError::Trap)?
}

fn no_buffer() -> StreamError {
    StreamError::LastOperationFailed(io::Error::from(io::ErrorKind::OutOfMemory).into())
}

//! Runs programs in a sandbox.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::error::{ClientError, unexpected};
use super::link::{Connect, Link, LinkReader, LinkWriter, Reattach};
use crate::codec::{CHUNK_BYTES, Frame};
use crate::protocol::{self, Request, STDIN_WINDOW_BYTES, Size, Status};

/// Starts a program.
///
/// # Errors
///
/// See [`ClientError`]. The agent fails if the program, user or directory does not
/// exist, or if the limit of processes is reached.
pub async fn exec<S>(stream: S, request: protocol::Exec) -> Result<ExecHandle<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    start(stream, request, None).await
}

/// Starts a program to which the client attaches again after a checkpoint. The
/// request has to have a [`token`](protocol::Exec::token).
///
/// # Errors
///
/// See [`exec`].
pub async fn exec_with_reattach<S>(
    stream: S,
    connect: Connect<S>,
    request: protocol::Exec,
) -> Result<ExecHandle<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let reattach = request.token.clone().map(|token| Reattach { connect, token });
    start(stream, request, reattach).await
}

async fn start<S>(
    stream: S,
    request: protocol::Exec,
    reattach: Option<Reattach<S>>,
) -> Result<ExecHandle<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Link { pid, reader, writer } =
        Link::open(stream, &Request::Exec(request), reattach).await?;
    let window = Arc::new(Semaphore::new(STDIN_WINDOW_BYTES));
    Ok(ExecHandle {
        pid,
        events: ExecEvents { reader, window: Arc::clone(&window), finished: false },
        control: ExecControl { writer, window },
    })
}

/// A running program. When both halves are dropped, it is killed with all processes
/// that it has started.
#[derive(Debug)]
pub struct ExecHandle<S> {
    /// Its process id inside the sandbox.
    pub pid: u32,
    /// The half that reads events.
    pub events: ExecEvents<S>,
    /// The half that sends input and control messages.
    pub control: ExecControl<S>,
}

/// An event of a program. Events arrive in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote this to standard output, or to its terminal.
    Stdout(Bytes),
    /// It wrote this to standard error.
    Stderr(Bytes),
    /// It exited. The last event.
    Exited(Status),
}

/// The exit status of a program, with its output up to a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit status.
    pub status: Status,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// True if output beyond the limit was discarded.
    pub truncated: bool,
}

/// The half of an [`ExecHandle`] that reads.
///
/// A program whose output is not read blocks. A program that reads input gets no
/// more than [`STDIN_WINDOW_BYTES`] of it unless events are read.
#[derive(Debug)]
pub struct ExecEvents<S> {
    reader: LinkReader<S>,
    window: Arc<Semaphore>,
    finished: bool,
}

/// The half of an [`ExecHandle`] that writes; may be cloned.
#[derive(Debug)]
pub struct ExecControl<S> {
    writer: LinkWriter<S>,
    window: Arc<Semaphore>,
}

impl<S> Clone for ExecControl<S> {
    fn clone(&self) -> Self {
        Self { writer: self.writer.clone(), window: Arc::clone(&self.window) }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ExecHandle<S> {
    /// Reads to the end and keeps up to `limit` bytes of each stream.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn output(mut self, limit: usize) -> Result<Output, ClientError> {
        let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
        let mut keep = |kept: &mut Vec<u8>, bytes: &[u8]| {
            let room = limit.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
            truncated |= room < bytes.len();
        };
        loop {
            match self.events.next().await? {
                ExecEvent::Stdout(bytes) => keep(&mut stdout, &bytes),
                ExecEvent::Stderr(bytes) => keep(&mut stderr, &bytes),
                ExecEvent::Exited(status) => {
                    return Ok(Output { status, stdout, stderr, truncated });
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ExecEvents<S> {
    /// Returns the next event. May be cancelled. After [`ExecEvent::Exited`] it fails
    /// with [`ClientError::Disconnected`].
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<ExecEvent, ClientError> {
        if self.finished {
            return Err(ClientError::Disconnected);
        }
        let outcome = self.advance().await;
        if !matches!(outcome, Ok(ExecEvent::Stdout(_) | ExecEvent::Stderr(_))) {
            self.finished = true;
            // Wakes callers that wait for the window, since the program reads no more.
            self.window.close();
        }
        outcome
    }

    async fn advance(&mut self) -> Result<ExecEvent, ClientError> {
        loop {
            return match self.reader.next().await? {
                Frame::Stdout(bytes) => Ok(ExecEvent::Stdout(bytes)),
                Frame::Stderr(bytes) => Ok(ExecEvent::Stderr(bytes)),
                Frame::Exited(status) => Ok(ExecEvent::Exited(status)),
                Frame::StdinTaken(count) => {
                    let count = count as usize;
                    if self.window.available_permits() + count > STDIN_WINDOW_BYTES {
                        return Err(ClientError::Protocol(
                            "it reported more standard input as read than was sent".to_owned(),
                        ));
                    }
                    self.window.add_permits(count);
                    continue;
                }
                other => Err(unexpected(&other)),
            };
        }
    }
}

impl<S: AsyncWrite> ExecControl<S> {
    /// Sends standard input; waits until the program has read enough of it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] after the program has exited.
    pub async fn stdin(&self, bytes: Bytes) -> Result<(), ClientError> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let room =
                self.window.acquire_many(length).await.map_err(|_| ClientError::Disconnected)?;
            room.forget();
            self.send(&Frame::Stdin(part)).await?;
        }
        Ok(())
    }

    /// Ends standard input.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] after the program has exited.
    pub async fn stdin_end(&self) -> Result<(), ClientError> {
        self.send(&Frame::StdinEnd).await
    }

    /// Sends a signal to the program and the processes that it has started.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] after the program has exited.
    pub async fn signal(&self, signal: u32) -> Result<(), ClientError> {
        self.send(&Frame::Signal(signal)).await
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] after the program has exited.
    pub async fn resize(&self, size: Size) -> Result<(), ClientError> {
        self.send(&Frame::Resize(size)).await
    }

    async fn send(&self, frame: &Frame) -> Result<(), ClientError> {
        self.writer.send(frame).await
    }
}

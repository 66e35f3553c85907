//! Running a program.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::link::{Connect, LinkReader, LinkWriter, Return, link};
use super::{Call, ClientError, unexpected};
use crate::codec::{CHUNK, Frame};
use crate::protocol::{self, Request, STDIN_WINDOW, Size, Status};

/// Starts a program.
///
/// # Errors
///
/// See [`ClientError`]: there is no such program, user or folder, or no room for
/// one more process.
pub async fn exec<S>(stream: S, request: protocol::Exec) -> Result<Exec<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    begin(stream, request, None).await
}

/// Starts a program that outlives checkpoints: it has to have a
/// [`token`](protocol::Exec::token), under which it is attached to again.
///
/// # Errors
///
/// As those of [`exec`].
pub async fn exec_lasting<S>(
    stream: S,
    connect: Connect<S>,
    request: protocol::Exec,
) -> Result<Exec<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let way = request.token.clone().map(|token| Return { connect, token });
    begin(stream, request, way).await
}

async fn begin<S>(
    stream: S,
    request: protocol::Exec,
    way: Option<Return<S>>,
) -> Result<Exec<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let call = Call::start(stream, &Request::Exec(request)).await?;
    let (mut reader, writer) = link(call, way);
    let pid = match reader.next().await? {
        Frame::Started { pid } => pid,
        other => return Err(unexpected(&other)),
    };
    let window = Arc::new(Semaphore::new(STDIN_WINDOW));
    Ok(Exec {
        pid,
        events: ExecEvents { reader, window: Arc::clone(&window), over: false },
        control: ExecControl { writer, window },
    })
}

/// A program that runs. When both halves are dropped it is killed, with all that
/// it has started.
#[derive(Debug)]
pub struct Exec<S> {
    /// Its number inside of the sandbox.
    pub pid: u32,
    /// What it says.
    pub events: ExecEvents<S>,
    /// What is said to it.
    pub control: ExecControl<S>,
}

/// What a program does, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote this to standard output, or to its terminal.
    Stdout(Bytes),
    /// It wrote this to standard error.
    Stderr(Bytes),
    /// It ended. The last one.
    Exited(Status),
}

/// The outcome of a program, with all or the beginning of what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What it came to.
    pub status: Status,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Whether it wrote more than was kept.
    pub truncated: bool,
}

/// The half of an [`Exec`] that reads.
///
/// A program whose output is not read is held up; a program that waits for
/// input gets no more than [`STDIN_WINDOW`] of it unless events are read.
#[derive(Debug)]
pub struct ExecEvents<S> {
    reader: LinkReader<S>,
    window: Arc<Semaphore>,
    over: bool,
}

/// The half of an [`Exec`] that writes; may be cloned.
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

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Exec<S> {
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
    /// The next event. May be cancelled. After [`ExecEvent::Exited`] there is
    /// none: [`ClientError::Disconnected`].
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<ExecEvent, ClientError> {
        if self.over {
            return Err(ClientError::Disconnected);
        }
        let outcome = self.advance().await;
        if !matches!(outcome, Ok(ExecEvent::Stdout(_) | ExecEvent::Stderr(_))) {
            self.over = true;
            // Whoever waits to write has nobody to write to.
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
                    if self.window.available_permits() + count > STDIN_WINDOW {
                        return Err(ClientError::Protocol(
                            "it took more standard input than was sent".to_owned(),
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
    /// Sends standard input; waits while the program does not take it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] once the program has ended.
    pub async fn stdin(&self, bytes: Bytes) -> Result<(), ClientError> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(CHUNK));
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
    /// [`ClientError::Disconnected`] once the program has ended.
    pub async fn stdin_end(&self) -> Result<(), ClientError> {
        self.send(&Frame::StdinEnd).await
    }

    /// Sends the program, and what it has started, a signal.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] once the program has ended.
    pub async fn signal(&self, signal: u32) -> Result<(), ClientError> {
        self.send(&Frame::Signal(signal)).await
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    ///
    /// [`ClientError::Disconnected`] once the program has ended.
    pub async fn resize(&self, size: Size) -> Result<(), ClientError> {
        self.send(&Frame::Resize(size)).await
    }

    async fn send(&self, frame: &Frame) -> Result<(), ClientError> {
        self.writer.send(frame).await
    }
}

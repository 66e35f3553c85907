//! A shell that runs one command after the other.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::link::{Connect, LinkReader, LinkWriter, Return, link};
use super::{Call, ClientError, unexpected};
use crate::codec::Frame;
use crate::protocol::{self, Request, Run, Status};

/// A shell. When both halves are dropped it can be attached to for a while.
#[derive(Debug)]
pub struct Shell<S> {
    /// Its number inside of the sandbox.
    pub pid: u32,
    /// What it says.
    pub events: ShellEvents<S>,
    /// What it is told.
    pub control: ShellControl<S>,
}

/// What a shell does, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellEvent {
    /// Something wrote this to standard output. Between two commands it comes
    /// from what runs in the background.
    Stdout(Bytes),
    /// And this to standard error.
    Stderr(Bytes),
    /// The command came to this. The shell waits for the next one.
    Ran(Status),
    /// The shell has ended. The last one.
    Exited(Status),
}

/// The half of a [`Shell`] that reads.
#[derive(Debug)]
pub struct ShellEvents<S> {
    reader: LinkReader<S>,
}

/// The half of a [`Shell`] that writes; may be cloned.
#[derive(Debug)]
pub struct ShellControl<S> {
    writer: LinkWriter<S>,
}

impl<S> Clone for ShellControl<S> {
    fn clone(&self) -> Self {
        Self { writer: self.writer.clone() }
    }
}

/// Starts a shell. With a way to connect again it outlives checkpoints.
///
/// # Errors
///
/// See [`ClientError`]: there is no bash, for one.
pub async fn shell<S>(
    connect: Connect<S>,
    request: protocol::Shell,
) -> Result<Shell<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let token = request.token.clone();
    open(connect, token, Request::Shell(request)).await
}

/// Goes on with a shell that has no connection.
///
/// # Errors
///
/// See [`ClientError`]: there is no such shell, for one.
pub async fn attach_shell<S>(connect: Connect<S>, token: String) -> Result<Shell<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    open(connect, token.clone(), Request::Attach { token }).await
}

async fn open<S>(
    connect: Connect<S>,
    token: String,
    request: Request,
) -> Result<Shell<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = connect().await.ok_or(ClientError::Disconnected)?;
    let call = Call::start(stream, &request).await?;
    let (mut reader, writer) = link(call, Some(Return { connect, token }));
    match reader.next().await? {
        Frame::Started { pid } => {
            Ok(Shell { pid, events: ShellEvents { reader }, control: ShellControl { writer } })
        }
        other => Err(unexpected(&other)),
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ShellEvents<S> {
    /// The next event. May be cancelled.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<ShellEvent, ClientError> {
        match self.reader.next().await? {
            Frame::Stdout(bytes) => Ok(ShellEvent::Stdout(bytes)),
            Frame::Stderr(bytes) => Ok(ShellEvent::Stderr(bytes)),
            Frame::Ran(status) => Ok(ShellEvent::Ran(status)),
            Frame::Exited(status) => Ok(ShellEvent::Exited(status)),
            other => Err(unexpected(&other)),
        }
    }
}

impl<S: AsyncWrite> ShellControl<S> {
    /// Gives it a command, when the one before has ended.
    ///
    /// # Errors
    ///
    /// [`ClientError::TooLong`], or the shell is gone.
    pub async fn run(&self, run: Run) -> Result<(), ClientError> {
        let length = run.command.len();
        match self.writer.send(&Frame::Run(run)).await {
            Err(ClientError::Protocol(_)) => Err(ClientError::TooLong(length)),
            other => other,
        }
    }

    /// Interrupts the command.
    ///
    /// # Errors
    ///
    /// The shell is gone.
    pub async fn interrupt(&self) -> Result<(), ClientError> {
        self.writer.send(&Frame::Signal(2)).await
    }

    /// Ends the shell.
    ///
    /// # Errors
    ///
    /// The shell is gone.
    pub async fn close(&self) -> Result<(), ClientError> {
        self.writer.send(&Frame::Close).await
    }
}

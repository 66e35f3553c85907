//! A shell in a sandbox that runs one command after the other.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::{ClientError, unexpected};
use super::link::{Connect, Link, LinkReader, LinkWriter, Reattach};
use crate::codec::Frame;
use crate::protocol::{self, Request, Run, Status};

/// A shell. When both halves are dropped, a client can attach to it for ten
/// minutes.
#[derive(Debug)]
pub struct ShellHandle<S> {
    /// Its process id inside the sandbox.
    pub pid: u32,
    /// The half that reads events.
    pub events: ShellEvents<S>,
    /// The half that sends commands.
    pub control: ShellControl<S>,
}

/// An event of a shell. Events arrive in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellEvent {
    /// A process wrote this to standard output. Between two commands it is a process in
    /// the background.
    Stdout(Bytes),
    /// A process wrote this to standard error.
    Stderr(Bytes),
    /// The command ended with this status. The shell is ready for the next one.
    Ran(Status),
    /// The shell exited. The last event.
    Exited(Status),
}

/// The half of a [`ShellHandle`] that reads.
#[derive(Debug)]
pub struct ShellEvents<S> {
    reader: LinkReader<S>,
}

/// The half of a [`ShellHandle`] that writes; may be cloned.
#[derive(Debug)]
pub struct ShellControl<S> {
    writer: LinkWriter<S>,
}

impl<S> Clone for ShellControl<S> {
    fn clone(&self) -> Self {
        Self { writer: self.writer.clone() }
    }
}

/// Starts a shell. The connect function lets it persist across checkpoints.
///
/// # Errors
///
/// See [`ClientError`]. The agent fails if there is no bash, for example.
pub async fn shell<S>(
    connect: Connect<S>,
    request: protocol::Shell,
) -> Result<ShellHandle<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let token = request.token.clone();
    open(connect, token, Request::Shell(request)).await
}

/// Attaches to a shell that has no connection.
///
/// # Errors
///
/// See [`ClientError`]. The agent fails if there is no such shell, for example.
pub async fn attach_shell<S>(
    connect: Connect<S>,
    token: String,
) -> Result<ShellHandle<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    open(connect, token.clone(), Request::Attach { token }).await
}

async fn open<S>(
    connect: Connect<S>,
    token: String,
    request: Request,
) -> Result<ShellHandle<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = connect().await.ok_or(ClientError::Disconnected)?;
    let reattach = Some(Reattach { connect, token });
    let Link { pid, reader, writer } = Link::open(stream, &request, reattach).await?;
    Ok(ShellHandle { pid, events: ShellEvents { reader }, control: ShellControl { writer } })
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ShellEvents<S> {
    /// Returns the next event. May be cancelled.
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
    /// Runs a command. The previous one must have ended.
    ///
    /// # Errors
    ///
    /// [`ClientError::TooLong`], or the shell has exited.
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
    /// The shell has exited.
    pub async fn interrupt(&self) -> Result<(), ClientError> {
        self.writer.send(&Frame::Signal(2)).await
    }

    /// Ends the shell.
    ///
    /// # Errors
    ///
    /// The shell has exited.
    pub async fn close(&self) -> Result<(), ClientError> {
        self.writer.send(&Frame::Close).await
    }
}

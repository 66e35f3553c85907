//! Runs code in the contexts of a sandbox.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::call::{done, send_request};
use super::error::{ClientError, unexpected};
use super::link::{Connect, Link, LinkReader, LinkWriter, Reattach};
use crate::code::{CellEnd, Code, ContextInfo, NewContext};
use crate::codec::Frame;
use crate::protocol::{Reply, Request};
use crate::runner::MAX_PAYLOAD_BYTES;

/// A cell that runs. When both halves are dropped, it is interrupted.
#[derive(Debug)]
pub struct CellHandle<S> {
    /// The process id of the interpreter.
    pub pid: u32,
    /// The half that reads events.
    pub events: CellEvents<S>,
    /// The half that interrupts.
    pub control: CellControl<S>,
}

/// An event of a cell. Events arrive in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellEvent {
    /// A process wrote this to standard output.
    Stdout(Bytes),
    /// A process wrote this to standard error.
    Stderr(Bytes),
    /// A part of a result or an error, as JSON that was not checked: its author may be the
    /// code. The parts together have at most [`MAX_PAYLOAD_BYTES`](crate::runner) bytes.
    Part {
        /// The bytes of the part.
        bytes: Bytes,
        /// True for the last part. If it is empty, the event is incomplete and has to be
        /// ignored.
        is_last: bool,
    },
    /// The cell ended. The last event.
    End(CellEnd),
}

/// The half of a [`CellHandle`] that reads.
#[derive(Debug)]
pub struct CellEvents<S> {
    reader: LinkReader<S>,
    /// The length of the event in progress.
    length: usize,
}

/// The half of a [`CellHandle`] that writes.
#[derive(Debug)]
pub struct CellControl<S> {
    writer: LinkWriter<S>,
}

/// Runs code in a context. The connect function lets the cell continue across
/// checkpoints.
///
/// # Errors
///
/// See [`ClientError`]. The agent fails if there is no such context, if the context
/// runs another cell, or if the image has no interpreter, for example.
pub async fn code<S>(
    stream: S,
    connect: Connect<S>,
    request: Code,
) -> Result<CellHandle<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let reattach = Some(Reattach { connect, token: request.token.clone() });
    let Link { pid, reader, writer } =
        Link::open(stream, &Request::Code(request), reattach).await?;
    Ok(CellHandle {
        pid,
        events: CellEvents { reader, length: 0 },
        control: CellControl { writer },
    })
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> CellHandle<S> {
    /// Runs another cell on the connection of one that has ended, which saves the time to
    /// connect.
    ///
    /// # Errors
    ///
    /// See [`code`]. After [`ClientError::Disconnected`] the cell was not started, since the
    /// agent had closed the connection.
    pub async fn next_cell(
        mut self,
        connect: Connect<S>,
        request: Code,
    ) -> Result<Self, ClientError> {
        let reattach = Reattach { connect, token: request.token.clone() };
        self.pid = self.events.reader.restart(&Request::Code(request), reattach).await?;
        Ok(self)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> CellEvents<S> {
    /// Returns the next event. May be cancelled.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn next(&mut self) -> Result<CellEvent, ClientError> {
        let (bytes, is_last) = match self.reader.next().await? {
            Frame::Stdout(bytes) => return Ok(CellEvent::Stdout(bytes)),
            Frame::Stderr(bytes) => return Ok(CellEvent::Stderr(bytes)),
            Frame::CellEnd(end) => return Ok(CellEvent::End(end)),
            Frame::EventPart(bytes) => (bytes, false),
            Frame::Event(bytes) => (bytes, true),
            other => return Err(unexpected(&other)),
        };
        self.length += bytes.len();
        if self.length > MAX_PAYLOAD_BYTES {
            return Err(ClientError::Protocol(format!(
                "an event of a cell has more than {MAX_PAYLOAD_BYTES} bytes"
            )));
        }
        if is_last {
            self.length = 0;
        }
        Ok(CellEvent::Part { bytes, is_last })
    }
}

impl<S: AsyncWrite> CellControl<S> {
    /// Interrupts the cell.
    ///
    /// # Errors
    ///
    /// The cell has ended.
    pub async fn interrupt(&self) -> Result<(), ClientError> {
        self.writer.send(&Frame::Signal(2)).await
    }
}

/// Lists the contexts.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn contexts<S>(stream: S) -> Result<Vec<ContextInfo>, ClientError>
where
    S: AsyncRead + AsyncWrite,
{
    match send_request(stream, &Request::Contexts).await? {
        Reply::Contexts(contexts) => Ok(contexts),
        other => Err(unexpected(&other)),
    }
}

/// Creates a context.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn create_context<S>(stream: S, new: NewContext) -> Result<ContextInfo, ClientError>
where
    S: AsyncRead + AsyncWrite,
{
    context(send_request(stream, &Request::CreateContext(new)).await?)
}

/// Ends the interpreter of a context, and starts another one.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn restart_context<S>(stream: S, id: String) -> Result<ContextInfo, ClientError>
where
    S: AsyncRead + AsyncWrite,
{
    context(send_request(stream, &Request::RestartContext { id }).await?)
}

/// Interrupts the cell of a context, if one runs.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn interrupt_context<S>(stream: S, id: String) -> Result<(), ClientError>
where
    S: AsyncRead + AsyncWrite,
{
    done(send_request(stream, &Request::InterruptContext { id }).await?)
}

/// Removes a context.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn remove_context<S>(stream: S, id: String) -> Result<(), ClientError>
where
    S: AsyncRead + AsyncWrite,
{
    done(send_request(stream, &Request::RemoveContext { id }).await?)
}

fn context(reply: Reply) -> Result<ContextInfo, ClientError> {
    match reply {
        Reply::Context(context) => Ok(context),
        other => Err(unexpected(&other)),
    }
}

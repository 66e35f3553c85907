//! The stream of a connection of a peer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::task_tracker::TaskTrackerToken,
};

use crate::{limit::KeyedPermit, node::NodeId};

/// A stream that counts as a connection of its peer until it is dropped, also after an
/// upgrade, when the service has it. All operations fail after the listener has closed.
pub(super) struct PeerStream {
    stream: TlsStream<TcpStream>,
    /// One for each direction, since two tasks may wait.
    read_closed: Closed,
    write_closed: Closed,
    _permit: KeyedPermit<NodeId>,
    _task: TaskTrackerToken,
}

impl PeerStream {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        permit: KeyedPermit<NodeId>,
        task: TaskTrackerToken,
        closing: CancellationToken,
    ) -> Self {
        Self {
            stream,
            read_closed: Closed::new(closing.clone()),
            write_closed: Closed::new(closing),
            _permit: permit,
            _task: task,
        }
    }

    fn write<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let result = operation(Pin::new(&mut self.stream), cx);
        self.write_closed.check(cx, result)
    }
}

/// Whether the listener has closed.
struct Closed {
    token: CancellationToken,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Closed {
    fn new(token: CancellationToken) -> Self {
        Self { waiting: Box::pin(token.clone().cancelled_owned()), token }
    }

    /// Returns the result of an operation, or an error if the listener has closed. An
    /// operation that waits is woken when it closes.
    fn check<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let is_closed = self.token.is_cancelled()
            || (result.is_pending() && self.waiting.as_mut().poll(cx).is_ready());
        if is_closed {
            let error = "the listener for peers has closed";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)));
        }
        result
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.read_closed.check(cx, result)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

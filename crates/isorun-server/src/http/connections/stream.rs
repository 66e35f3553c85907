//! The socket of a connection, which records whether writes are blocked, and holds
//! the connection's slot until it is closed.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Connection, Slot};

/// A client's socket. After an upgrade, the new protocol (such as a WebSocket) owns it.
pub struct ClientStream {
    inner: TcpStream,
    slot: Slot,
    is_blocked: bool,
}

impl ClientStream {
    pub(super) fn new(inner: TcpStream, slot: Slot) -> Self {
        Self { inner, slot, is_blocked: false }
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.slot.connection)
    }

    /// Records since when writes are blocked.
    fn track_blocking<T>(&mut self, outcome: &Poll<T>) {
        let is_blocked = outcome.is_pending();
        if is_blocked != self.is_blocked {
            self.is_blocked = is_blocked;
            let mut state = self.slot.connection.state();
            state.blocked_since = is_blocked.then(Instant::now);
            if !is_blocked && state.requests == 0 {
                // The end of a response was written.
                state.idle_since = Instant::now();
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.track_blocking(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.track_blocking(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

//! The socket of a connection, which records whether writes are blocked, and holds
//! the connection's slot until it is closed.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{Connection, Slot};

/// The maximum time for which the rest of a request is received after the response.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// A client's socket. After an upgrade, the new protocol (such as a WebSocket) owns it.
pub struct ClientStream {
    inner: TcpStream,
    slot: Slot,
    is_blocked: bool,
    /// The end of the time for which the rest of a request is received.
    discarding: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    pub(super) fn new(inner: TcpStream, slot: Slot) -> Self {
        Self { inner, slot, is_blocked: false, discarding: None }
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.slot.connection)
    }

    /// Receives what the client still sends until it closes the connection. A socket that is
    /// closed before is reset, and the client may then not see the response (RFC 9112, 9.6).
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.discarding.get_or_insert_with(|| Box::pin(sleep(DISCARD_TIME)));
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [MaybeUninit::uninit(); 16 << 10];
        loop {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
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
        if self.discarding.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        }
        if self.slot.connection.state().has_unread_request {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::Connections, *};
    use crate::config::ServerLimits;

    /// Returns both ends of a connection.
    async fn connected() -> (TcpStream, ClientStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        let (socket, address) = accepted.unwrap();
        let connections = Arc::new(Connections::new(&ServerLimits::default()));
        let slot = connections.admit(address.ip()).unwrap();
        (client.unwrap(), ClientStream::new(socket, slot))
    }

    #[tokio::test]
    async fn the_rest_of_a_request_is_received_until_the_client_closes() {
        let (mut client, mut stream) = connected().await;
        stream.connection().leave_request_unread();
        let sending = tokio::spawn(async move {
            client.write_all(&vec![0; 32 << 20]).await.unwrap();
            // The end of the response.
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        });
        let start = Instant::now();
        stream.shutdown().await.unwrap();
        sending.await.unwrap();
        assert!(start.elapsed() < DISCARD_TIME, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_close_is_not_waited_for() {
        let (_client, mut stream) = connected().await;
        let start = tokio::time::Instant::now();
        stream.connection().leave_request_unread();
        stream.shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), DISCARD_TIME.as_secs());
    }
}

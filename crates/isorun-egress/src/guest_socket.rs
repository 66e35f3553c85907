//! The guest side of a proxied connection, and its orderly shutdown.
//!
//! The socket has `SO_LINGER` with a timeout of zero, so closing it sends a RST: no
//! connection state remains in the sandbox that would make a checkpoint fail. But a RST
//! also discards data that was sent and not yet received. So a connection that ended
//! without an error stays open until the guest has closed its side, too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Maximum time until the guest closes a connection that the proxy has closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A socket that is connected to the guest, and which sides have ended their stream.
pub struct GuestSocket {
    socket: TcpStream,
    /// The guest has ended its stream (FIN).
    guest_ended: AtomicBool,
    /// Data was sent to the guest after that: it has not closed the socket, but only ended
    /// its stream.
    sent_since: AtomicBool,
    /// The proxy has ended its stream.
    closed: AtomicBool,
}

impl GuestSocket {
    /// Wraps a socket. Closing it from now on sends a RST.
    pub fn new(socket: TcpStream) -> io::Result<Arc<Self>> {
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        // Not essential: without it small responses are delayed.
        let _ = socket.set_nodelay(true);
        let (guest_ended, sent_since, closed) = Default::default();
        Ok(Arc::new(Self { socket, guest_ended, sent_since, closed }))
    }

    /// Returns the socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Records that the guest has ended its stream.
    pub fn on_guest_end(&self) {
        self.guest_ended.store(true, Relaxed);
    }

    /// Records that data was sent to the guest.
    pub fn on_sent(&self) {
        if self.guest_ended.load(Relaxed) {
            self.sent_since.store(true, Relaxed);
        }
    }

    /// Ends the stream of the proxy. If the guest ended its stream first and no data was
    /// sent to it since, it has most likely closed the socket. Then nothing is done here
    /// and the drop sends a RST: otherwise the guest's socket would stay in `TIME_WAIT`
    /// for a minute.
    pub fn close(&self) -> io::Result<()> {
        let guest_ended = self.guest_ended.load(Relaxed);
        if guest_ended && !self.sent_since.load(Relaxed) {
            return Ok(());
        }
        self.closed.store(true, Relaxed);
        if guest_ended {
            // The guest still reads: the kernel delivers the last bytes after the drop.
            rustix::net::sockopt::set_socket_linger(&self.socket, None)?;
        }
        Ok(shutdown(&self.socket, Shutdown::Write)?)
    }

    /// Waits until the guest has ended its stream, if the proxy has ended its own.
    pub async fn drain(&self) {
        let ending = async {
            let mut buffer = [0; 4096];
            while self.closed.load(Relaxed) && !self.guest_ended.load(Relaxed) {
                match self.socket.readable().await.and_then(|()| self.socket.try_read(&mut buffer))
                {
                    Ok(0) => return,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, ending).await;
    }
}

/// A byte stream over a [`GuestSocket`], which is closed with the last stream.
pub struct GuestStream {
    socket: Arc<GuestSocket>,
    /// Bytes that were already received; those from `at` on are still to be read.
    head: Vec<u8>,
    at: usize,
}

impl GuestStream {
    /// Creates a stream that returns `head`, which was already received, first.
    pub fn new(socket: &Arc<GuestSocket>, head: Vec<u8>) -> Self {
        Self { socket: Arc::clone(socket), head, at: 0 }
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = this.head.get(this.at..).unwrap_or_default();
        if !left.is_empty() {
            let count = left.len().min(buffer.remaining());
            buffer.put_slice(left.get(..count).unwrap_or_default());
            this.at += count;
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(this.socket.socket.poll_read_ready(cx))?;
            match this.socket.socket.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    if count == 0 && buffer.remaining() > 0 {
                        this.socket.on_guest_end();
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl GuestStream {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.socket.poll_write_ready(cx))?;
            match send(&self.socket.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // No `on_sent`: what protocols write after the guest has closed is only
                // their own shutdown message.
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |socket| socket.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.close())
    }
}

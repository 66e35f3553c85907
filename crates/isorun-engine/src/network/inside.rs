//! The sandbox's end of a connection, and how it ends.
//!
//! The socket is set up so that closing it is a reset: whoever hung up, or was
//! hung up on, is gone at once, and nothing is left inside that would make a
//! checkpoint fail. But a reset also throws away what was written and not yet
//! taken. So one that ends well is kept until the program inside has ended it
//! too.

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

/// How long a program may take to close what we have closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket, and who has ended.
pub struct Inside {
    socket: TcpStream,
    /// The program has ended its side.
    ended: AtomicBool,
    /// And was told something since: it only has no more to say.
    told_since: AtomicBool,
    /// We have ended ours.
    closed: AtomicBool,
}

impl Inside {
    /// Closing this socket from now on is a reset.
    pub fn new(socket: TcpStream) -> io::Result<Arc<Self>> {
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        // A small matter: answers come a little later without it.
        let _ = socket.set_nodelay(true);
        let (ended, told_since, closed) = Default::default();
        Ok(Arc::new(Self { socket, ended, told_since, closed }))
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The program has ended its side.
    pub fn has_ended(&self) {
        self.ended.store(true, Relaxed);
    }

    /// The program was told something.
    pub fn told(&self) {
        if self.ended.load(Relaxed) {
            self.told_since.store(true, Relaxed);
        }
    }

    /// Ends our side. If the program ended first and nothing came for it since, it
    /// has closed, most likely: then that is left to the reset, or its side would
    /// linger for a minute.
    pub fn close(&self) -> io::Result<()> {
        let ended = self.ended.load(Relaxed);
        if ended && !self.told_since.load(Relaxed) {
            return Ok(());
        }
        self.closed.store(true, Relaxed);
        if ended {
            // It waits for the last bytes: they go on without us.
            rustix::net::sockopt::set_socket_linger(&self.socket, None)?;
        }
        Ok(shutdown(&self.socket, Shutdown::Write)?)
    }

    /// Waits until the program has ended what we have ended.
    pub async fn settle(&self) {
        let ending = async {
            let mut buffer = [0; 4096];
            while self.closed.load(Relaxed) && !self.ended.load(Relaxed) {
                match self.socket.readable().await.and_then(|()| self.socket.try_read(&mut buffer))
                {
                    Ok(0) => return,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
            }
        };
        let _ = timeout(PATIENCE, ending).await;
    }
}

/// What is read and written by protocols; the socket goes with the last handle.
pub struct Handle {
    inside: Arc<Inside>,
    /// What was read before, from the byte at `at` on.
    head: Vec<u8>,
    at: usize,
}

impl Handle {
    /// One that begins with what was read before.
    pub fn new(inside: &Arc<Inside>, head: Vec<u8>) -> Self {
        Self { inside: Arc::clone(inside), head, at: 0 }
    }
}

impl AsyncRead for Handle {
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
            ready!(this.inside.socket.poll_read_ready(cx))?;
            match this.inside.socket.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    if count == 0 && buffer.remaining() > 0 {
                        this.inside.has_ended();
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

impl Handle {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.inside.socket.poll_write_ready(cx))?;
            match send(&self.inside.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Not `told`: what protocols still write to who has closed is a
                // farewell.
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncWrite for Handle {
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
        Poll::Ready(self.inside.close())
    }
}

//! A connection that ends with its sandbox.
//!
//! A sandbox that is killed does not hang up: its network is gone at once, and
//! the other end would wait for ever.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection to the agent.
pub struct Stream {
    inner: TcpStream,
    /// Each resolves when the sandbox is dead. There are two, since a future
    /// wakes only the task that polled it last, and reading and writing may be
    /// two tasks.
    reading: Dead,
    writing: Dead,
}

type Dead = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Stream {
    pub fn new<F>(inner: TcpStream, dead: impl Fn() -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { inner, reading: Box::pin(dead()), writing: Box::pin(dead()) }
    }
}

/// For something that waits: whether there is nothing to wait for.
fn check<T>(dead: &mut Dead, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    dead.as_mut().poll(cx).map(|()| Err(ErrorKind::ConnectionReset.into()))
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(cx, buffer) {
            Poll::Pending => check(&mut self.reading, cx),
            ready => ready,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Pending => check(&mut self.writing, cx),
            ready => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

//! A connection that ends with its sandbox.
//!
//! A sandbox that is killed does not hang up: its network is gone at once, and
//! the other end would wait for ever.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// After the connection itself: the last one to close it resets it.
    _listed: Listed,
}

/// The connections to one sandbox that are open, so that they can be reset
/// whoever has them.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    open: HashMap<u64, OwnedFd>,
}

struct Listed {
    list: Connections,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.with(|list| list.open.remove(&self.number));
    }
}

impl Connections {
    fn add(&self, stream: &TcpStream) -> io::Result<Listed> {
        let file = stream.as_fd().try_clone_to_owned()?;
        let number = self.with(|list| {
            list.next += 1;
            list.open.insert(list.next, file);
            list.next
        });
        Ok(Listed { list: self.clone(), number })
    }

    /// Resets all of them. Whoever has one learns it as if the other end had
    /// done that.
    pub fn reset(&self) {
        self.with(|list| {
            for file in list.open.values() {
                // It may have been reset already.
                let _ = rustix::net::connect_unspec(file);
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut List) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Dead = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Stream {
    pub fn new<F>(
        inner: TcpStream,
        connections: &Connections,
        dead: impl Fn() -> F,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listed = connections.add(&inner)?;
        Ok(Self { inner, reading: Box::pin(dead()), writing: Box::pin(dead()), _listed: listed })
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

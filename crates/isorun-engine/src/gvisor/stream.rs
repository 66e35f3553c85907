//! A connection that ends when its sandbox exits.
//!
//! No FIN or RST is sent when a sandbox dies: its network is gone at once, and the
//! other end would wait forever.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection to the agent.
pub struct SandboxStream {
    inner: TcpStream,
    /// Both futures resolve when the sandbox has exited. There are two, since a future
    /// wakes only the task that polled it last, and reading and writing may be in
    /// different tasks.
    read_exit: ExitFuture,
    write_exit: ExitFuture,
    /// Declared after the connection, so that it is dropped later: closing the last
    /// descriptor resets the connection.
    _registration: Registration,
}

/// The open connections to one sandbox, so that all of them can be reset.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<ConnectionList>>);

#[derive(Debug, Default)]
struct ConnectionList {
    next: u64,
    open: HashMap<u64, OwnedFd>,
}

struct Registration {
    list: Connections,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.list.with(|list| list.open.remove(&self.number));
    }
}

impl Connections {
    fn add(&self, stream: &TcpStream) -> io::Result<Registration> {
        let file = stream.as_fd().try_clone_to_owned()?;
        let number = self.with(|list| {
            list.next += 1;
            list.open.insert(list.next, file);
            list.next
        });
        Ok(Registration { list: self.clone(), number })
    }

    /// Resets all connections. To their users it looks as if the other end had done so.
    pub fn reset(&self) {
        self.with(|list| {
            for file in list.open.values() {
                // It may have been reset already.
                let _ = rustix::net::connect_unspec(file);
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut ConnectionList) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type ExitFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

impl SandboxStream {
    pub fn new<F>(
        inner: TcpStream,
        connections: &Connections,
        exited: impl Fn() -> F,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let registration = connections.add(&inner)?;
        Ok(Self {
            inner,
            read_exit: Box::pin(exited()),
            write_exit: Box::pin(exited()),
            _registration: registration,
        })
    }
}

/// Fails a pending operation if the sandbox has exited.
fn poll_exit<T>(exited: &mut ExitFuture, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    exited.as_mut().poll(cx).map(|()| Err(ErrorKind::ConnectionReset.into()))
}

impl AsyncRead for SandboxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(cx, buffer) {
            Poll::Pending => poll_exit(&mut self.read_exit, cx),
            ready => ready,
        }
    }
}

impl AsyncWrite for SandboxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Pending => poll_exit(&mut self.write_exit, cx),
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

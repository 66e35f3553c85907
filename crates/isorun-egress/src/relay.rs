//! Relaying bytes between a sandbox and an upstream server, in both directions.
//!
//! Between two sockets, large transfers use `splice`: the kernel moves the bytes, and this
//! process does not copy them.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready as poll_ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::budget::BudgetShare;
use super::guest_socket::GuestSocket;

/// Size of the buffer of one direction, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;
/// Number of bytes in one direction after which `splice` is used. For less, the pipe's two
/// file descriptors are not worth it.
const SPLICE_THRESHOLD_BYTES: usize = 1024 * 1024;
/// Maximum number of bytes per call of `splice`; a pipe holds less.
const MAX_SPLICE_BYTES: usize = 1024 * 1024;

/// Maximum time without data in either direction.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The time of the last transfer.
struct Activity(Mutex<Instant>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last() = Instant::now();
    }

    /// Returns an error when nothing was transferred for `idle`.
    async fn timed_out(&self, idle: Duration) -> io::Error {
        loop {
            let until = *self.last() + idle;
            if until <= Instant::now() {
                return io::ErrorKind::TimedOut.into();
            }
            sleep_until(until).await;
        }
    }
}

/// Relays bytes between two streams until both have ended, or there is no data in either
/// direction for `IDLE_TIMEOUT`.
pub async fn run<A, B>(guest: &mut A, upstream: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Activity::new();
    let (mut guest, mut upstream) = (
        Monitored { io: guest, activity: &activity },
        Monitored { io: upstream, activity: &activity },
    );
    let relaying = tokio::io::copy_bidirectional_with_sizes(
        &mut guest,
        &mut upstream,
        BUFFER_BYTES,
        BUFFER_BYTES,
    );
    tokio::select! {
        relayed = relaying => relayed.map(drop),
        error = activity.timed_out(IDLE_TIMEOUT) => Err(error),
    }
}

/// Relays bytes between two sockets, with the same end conditions as [`run`].
pub async fn sockets(
    guest: &GuestSocket,
    upstream: &TcpStream,
    share: &BudgetShare,
) -> io::Result<()> {
    let activity = Activity::new();
    let out = async {
        copy(guest.socket(), upstream, share, || activity.touch()).await?;
        guest.on_guest_end();
        Ok(shutdown(upstream, Shutdown::Write)?)
    };
    let on_sent = || {
        activity.touch();
        guest.on_sent();
    };
    let back = async {
        copy(upstream, guest.socket(), share, on_sent).await?;
        guest.close()
    };
    let relaying = async { tokio::try_join!(out, back) };
    tokio::select! {
        relayed = relaying => relayed.map(drop),
        error = activity.timed_out(IDLE_TIMEOUT) => Err(error),
    }
}

/// Copies bytes in one direction until the source ends. Calls `on_copied` after each read.
async fn copy(
    from: &TcpStream,
    to: &TcpStream,
    share: &BudgetShare,
    on_copied: impl Fn(),
) -> io::Result<()> {
    // No buffer is allocated while the source has no data.
    let mut buffer = Vec::new();
    let mut copied = 0;
    loop {
        if copied >= SPLICE_THRESHOLD_BYTES {
            if let Some(_permit) = share.try_acquire(2) {
                drop(buffer);
                return splice_all(from, to, on_copied).await;
            }
            copied = 0;
        }
        from.readable().await?;
        if buffer.is_empty() {
            buffer = vec![0; BUFFER_BYTES];
        }
        let step = || Ok(recv(from, &mut *buffer, RecvFlags::empty())?.0);
        match from.try_io(Interest::READABLE, step) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                on_copied();
                copied += count;
                write_all(to, buffer.get(..count).unwrap_or_default()).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => return Err(error),
        }
    }
}

/// Splices the remaining bytes until the source ends.
async fn splice_all(from: &TcpStream, to: &TcpStream, on_copied: impl Fn()) -> io::Result<()> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    loop {
        // The pipe is empty, so only the socket can block.
        let mut left =
            when_ready(from, Interest::READABLE, || splice_once(from, &into, MAX_SPLICE_BYTES))
                .await?;
        if left == 0 {
            return Ok(());
        }
        on_copied();
        while left > 0 {
            left -= when_ready(to, Interest::WRITABLE, || splice_once(&out, to, left)).await?;
        }
    }
}

/// A stream whose reads update an [`Activity`].
struct Monitored<'a, T> {
    io: T,
    activity: &'a Activity,
}

impl<T: AsyncRead + Unpin> AsyncRead for Monitored<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = poll_ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        self.activity.touch();
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Monitored<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Writes all bytes.
pub async fn write_all(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        let step = || Ok(send(to, rest, SendFlags::NOSIGNAL)?);
        let count = when_ready(to, Interest::WRITABLE, step).await?;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Splices up to `max` bytes between a socket and a pipe.
fn splice_once(from: impl AsFd, to: impl AsFd, max: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, max, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}

/// Runs a non-blocking step on a socket as soon as the socket is ready for it.
async fn when_ready(
    socket: &TcpStream,
    interest: Interest,
    mut step: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        socket.ready(interest).await?;
        match socket.try_io(interest, &mut step) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The clock is advanced by the sleeps, so the test takes no time.
    #[tokio::test(start_paused = true)]
    async fn idle_connection_times_out() {
        let (mut near, far) = tokio::io::duplex(64);
        let activity = Activity::new();
        let mut monitored = Monitored { io: far, activity: &activity };
        let idle = Duration::from_secs(2);
        let start = Instant::now();
        let talking = async {
            let mut byte = [0];
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                near.write_all(b"x").await.unwrap();
                monitored.read_exact(&mut byte).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            () = talking => unreachable!("it never ends"),
            error = activity.timed_out(idle) => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(2500), "{:?}", start.elapsed());
    }
}

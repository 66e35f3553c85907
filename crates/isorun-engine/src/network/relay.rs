//! Bytes between a sandbox and the world, both ways at the same time.
//!
//! Between two sockets, what is large is moved by the kernel (`splice`): this
//! process copies none of it.

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

use super::budget::Share;
use super::inside::Inside;

/// What is under way in one direction, in bytes.
const BUFFER: usize = 16 * 1024;
/// After so many bytes the kernel moves the rest: until then its two descriptors
/// for each direction are not worth it.
const LARGE: usize = 1024 * 1024;
/// What the kernel is asked to move in one go; a pipe takes less.
const MOST: usize = 1024 * 1024;

/// How long a connection may carry nothing.
const MAX_IDLE: Duration = Duration::from_secs(3600);

/// When something was last carried.
struct Activity(Mutex<Instant>);

impl Activity {
    fn begin() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) {
        *self.last() = Instant::now();
    }

    /// Ends when nothing was carried for so long.
    async fn over(&self, idle: Duration) -> io::Error {
        loop {
            let until = *self.last() + idle;
            if until <= Instant::now() {
                return io::ErrorKind::TimedOut.into();
            }
            sleep_until(until).await;
        }
    }
}

/// Carries bytes between what is no socket, until both sides have said all, or
/// neither says anything for an hour.
pub async fn run<A, B>(inside: &mut A, outside: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Activity::begin();
    let (mut inside, mut outside) =
        (Watched { io: inside, by: &activity }, Watched { io: outside, by: &activity });
    let carrying =
        tokio::io::copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER, BUFFER);
    tokio::select! {
        carried = carrying => carried.map(drop),
        error = activity.over(MAX_IDLE) => Err(error),
    }
}

/// The same between two sockets.
pub async fn sockets(inside: &Inside, outside: &TcpStream, share: &Share) -> io::Result<()> {
    let activity = Activity::begin();
    let out = async {
        carry(inside.socket(), outside, share, || activity.note()).await?;
        inside.has_ended();
        Ok(shutdown(outside, Shutdown::Write)?)
    };
    let told = || {
        activity.note();
        inside.told();
    };
    let back = async {
        carry(outside, inside.socket(), share, told).await?;
        inside.close()
    };
    let carrying = async { tokio::try_join!(out, back) };
    tokio::select! {
        carried = carrying => carried.map(drop),
        error = activity.over(MAX_IDLE) => Err(error),
    }
}

async fn carry(
    from: &TcpStream,
    to: &TcpStream,
    share: &Share,
    moved: impl Fn(),
) -> io::Result<()> {
    // Who waits for bytes holds no buffer for them.
    let mut buffer = Vec::new();
    let mut carried = 0;
    loop {
        if carried >= LARGE {
            if let Some(_taken) = share.take(2) {
                drop(buffer);
                return splice_all(from, to, moved).await;
            }
            carried = 0;
        }
        from.readable().await?;
        if buffer.is_empty() {
            buffer = vec![0; BUFFER];
        }
        let step = || Ok(recv(from, &mut *buffer, RecvFlags::empty())?.0);
        match from.try_io(Interest::READABLE, step) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                moved();
                carried += count;
                write(to, buffer.get(..count).unwrap_or_default()).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => return Err(error),
        }
    }
}

/// Lets the kernel move all that is left.
async fn splice_all(from: &TcpStream, to: &TcpStream, moved: impl Fn()) -> io::Result<()> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    loop {
        // The pipe is empty: what would block is the socket.
        let mut left = ready(from, Interest::READABLE, || shift(from, &into, MOST)).await?;
        if left == 0 {
            return Ok(());
        }
        moved();
        while left > 0 {
            left -= ready(to, Interest::WRITABLE, || shift(&out, to, left)).await?;
        }
    }
}

/// One side of a connection, whose bytes are noted.
struct Watched<'a, T> {
    io: T,
    by: &'a Activity,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = poll_ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        self.by.note();
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<'_, T> {
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

/// Writes all of it.
pub async fn write(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        let step = || Ok(send(to, rest, SendFlags::NOSIGNAL)?);
        let count = ready(to, Interest::WRITABLE, step).await?;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Lets the kernel move bytes between a socket and a pipe.
fn shift(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}

/// Does something with a socket as soon as it can be done.
async fn ready(
    socket: &TcpStream,
    interest: Interest,
    mut step: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        socket.ready(interest).await?;
        match socket.try_io(interest, &mut step) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_carries_nothing_ends() {
        let (mut near, far) = tokio::io::duplex(64);
        let activity = Activity::begin();
        let mut watched = Watched { io: far, by: &activity };
        let idle = Duration::from_secs(2);
        let begun = Instant::now();
        let talking = async {
            let mut byte = [0];
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                near.write_all(b"x").await.unwrap();
                watched.read_exact(&mut byte).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            () = talking => unreachable!("it never ends"),
            error = activity.over(idle) => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(2500), "{:?}", begun.elapsed());
    }
}

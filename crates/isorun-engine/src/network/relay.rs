//! Bytes between a sandbox and the world, both ways at the same time.
//!
//! Between two sockets, what is large is moved by the kernel (`splice`): this
//! process copies none of it.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

use super::inside::Inside;

/// What is under way in one direction.
const BUFFER: usize = 64 * 1024;
/// After so many bytes the kernel moves the rest: until then its two descriptors
/// for each direction are not worth it.
const LARGE: usize = 1024 * 1024;
/// What the kernel is asked to move in one go; a pipe takes less.
const MOST: usize = 1024 * 1024;

/// Carries bytes between what is no socket, until both sides have said all.
pub async fn run<A, B>(inside: &mut A, outside: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional_with_sizes(inside, outside, BUFFER, BUFFER).await?;
    Ok(())
}

/// The same between two sockets.
pub async fn sockets(inside: &Inside, outside: &TcpStream) -> io::Result<()> {
    let out = async {
        carry(inside.socket(), outside, || {}).await?;
        inside.has_ended();
        Ok(shutdown(outside, Shutdown::Write)?)
    };
    let back = async {
        carry(outside, inside.socket(), || inside.told()).await?;
        inside.close()
    };
    tokio::try_join!(out, back)?;
    Ok(())
}

async fn carry(from: &TcpStream, to: &TcpStream, moved: impl Fn()) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut carried = 0;
    while carried < LARGE {
        let count =
            ready(from, Interest::READABLE, || Ok(recv(from, &mut *buffer, RecvFlags::empty())?.0))
                .await?;
        if count == 0 {
            return Ok(());
        }
        moved();
        carried += count;
        write(to, buffer.get(..count).unwrap_or_default()).await?;
    }
    drop(buffer);
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

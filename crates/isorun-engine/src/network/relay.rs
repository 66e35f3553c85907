//! Bytes between a sandbox and the world, both ways at the same time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is under way in one direction.
const BUFFER: usize = 128 * 1024;

/// Carries bytes until both sides have said all.
///
/// When the sandbox was the first to end, and nothing came for it since, it most
/// likely has closed. Then its side ends by a reset: it would otherwise linger
/// inside for a minute, and no checkpoint could be taken.
pub async fn run<A, B>(inside: &mut A, outside: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_inside, mut to_inside) = tokio::io::split(inside);
    let (mut from_outside, mut to_outside) = tokio::io::split(outside);
    let inside_ended = AtomicBool::new(false);
    let told_since = AtomicBool::new(false);
    let out = async {
        pump(&mut from_inside, &mut to_outside, || {}).await?;
        inside_ended.store(true, Relaxed);
        to_outside.shutdown().await
    };
    let back = async {
        let moved = || {
            if inside_ended.load(Relaxed) {
                told_since.store(true, Relaxed);
            }
        };
        pump(&mut from_outside, &mut to_inside, moved).await?;
        if !inside_ended.load(Relaxed) || told_since.load(Relaxed) {
            to_inside.shutdown().await?;
        }
        io::Result::Ok(())
    };
    tokio::try_join!(out, back)?;
    Ok(())
}

async fn pump<R, W>(from: &mut R, to: &mut W, mut moved: impl FnMut()) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        moved();
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}

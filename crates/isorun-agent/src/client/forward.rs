//! A connection to a server inside, as a stream of bytes.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Call, ClientError, done};
use crate::codec::{CHUNK, Decoder, Frame};
use crate::protocol::Request;

/// Connects to whoever listens on a port of the sandbox, on its loopback address
/// too.
///
/// # Errors
///
/// [`FailureKind::NotFound`](crate::protocol::FailureKind) if nobody does; else
/// see [`ClientError`].
pub async fn forward<S>(stream: S, port: u16) -> Result<Forward<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut call = Call::start(stream, &Request::Connect { port }).await?;
    done(call.reply().await?)?;
    let (reader, decoder) = call.reader.into_parts();
    let stream = reader.unsplit(call.writer.into_inner());
    Ok(Forward {
        stream,
        decoder,
        data: Bytes::new(),
        ended: false,
        out: BytesMut::new(),
        said_end: false,
    })
}

/// Both directions of a connection to a server inside. Dropping it resets the
/// connection.
#[derive(Debug)]
pub struct Forward<S> {
    stream: S,
    decoder: Decoder,
    /// What has arrived and was not read.
    data: Bytes,
    ended: bool,
    /// What was written and has not left.
    out: BytesMut,
    said_end: bool,
}

impl<S: AsyncWrite + Unpin> Forward<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.out.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Forward<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.data.is_empty() {
                let part = this.data.split_to(this.data.len().min(buffer.remaining()));
                buffer.put_slice(&part);
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            match this.decoder.decode() {
                Ok(Some(Frame::Data(bytes))) => this.data = bytes,
                Ok(Some(Frame::DataEnd)) => this.ended = true,
                Ok(Some(_)) | Err(_) => return Poll::Ready(Err(ErrorKind::InvalidData.into())),
                Ok(None) => {
                    let into = this.decoder.buffer();
                    if ready!(poll_append(Pin::new(&mut this.stream), cx, into))? == 0 {
                        // A connection that ends without its last word was reset.
                        return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
                    }
                }
            }
        }
    }
}

/// Appends what there is to a buffer, up to a bound.
fn poll_append<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut chunk = [0; 32 * 1024];
    let mut buffer = ReadBuf::new(&mut chunk);
    ready!(stream.poll_read(cx, &mut buffer))?;
    into.extend_from_slice(buffer.filled());
    Poll::Ready(Ok(buffer.filled().len()))
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Forward<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // One frame at a time, so that a slow server slows the writer.
        ready!(this.poll_drain(cx))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let part = Bytes::copy_from_slice(bytes.get(..CHUNK).unwrap_or(bytes));
        let length = part.len();
        Frame::Data(part).encode(&mut this.out).map_err(io::Error::other)?;
        // What does not leave now leaves with the next write or flush.
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(length)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.said_end {
            Frame::DataEnd.encode(&mut this.out).map_err(io::Error::other)?;
            this.said_end = true;
        }
        ready!(this.poll_drain(cx))?;
        // The stream itself stays open: it still carries the other direction.
        Pin::new(&mut this.stream).poll_flush(cx)
    }
}

//! A connection to a server inside the sandbox, as a byte stream.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::call::{Call, done};
use super::error::ClientError;
use crate::codec::{CHUNK_BYTES, Decoder, Frame};
use crate::protocol::Request;

/// Connects to a server that listens on a port of the sandbox, including its
/// loopback address.
///
/// # Errors
///
/// [`FailureKind::NotFound`](crate::protocol::FailureKind) if no server listens;
/// else see [`ClientError`].
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
        end_sent: false,
    })
}

/// A connection to a server inside the sandbox, in both directions. Dropping it
/// resets the connection.
#[derive(Debug)]
pub struct Forward<S> {
    stream: S,
    decoder: Decoder,
    /// The bytes that have arrived and were not read.
    data: Bytes,
    ended: bool,
    /// The bytes that were written and not sent.
    out: BytesMut,
    end_sent: bool,
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
                        // A connection that ends without `DataEnd` was reset.
                        return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
                    }
                }
            }
        }
    }
}

/// Reads once from the stream and appends the bytes to a buffer.
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
        let part = Bytes::copy_from_slice(bytes.get(..CHUNK_BYTES).unwrap_or(bytes));
        let length = part.len();
        Frame::Data(part).encode(&mut this.out).map_err(io::Error::other)?;
        // The rest is sent by the next write or flush.
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
        if !this.end_sent {
            Frame::DataEnd.encode(&mut this.out).map_err(io::Error::other)?;
            this.end_sent = true;
        }
        ready!(this.poll_drain(cx))?;
        // The stream itself stays open for the other direction.
        Pin::new(&mut this.stream).poll_flush(cx)
    }
}

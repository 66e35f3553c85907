//! A connection to a server that listens inside, as a stream of bytes.
//!
//! The agent connects from within, so servers on the loopback address are
//! reached as well. Each direction ends by itself, as on a real connection.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use isorun_agent::codec::{CHUNK, CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{Failure, FailureKind, PORT, Reply};

/// How long a server inside may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects, then carries `Data` both ways; each direction ends with `DataEnd`.
pub async fn run<R, W>(
    port: u16,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let stream = match connect(port).await {
        Ok(stream) => stream,
        Err(failure) => return writer.send(&Frame::Failed(failure)).await,
    };
    writer.send(&Frame::Reply(Reply::Done)).await?;
    let (mut from, mut to) = stream.into_split();
    let inward = async {
        loop {
            match reader.next().await? {
                Some(Frame::Data(bytes)) => {
                    if to.write_all(&bytes).await.is_err() {
                        // It does not listen any more, and may still speak.
                        continue;
                    }
                }
                Some(Frame::DataEnd) => {
                    let _ = to.shutdown().await;
                    // Whatever comes now is the client's end.
                    while reader.next().await?.is_some() {}
                    return Err(CodecError::Truncated);
                }
                _ => return Err(CodecError::Truncated),
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK / 2];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                    writer.send(&Frame::Data(bytes)).await?;
                }
                // A reset is told as one.
                Err(_) => return Err(CodecError::Truncated),
            }
        }
        writer.send(&Frame::DataEnd).await
    };
    tokio::pin!(inward, outward);
    // The client hangs up when it has enough, the server when it has said all.
    tokio::select! {
        ended = &mut inward => ended,
        ended = &mut outward => ended,
    }
}

async fn connect(port: u16) -> Result<TcpStream, Failure> {
    let refused = |kind, message: String| Failure { kind, message };
    if port == 0 || port == PORT {
        return Err(refused(FailureKind::Invalid, format!("port {port} is not for servers")));
    }
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(match last.kind() {
        io::ErrorKind::TimedOut => refused(
            FailureKind::NoResources,
            format!("the server on port {port} does not accept connections"),
        ),
        _ => refused(FailureKind::NotFound, format!("nobody listens on port {port}")),
    })
}

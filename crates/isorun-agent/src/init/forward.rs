//! A connection to a server inside the sandbox, as a byte stream.
//!
//! The agent connects from inside, so servers on the loopback address are reachable
//! as well. Each direction ends separately, as on a TCP connection.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use isorun_agent::codec::{CHUNK_BYTES, CodecError, Frame};
use isorun_agent::protocol::{AGENT_PORT, Failure, FailureKind, Reply};

use super::conn::Conn;

/// The time limit for a server inside to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects, then transfers `Data` in both directions; each direction ends with
/// `DataEnd`.
pub async fn run(port: u16, conn: &mut Conn) -> Result<(), CodecError> {
    let stream = match connect(port).await {
        Ok(stream) => stream,
        Err(failure) => return conn.fail(failure).await,
    };
    conn.reply(Ok(Reply::Done)).await?;
    let (mut from, mut to) = stream.into_split();
    let inward = async {
        loop {
            match conn.reader.next().await? {
                Some(Frame::Data(bytes)) => {
                    if to.write_all(&bytes).await.is_err() {
                        // The server does not read any more, but may still write.
                        continue;
                    }
                }
                Some(Frame::DataEnd) => {
                    let _ = to.shutdown().await;
                    // Further bytes mean that the client has closed the connection.
                    while conn.reader.next().await?.is_some() {}
                    return Err(CodecError::Truncated);
                }
                _ => return Err(CodecError::Truncated),
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK_BYTES / 2];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                    conn.writer.send(&Frame::Data(bytes)).await?;
                }
                // A reset is reported as a reset.
                Err(_) => return Err(CodecError::Truncated),
            }
        }
        conn.writer.send(&Frame::DataEnd).await
    };
    tokio::pin!(inward, outward);
    // The client ends the connection when it has enough, the server when it has sent
    // all.
    tokio::select! {
        ended = &mut inward => ended,
        ended = &mut outward => ended,
    }
}

async fn connect(port: u16) -> Result<TcpStream, Failure> {
    let refused = |kind, message: String| Failure { kind, message };
    if port == 0 || port == AGENT_PORT {
        return Err(refused(FailureKind::Invalid, format!("port {port} is reserved")));
    }
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
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
        _ => refused(FailureKind::NotFound, format!("no server listens on port {port}")),
    })
}

//! Options of the TCP sockets between nodes.

use std::{io, time::Duration};

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// The time without traffic after which TCP asks whether the peer still exists.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(4);
/// The time between these questions.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// The number of questions without an answer after which the connection is closed.
const KEEP_ALIVE_PROBES: u32 = 3;
/// The time after which a connection is closed whose data the peer's system does not
/// acknowledge or take.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sets that small pieces are sent at once, and that a connection without traffic is closed
/// when the peer's system has not been heard of for about 10 s.
pub(crate) fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?;
    Ok(())
}

/// Sets that a connection is closed when data waits for about 10 s.
///
/// This is for connections at whose other end everything is read at once, as with HTTP/2. A
/// WebSocket waits as long as its client reads nothing.
pub(crate) fn limit_unsent_time(stream: &TcpStream) -> io::Result<()> {
    let milliseconds = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_dead_peer_is_noticed_after_ten_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        configure(&stream).unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 0);
        limit_unsent_time(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 10_000);
        let (idle, interval, probes) = (
            sockopt::tcp_keepidle(&stream).unwrap(),
            sockopt::tcp_keepintvl(&stream).unwrap(),
            sockopt::tcp_keepcnt(&stream).unwrap(),
        );
        assert_eq!(idle + interval * probes, Duration::from_secs(10));
    }
}

//! An HTTP/2 connection to a peer, which many requests share.

use std::{
    future::pending,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, client::SendRequest};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ClientOptions, PeerAddress, connect::unreachable};
use crate::{
    error::PeerError,
    http2::{
        CONNECTION_WINDOW_BYTES, MAX_RESPONSE_HEADER_BYTES, MAX_SEND_BUFFER_BYTES,
        STREAM_WINDOW_BYTES,
    },
    in_flight::{InFlight, InFlightGuard},
    socket,
};

/// The maximum time in which an idle connection sends what is left, such as the end of the
/// last request.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

type Driver = h2::client::Connection<MonitoredStream, Bytes>;

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    slots: Arc<Semaphore>,
    requests: InFlight,
    state: Arc<ConnectionState>,
}

/// The state of a connection, which its requests know too.
pub(super) struct ConnectionState {
    address: PeerAddress,
    /// Cancelled when the connection takes no further requests.
    retired: CancellationToken,
    /// How the connection ended, before `ended` is cancelled.
    ending: OnceLock<Ending>,
    ended: CancellationToken,
}

/// How a connection ended.
struct Ending {
    why: String,
    /// Whether it was closed because the peer did not answer.
    is_dead: bool,
}

/// The right to send one request on a connection.
pub(super) struct Slot {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) state: Arc<ConnectionState>,
    pub(super) guard: SlotGuard,
}

/// What a request in progress holds.
pub(super) struct SlotGuard {
    _permit: OwnedSemaphorePermit,
    _in_flight: InFlightGuard,
}

/// What all connections of a client share.
#[derive(Clone)]
pub(super) struct Runtime {
    pub(super) options: Arc<ClientOptions>,
    pub(super) tasks: TaskTracker,
    /// Cancelled to close connections after their requests in progress.
    pub(super) dropped: CancellationToken,
    /// Cancelled to close connections at once.
    pub(super) closing: CancellationToken,
}

impl Connection {
    /// Starts HTTP/2 on a stream. Returns when the peer has answered, so it has accepted this
    /// node's certificate and serves the connection.
    pub(super) async fn open(
        address: PeerAddress,
        stream: TlsStream<TcpStream>,
        runtime: &Runtime,
    ) -> Result<Self, PeerError> {
        let received = Arc::new(AtomicU64::new(0));
        socket::limit_unsent_time(stream.get_ref().0)
            .map_err(|error| unreachable(&address, error.to_string()))?;
        let stream = MonitoredStream { stream, received: Arc::clone(&received) };
        let failed = |why: String| unreachable(&address, format!("no HTTP/2 connection: {why}"));
        let (sender, mut driver) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(MAX_RESPONSE_HEADER_BYTES)
            .max_send_buffer_size(MAX_SEND_BUFFER_BYTES)
            .handshake(stream)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut pings =
            driver.ping_pong().ok_or_else(|| failed("no PING is possible".to_owned()))?;
        tokio::select! {
            ended = &mut driver => {
                let why = ended.err().map_or("the peer closed it".to_owned(), |error| error.to_string());
                return Err(failed(why));
            }
            pong = pings.ping(Ping::opaque()) => {
                pong.map_err(|error| failed(error.to_string()))?;
            }
        }
        let state = Arc::new(ConnectionState {
            address,
            retired: CancellationToken::new(),
            ending: OnceLock::new(),
            ended: CancellationToken::new(),
        });
        let requests = InFlight::default();
        runtime.tasks.spawn(drive(
            driver,
            pings,
            received,
            requests.clone(),
            Arc::clone(&state),
            runtime.clone(),
        ));
        let slots = Arc::new(Semaphore::new(runtime.options.max_requests_per_connection));
        Ok(Self { sender, slots, requests, state })
    }

    /// Reports whether the connection takes no further requests.
    pub(super) fn is_retired(&self) -> bool {
        self.state.retired.is_cancelled()
    }

    /// Returns the right to send a request, if the connection can take another one.
    pub(super) fn slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        // Counted before the check: the task of the connection checks in the opposite order.
        let in_flight = self.requests.start();
        (!self.is_retired()).then(|| Slot {
            sender: self.sender.clone(),
            state: Arc::clone(&self.state),
            guard: SlotGuard { _permit: permit, _in_flight: in_flight },
        })
    }
}

impl ConnectionState {
    /// Stops the connection from being used for further requests.
    pub(super) fn retire(&self) {
        self.retired.cancel();
    }

    /// Returns the peer.
    pub(super) fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// Returns the error of a request, from that of its stream.
    pub(super) fn error(&self, error: &h2::Error) -> PeerError {
        let is_unprocessed = error.is_remote()
            && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
        if is_unprocessed {
            return unreachable(&self.address, format!("it did not process the request: {error}"));
        }
        let ending = self.ending.get().filter(|_| error.is_io());
        let why = ending.map_or_else(|| error.to_string(), |ending| ending.why.clone());
        PeerError::Interrupted { node: self.address.node().clone(), why }
    }

    /// Waits until the connection has ended. Returns the error of what depends on the peer
    /// if it ended because the peer did not answer.
    pub(super) async fn ended(&self) -> Option<PeerError> {
        self.ended.cancelled().await;
        let ending = self.ending.get().filter(|ending| ending.is_dead)?;
        let (node, why) = (self.address.node().clone(), ending.why.clone());
        Some(PeerError::Interrupted { node, why })
    }
}

/// Drives a connection until it ends, the peer does not answer, or it is no longer needed.
async fn drive(
    mut driver: Driver,
    pings: PingPong,
    received: Arc<AtomicU64>,
    requests: InFlight,
    state: Arc<ConnectionState>,
    runtime: Runtime,
) {
    let options = &runtime.options;
    let unneeded = async {
        tokio::select! {
            () = requests.idle_for(options.idle_timeout) => {}
            () = runtime.dropped.cancelled() => {}
            () = state.retired.cancelled() => {}
        }
        state.retire();
        requests.none().await;
    };
    let mut is_dead = false;
    let why = tokio::select! {
        ended = &mut driver => match ended {
            Ok(()) => "the peer closed the connection".to_owned(),
            Err(error) => format!("the connection failed: {error}"),
        },
        () = keep_alive(pings, &received, options) => {
            is_dead = true;
            format!("the peer did not answer for {:?}", options.keep_alive_timeout)
        }
        () = runtime.closing.cancelled() => "this node closed the connection".to_owned(),
        () = unneeded => {
            // Ends by itself when nothing refers to it any more.
            tokio::select! {
                _ = timeout(FLUSH_TIMEOUT, &mut driver) => {}
                () = runtime.closing.cancelled() => {}
            }
            "the connection was idle".to_owned()
        }
    };
    tracing::debug!(peer = %state.address.node(), why, "connection to a peer ended");
    // Streams that fail because the connection is dropped find the reason.
    let _ = state.ending.set(Ending { why, is_dead });
    state.retire();
    state.ended.cancel();
    drop(driver);
}

/// Asks the peer for answers. Returns when it has sent nothing for the timeout.
async fn keep_alive(mut pings: PingPong, received: &AtomicU64, options: &ClientOptions) {
    loop {
        sleep(options.keep_alive_interval).await;
        let mut seen = received.load(Ordering::Relaxed);
        let mut pong = pin!(pings.ping(Ping::opaque()));
        loop {
            match timeout(options.keep_alive_timeout, pong.as_mut()).await {
                Ok(Ok(_)) => break,
                // The connection ends with an error of its own.
                Ok(Err(_)) => return pending().await,
                // The answer may be queued behind much data.
                Err(_) => {
                    let now = received.load(Ordering::Relaxed);
                    if now == seen {
                        return;
                    }
                    seen = now;
                }
            }
        }
    }
}

/// A stream that counts the bytes that it receives.
struct MonitoredStream {
    stream: TlsStream<TcpStream>,
    received: Arc<AtomicU64>,
}

impl AsyncRead for MonitoredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.received.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for MonitoredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! Accepts connections, and serves each with regular checks of its limits.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Method};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

use super::{
    Connection, Connections, Slot, Verdict,
    answer::{InFlightRequest, TrackedBody},
    stream::ClientStream,
};
use crate::config::ServerLimits;

/// The interval between checks of a connection.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum time of the graceful shutdown of a connection.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// The delay after a failed `accept`, such as for lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The maximum size of a request head, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

// It can be forwarded to another node: HTTP/2 counts 32 bytes for each of the 100 fields that
// hyper permits, and this node adds fields.
const _: () = assert!(
    MAX_HEAD_BYTES + 32 * 100 + (16 << 10) <= isorun_peers::MAX_REQUEST_HEADER_BYTES as usize
);

/// HTTP/2: the maximum number of concurrent streams of a connection, and the sizes of
/// the buffers and windows.
const MAX_CONCURRENT_STREAMS: u32 = 256;
const STREAM_SEND_BUFFER_BYTES: usize = 64 << 10;
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// The service and settings of the listener.
pub struct ServeOptions {
    pub connections: Arc<Connections>,
    pub limits: ServerLimits,
    pub tls: Option<TlsAcceptor>,
    pub service: Router,
    /// Cancelled when the server stops: only health probes are answered.
    pub stopping: CancellationToken,
    /// Cancelled to accept no new connections and close open ones after the requests in flight.
    pub finishing: CancellationToken,
    /// Cancelled to close all connections at once.
    pub closing: CancellationToken,
}

/// Accepts connections until `finishing`, then waits until all have ended. Requests on
/// connections that are accepted after `stopping` are refused with an error.
pub async fn accept(listener: TcpListener, options: ServeOptions) {
    let options = Arc::new(options);
    let http = Arc::new(builder(&options.limits));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = options.finishing.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Some(slot) = options.connections.admit(address.ip()) {
                    let serving = serve(Arc::clone(&options), Arc::clone(&http), stream, slot);
                    tasks.spawn(serving);
                    // Lets evicted connections close, and new requests start.
                    tokio::task::yield_now().await;
                } else {
                    log_refusal(address.ip());
                }
            }
            Err(error) => {
                if !is_client_error(&error) {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

fn log_refusal(address: IpAddr) {
    tracing::warn!(%address, "connection refused: tenants use all connections (--max-connections)");
}

/// Reports whether an error of `accept` concerns only that connection.
fn is_client_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn builder(limits: &ServerLimits) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_send_buf_size(STREAM_SEND_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .enable_connect_protocol();
    http
}

async fn serve(
    options: Arc<ServeOptions>,
    http: Arc<Builder<TokioExecutor>>,
    stream: TcpStream,
    slot: Slot,
) {
    // Sends small pieces of output at once. Fails if the connection is closed already.
    let _ = stream.set_nodelay(true);
    let stream = ClientStream::new(stream, slot);
    let connection = stream.connection();
    match &options.tls {
        None => serve_requests(&options, &http, connection, stream).await,
        Some(tls) => {
            let handshake = tokio::select! {
                handshake = timeout(options.limits.head_timeout, tls.accept(stream)) => handshake,
                () = connection.evicted.cancelled() => return,
                () = options.closing.cancelled() => return,
            };
            if let Ok(Ok(stream)) = handshake {
                serve_requests(&options, &http, connection, stream).await;
            }
        }
    }
}

/// Serves the requests of a connection until it ends or is closed.
async fn serve_requests<S>(
    options: &ServeOptions,
    http: &Builder<TokioExecutor>,
    connection: Arc<Connection>,
    stream: S,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let in_flight = InFlightRequest::new(&connection);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&connection));
        let is_connect = request.method() == Method::CONNECT;
        let answering = options.service.clone().call(request);
        async move {
            let Ok(response) = answering.await;
            if is_connect && response.status().is_success() {
                in_flight.mark_as_tunnel();
            }
            Ok::<_, Infallible>(response.map(|body| TrackedBody::new(body, in_flight)))
        }
    });
    let serving = http.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut finishing: Option<Instant> = None;
    // Connections from before the stop are shut down; requests on later ones get an error.
    let end = if options.stopping.is_cancelled() { &options.finishing } else { &options.stopping };
    let mut is_ending = false;
    loop {
        tokio::select! {
            _ = &mut serving => return,
            () = connection.evicted.cancelled() => return,
            () = options.closing.cancelled() => return,
            () = end.cancelled(), if !is_ending => {
                is_ending = true;
                serving.as_mut().graceful_shutdown();
            }
            _ = checks.tick() => {
                let now = Instant::now();
                if finishing.is_some_and(|since| now.duration_since(since) > FINISH_TIMEOUT) {
                    return;
                }
                match connection.check(now, &options.limits) {
                    Verdict::Keep => {}
                    Verdict::Drop => return,
                    Verdict::Finish => if finishing.is_none() {
                        finishing = Some(now);
                        serving.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}

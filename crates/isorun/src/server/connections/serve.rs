//! Accepting connections, and serving each under a watch.

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
    answer::{AnswerBody, UnderWay},
    stream::ClientStream,
};
use crate::server::config::ServerLimits;

/// How often a connection is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection that is to end may take to do so.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait when the process has no descriptor for a connection.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// HTTP/2: streams of a connection at the same time, and bytes that are buffered
/// for and from each.
const MAX_STREAMS: u32 = 256;
const STREAM_SEND_BUFFER: usize = 64 << 10;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// What connections are served with.
pub struct Setup {
    pub connections: Arc<Connections>,
    pub limits: ServerLimits,
    pub tls: Option<TlsAcceptor>,
    pub service: Router,
    /// No new requests but those that ask how the server is.
    pub stopping: CancellationToken,
    /// No new connections; those that are open end after what is under way.
    pub finishing: CancellationToken,
    /// Whatever is open is closed.
    pub closing: CancellationToken,
}

/// Accepts connections until the server finishes, then waits until all have ended.
/// One that comes while the server is stopping is told so.
pub async fn accept(listener: TcpListener, setup: Setup) {
    let setup = Arc::new(setup);
    let http = Arc::new(builder(&setup.limits));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = setup.finishing.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Some(slot) = setup.connections.admit(address.ip()) {
                    let serving = serve(Arc::clone(&setup), Arc::clone(&http), stream, slot);
                    tasks.spawn(serving);
                    // Those that are to close get their turn, and so do new requests.
                    tokio::task::yield_now().await;
                } else {
                    refused(address.ip());
                }
            }
            Err(error) => {
                if !is_of_the_client(&error) {
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

fn refused(address: IpAddr) {
    tracing::warn!(%address, "all connections are in use by tenants: --max-connections");
}

/// Whether an error of `accept` is about the one connection.
fn is_of_the_client(error: &io::Error) -> bool {
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
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_connect_protocol();
    http
}

async fn serve(
    setup: Arc<Setup>,
    http: Arc<Builder<TokioExecutor>>,
    stream: TcpStream,
    slot: Slot,
) {
    // Small pieces of output leave at once. It may have ended already.
    let _ = stream.set_nodelay(true);
    let stream = ClientStream::new(stream, slot);
    let connection = stream.connection();
    match &setup.tls {
        None => converse(&setup, &http, connection, stream).await,
        Some(tls) => {
            let handshake = tokio::select! {
                handshake = timeout(setup.limits.head_timeout, tls.accept(stream)) => handshake,
                () = connection.evicted.cancelled() => return,
                () = setup.closing.cancelled() => return,
            };
            if let Ok(Ok(stream)) = handshake {
                converse(&setup, &http, connection, stream).await;
            }
        }
    }
}

/// Serves requests of a connection until it ends, or has to.
async fn converse<S>(
    setup: &Setup,
    http: &Builder<TokioExecutor>,
    connection: Arc<Connection>,
    stream: S,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let under_way = UnderWay::new(&connection);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&connection));
        let is_connect = request.method() == Method::CONNECT;
        let answering = setup.service.clone().call(request);
        async move {
            let Ok(response) = answering.await;
            if is_connect && response.status().is_success() {
                under_way.becomes_tunnel();
            }
            Ok::<_, Infallible>(response.map(|body| AnswerBody::new(body, under_way)))
        }
    });
    let serving = http.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let mut watch = interval(WATCH_INTERVAL);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut finishing: Option<Instant> = None;
    // Who has come before the stop learns of it by the end of the connection, who
    // comes later by an answer.
    let end = if setup.stopping.is_cancelled() { &setup.finishing } else { &setup.stopping };
    let mut is_ending = false;
    loop {
        tokio::select! {
            _ = &mut serving => return,
            () = connection.evicted.cancelled() => return,
            () = setup.closing.cancelled() => return,
            () = end.cancelled(), if !is_ending => {
                is_ending = true;
                serving.as_mut().graceful_shutdown();
            }
            _ = watch.tick() => {
                let now = Instant::now();
                if finishing.is_some_and(|since| now.duration_since(since) > FINISH_TIMEOUT) {
                    return;
                }
                match connection.judge(now, &setup.limits) {
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

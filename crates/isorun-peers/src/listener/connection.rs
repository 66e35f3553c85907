//! Serves the requests of one connection.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

use super::{Peer, ServeOptions, stream::PeerStream};
use crate::{
    body::{BoxError, PeerBody},
    http2::{
        CONNECTION_WINDOW_BYTES, MAX_HEADER_FIELDS, MAX_REQUEST_HEADER_BYTES,
        MAX_SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    },
    in_flight::{InFlight, InFlightGuard},
};

/// The maximum time from the end of the last request until a connection that is shut down
/// has sent the rest of its response and is closed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// What the connections of a listener share.
#[derive(Clone)]
pub(super) struct ConnectionContext {
    pub(super) options: Arc<ServeOptions>,
    pub(super) tasks: TaskTracker,
    /// Cancelled to close connections after their requests in progress.
    pub(super) shutdown: CancellationToken,
    /// Cancelled to close connections at once.
    pub(super) closing: CancellationToken,
}

/// Serves a connection with HTTP/2.
pub(super) async fn serve_http2<S, B>(
    stream: PeerStream,
    peer: Peer,
    service: S,
    context: &ConnectionContext,
) where
    S: Service<Request<PeerBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let options = &context.options;
    let requests = InFlight::default();
    let mut http = hyper::server::conn::http2::Builder::new(TaskExecutor(context.tasks.clone()));
    http.timer(TokioTimer::new())
        .keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .max_concurrent_streams(options.max_concurrent_streams)
        // Requests that are cancelled before they start. Peers are trusted not to flood.
        .max_pending_accept_reset_streams(usize::try_from(options.max_concurrent_streams).ok())
        .max_header_list_size(MAX_REQUEST_HEADER_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let handler = handler(peer, service, requests.clone());
    let connection = http.serve_connection(TokioIo::new(stream), service_fn(handler));
    let connection = pin!(connection);
    drive(connection, |connection| connection.graceful_shutdown(), &requests, context).await;
}

/// Serves a connection with HTTP/1.1, which can be upgraded.
pub(super) async fn serve_http1<S, B>(
    stream: PeerStream,
    peer: Peer,
    service: S,
    context: &ConnectionContext,
) where
    S: Service<Request<PeerBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let requests = InFlight::default();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(context.options.idle_timeout)
        .max_headers(MAX_HEADER_FIELDS)
        .max_buf_size(MAX_REQUEST_HEADER_BYTES as usize);
    let handler = handler(peer, service, requests.clone());
    let connection =
        http.serve_connection(TokioIo::new(stream), service_fn(handler)).with_upgrades();
    let connection = pin!(connection);
    drive(connection, |connection| connection.graceful_shutdown(), &requests, context).await;
}

/// A response that the service computes.
type Answer = Pin<Box<dyn Future<Output = Result<Response<TrackedBody>, BoxError>> + Send>>;

/// Returns the function that answers the requests of a connection.
fn handler<S, B>(peer: Peer, service: S, requests: InFlight) -> impl Fn(Request<Incoming>) -> Answer
where
    S: Service<Request<PeerBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    move |request| {
        let in_flight = requests.start();
        let mut request = request.map(PeerBody::new);
        request.extensions_mut().insert(peer.clone());
        let is_head = request.method() == Method::HEAD;
        let mut service = service.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            let mut response = service.call(request).await.map_err(Into::into)?.map(PeerBody::new);
            if is_head {
                remove_body(&mut response);
            }
            Ok(response.map(|body| TrackedBody { body, _in_flight: in_flight }))
        })
    }
}

/// Removes the body of a response to HEAD, and keeps its length. hyper does so with HTTP/1.1,
/// but sends a body with HTTP/2, which is an error.
fn remove_body(response: &mut Response<PeerBody>) {
    let body = std::mem::take(response.body_mut());
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        let headers = response.headers_mut();
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

/// Drives a connection until it ends or is closed: at once by `closing`; after its requests
/// in progress by `shutdown`, or because it is idle.
async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    requests: &InFlight,
    context: &ConnectionContext,
) where
    C: Future<Output = Result<(), E>>,
{
    let ending = async {
        tokio::select! {
            () = context.shutdown.cancelled() => {}
            () = requests.idle_for(context.options.idle_timeout) => {}
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = context.closing.cancelled() => return,
        () = ending => graceful_shutdown(connection.as_mut()),
    }
    tokio::select! {
        _ = connection => {}
        () = context.closing.cancelled() => {}
        () = requests.idle_for(FLUSH_TIMEOUT) => {}
    }
}

/// Runs the tasks of a connection such that the listener waits for them.
#[derive(Clone)]
struct TaskExecutor(TaskTracker);

impl<F> Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// The body of a response; the request is in progress until it is dropped.
struct TrackedBody {
    body: PeerBody,
    _in_flight: InFlightGuard,
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Nodes of a test, and the services that they run.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use isorun_peers::{
    Authority, BoxError, ClientOptions, Identity, NodeId, PeerAddress, PeerBody, PeerClient,
    PeerListener, ServeOptions,
};
use test_support::wait::EVENT_TIMEOUT;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

type ServiceFunction =
    dyn Fn(Request<PeerBody>) -> BoxFuture<'static, Response<PeerBody>> + Send + Sync;

/// A service that calls a function.
#[derive(Clone)]
pub struct Handler(Arc<ServiceFunction>);

impl Handler {
    pub fn new<F>(function: impl Fn(Request<PeerBody>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<PeerBody>> + Send + 'static,
    {
        Self(Arc::new(move |request| function(request).boxed()))
    }
}

impl Service<Request<PeerBody>> for Handler {
    type Response = Response<PeerBody>;
    type Error = Infallible;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<PeerBody>, Infallible>> + Send + 'static>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<PeerBody>) -> Self::Future {
        Box::pin((self.0)(request).map(Ok))
    }
}

/// A node that serves. It closes when it is dropped.
pub struct Node {
    pub id: NodeId,
    pub socket: SocketAddr,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    /// Returns the address of the node.
    pub fn address(&self) -> PeerAddress {
        self.address_at(self.socket)
    }

    /// Returns an address of the node at another socket, such as that of a proxy.
    pub fn address_at(&self, socket: SocketAddr) -> PeerAddress {
        PeerAddress::new(self.id.clone(), &format!("https://{socket}")).unwrap()
    }

    /// Shuts the node down, and waits for it.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        event("the node has shut down", &mut self.task).await.unwrap();
    }
}

/// Starts a node on a free port.
pub async fn serve(authority: &Authority, handler: Handler) -> Node {
    serve_with(authority, handler, ServeOptions::default()).await
}

pub async fn serve_with(authority: &Authority, handler: Handler, options: ServeOptions) -> Node {
    serve_as(identity(authority), "127.0.0.1:0".parse().unwrap(), handler, options).await
}

pub async fn serve_as(
    identity: Identity,
    address: SocketAddr,
    handler: Handler,
    options: ServeOptions,
) -> Node {
    let id = identity.node().clone();
    let listener = PeerListener::bind(address, identity).await.unwrap();
    let socket = listener.address();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(listener.serve(handler, options, shutdown.clone()));
    Node { id, socket, shutdown, task }
}

/// Issues the identity of a new node.
pub fn identity(authority: &Authority) -> Identity {
    authority.issue(&NodeId::random().unwrap()).unwrap()
}

/// Creates the client of a new node.
pub fn client(authority: &Authority) -> PeerClient {
    client_with(authority, ClientOptions::default())
}

pub fn client_with(authority: &Authority, options: ClientOptions) -> PeerClient {
    PeerClient::new(identity(authority), options)
}

/// Returns a response with a text.
pub fn text(text: impl Into<Bytes>) -> Response<PeerBody> {
    Response::new(PeerBody::from(text))
}

/// Returns a request without a body.
pub fn get(path: &str) -> Request<PeerBody> {
    Request::get(path).body(PeerBody::empty()).unwrap()
}

/// Returns a request with a body.
pub fn post(body: PeerBody) -> Request<PeerBody> {
    Request::post("/").body(body).unwrap()
}

/// Reads a body as text.
pub async fn read(body: PeerBody) -> Result<String, BoxError> {
    Ok(String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap())
}

/// Sends a request without a body, and returns the response as text.
pub async fn fetch(client: &PeerClient, address: &PeerAddress) -> String {
    let response = event("the response", client.send(address, get("/"))).await.unwrap();
    event("its body", read(response.into_body())).await.unwrap()
}

/// Returns a body, and what sends its frames. It ends when that is dropped.
pub fn channel_body() -> (mpsc::Sender<Frame<Bytes>>, PeerBody) {
    let (sender, receiver) = mpsc::channel::<Frame<Bytes>>(1);
    let frames = stream::unfold(receiver, |mut receiver| async {
        Some((Ok::<_, BoxError>(receiver.recv().await?), receiver))
    });
    (sender, PeerBody::new(StreamBody::new(frames)))
}

/// Waits for an event, which must occur also on a busy machine.
pub async fn event<F: Future>(name: &str, future: F) -> F::Output {
    timeout(EVENT_TIMEOUT, future).await.unwrap_or_else(|_| panic!("not in time: {name}"))
}

/// A value whose drop is an event.
pub struct DropSignal(CancellationToken);

impl DropSignal {
    pub fn new() -> (Self, CancellationToken) {
        let dropped = CancellationToken::new();
        (Self(dropped.clone()), dropped)
    }
}

impl Drop for DropSignal {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Settings of a client that notices everything fast.
pub fn fast() -> ClientOptions {
    ClientOptions {
        connect_timeout: Duration::from_secs(1),
        keep_alive_interval: Duration::from_millis(100),
        keep_alive_timeout: Duration::from_secs(1),
        ..ClientOptions::default()
    }
}

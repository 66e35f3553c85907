//! The listener for connections of peers.

mod connection;
mod options;
mod stream;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

pub use self::options::ServeOptions;
use self::{connection::ConnectionContext, stream::PeerStream};
use crate::{
    body::{BoxError, PeerBody},
    identity::{ALPN_HTTP2, Identity, node_of},
    limit::{KeyedLimit, KeyedPermit},
    node::NodeId,
    socket,
};

/// The delay after a failed `accept`, such as for lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The maximum time until what was using a connection has noticed that it was closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The peer that sent a request, as an extension of the request. It is from the certificate
/// of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub NodeId);

/// A socket that is bound and not yet served.
#[derive(Debug)]
pub struct PeerListener {
    socket: TcpListener,
    address: SocketAddr,
    identity: Identity,
}

impl PeerListener {
    /// Binds a socket.
    ///
    /// # Errors
    ///
    /// The address is in use or is not one of this machine.
    pub async fn bind(address: SocketAddr, identity: Identity) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self { address: socket.local_addr()?, socket, identity })
    }

    /// Returns the address of the socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the requests of peers until `shutdown`. Then no connection is accepted, and
    /// this waits until the requests in progress and the upgraded connections have ended, at
    /// most [`ServeOptions::shutdown_timeout`]. What has not ended is closed. Dropping the
    /// future closes all connections.
    ///
    /// Only requests of nodes with a valid certificate reach the service. Each has the
    /// extension [`Peer`].
    pub async fn serve<S, B>(self, service: S, options: ServeOptions, shutdown: CancellationToken)
    where
        S: Service<Request<PeerBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let closing = CancellationToken::new();
        let _close_on_drop = closing.clone().drop_guard();
        let tasks = TaskTracker::new();
        let acceptor = Acceptor {
            tls: TlsAcceptor::from(self.identity.server()),
            handshakes: Arc::new(KeyedLimit::new(options.max_handshakes)),
            handshakes_per_address: Arc::new(KeyedLimit::new(options.max_handshakes_per_address)),
            connections: Arc::new(KeyedLimit::new(options.max_connections_per_peer)),
            context: ConnectionContext {
                options: Arc::new(options),
                tasks: tasks.clone(),
                shutdown: shutdown.clone(),
                closing: closing.clone(),
            },
        };
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => acceptor.spawn(stream, address.ip(), service.clone()),
                Err(error) if is_client_error(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection of a peer");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        drop(self.socket);
        tasks.close();
        if timeout(acceptor.context.options.shutdown_timeout, tasks.wait()).await.is_err() {
            closing.cancel();
            let _ = timeout(CLOSE_TIMEOUT, tasks.wait()).await;
        }
    }
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

/// What is needed to accept a connection.
struct Acceptor {
    tls: TlsAcceptor,
    /// The handshakes in progress: all, and those of each address.
    handshakes: Arc<KeyedLimit<()>>,
    handshakes_per_address: Arc<KeyedLimit<IpAddr>>,
    connections: Arc<KeyedLimit<NodeId>>,
    context: ConnectionContext,
}

impl Acceptor {
    /// Starts to serve a connection, if the limits allow another handshake.
    fn spawn<S, B>(&self, stream: TcpStream, address: IpAddr, service: S)
    where
        S: Service<Request<PeerBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (Some(all), Some(own)) =
            (self.handshakes.acquire(()), self.handshakes_per_address.acquire(address))
        else {
            tracing::debug!(%address, "peer connection closed: too many handshakes in progress");
            return;
        };
        let (tls, connections) = (self.tls.clone(), Arc::clone(&self.connections));
        let context = self.context.clone();
        self.context.tasks.spawn(async move {
            let closing = context.closing.clone();
            let handshake = timeout(context.options.handshake_timeout, handshake(&tls, stream));
            let handshake = tokio::select! {
                handshake = handshake => handshake,
                () = closing.cancelled() => return,
            };
            let (stream, peer) = match handshake {
                Ok(Ok(accepted)) => accepted,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "handshake with a peer failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%address, "handshake with a peer timed out");
                    return;
                }
            };
            drop((all, own));
            let Some(permit) = connections.acquire(peer.clone()) else {
                tracing::warn!(%peer, %address, "connection of a peer closed: it has too many");
                return;
            };
            serve_stream(stream, Peer(peer), permit, service, context).await;
        });
    }
}

/// Completes the handshake, in which the peer's certificate is verified, and returns the
/// node that the certificate names.
async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, NodeId), BoxError> {
    socket::configure(&stream)?;
    let stream = tls.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = certificates.first().ok_or("the client has no certificate")?;
    let node = node_of(leaf)?;
    Ok((stream, node))
}

async fn serve_stream<S, B>(
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Peer,
    permit: KeyedPermit<NodeId>,
    service: S,
    context: ConnectionContext,
) where
    S: Service<Request<PeerBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
    if is_http2 && let Err(error) = socket::limit_unsent_time(stream.get_ref().0) {
        tracing::debug!(%error, "connection of a peer has ended");
        return;
    }
    let stream = PeerStream::new(stream, permit, context.tasks.token(), context.closing.clone());
    if is_http2 {
        connection::serve_http2(stream, peer, service, &context).await;
    } else {
        connection::serve_http1(stream, peer, service, &context).await;
    }
}

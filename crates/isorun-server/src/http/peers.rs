//! The connections with the other nodes of the cluster.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Mutex, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use axum::{
    Router, body::Body, extract::Request, http, response::Response, routing::future::RouteFuture,
};
use isorun_peers::{
    ClientOptions, Identity, PeerAddress, PeerBody, PeerClient, PeerError, PeerListener,
    ServeOptions,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::error::{ApiError, Code};
use crate::config::ClusterConfig;

/// The time after which a client may retry when a node does not respond.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The connections with the other nodes of the cluster.
pub struct Peers {
    client: PeerClient,
    /// Bound when the server starts, and taken when it is served.
    listener: Mutex<Option<PeerListener>>,
    url: String,
}

impl Peers {
    /// Binds the socket for other nodes.
    pub async fn bind(config: &ClusterConfig, identity: &Identity) -> Result<Self> {
        let listener = PeerListener::bind(config.peer_listen, identity.clone())
            .await
            .with_context(|| format!("cannot listen on {} for other nodes", config.peer_listen))?;
        let url = match &config.advertise {
            Some(url) => url.clone(),
            None => default_url(config, listener.address())?,
        };
        // Every node would fail to use an invalid URL.
        PeerAddress::new(identity.node().clone(), &url).context("--advertise")?;
        let client = PeerClient::new(identity.clone(), ClientOptions::default());
        Ok(Self { client, listener: Mutex::new(Some(listener)), url })
    }

    /// Returns the URL at which other nodes reach this one.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Serves the requests of other nodes until `shutdown`, then waits for those in progress.
    pub async fn serve(&self, service: Router, shutdown: CancellationToken) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(listener) = listener else { return };
        listener.serve(PeerService(service), ServeOptions::default(), shutdown).await;
    }

    /// Sends a request to a node. Its response may be an error of that node.
    pub async fn send(
        &self,
        node: &str,
        url: &str,
        request: Request,
    ) -> Result<Response, PeerError> {
        let node = node.parse().map_err(|_| PeerError::InvalidRequest("the node has no id"))?;
        let address = PeerAddress::new(node, url)?;
        Ok(self.client.send(&address, request).await?.map(Body::new))
    }
}

/// The routes, as a service of the listener.
#[derive(Clone)]
struct PeerService(Router);

impl Service<http::Request<PeerBody>> for PeerService {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<PeerBody>) -> RouteFuture<Infallible> {
        self.0.call(request.map(Body::new))
    }
}

/// Returns the URL of the address from which this machine reaches the database.
fn default_url(config: &ClusterConfig, listening: SocketAddr) -> Result<String> {
    if !listening.ip().is_unspecified() {
        return Ok(format!("https://{listening}"));
    }
    let Some((host, port)) = config.database.hosts().into_iter().next() else {
        bail!("specify --advertise: the database is reached through a socket of this machine");
    };
    let found = (|| -> std::io::Result<IpAddr> {
        // Finds the route, and sends nothing.
        let any = if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect((host.as_str(), port))?;
        Ok(socket.local_addr()?.ip())
    })();
    let address = found
        .with_context(|| format!("cannot find this machine's address: {host} is not known"))?;
    Ok(format!("https://{}", SocketAddr::new(address, listening.port())))
}

/// Returns the error for a client whose request could not be forwarded.
pub fn peer_error(node: &str, error: &PeerError) -> ApiError {
    if let PeerError::InvalidRequest(why) = error {
        return ApiError::invalid(*why);
    }
    tracing::warn!(%error, node, "cannot forward a request");
    let message = if error.is_retryable() {
        format!(
            "the server {node}, which this concerns, cannot be reached, and has not begun to \
             process the request: try again later"
        )
    } else {
        format!(
            "the connection to the server {node}, which this concerns, was lost, and it is not \
             known whether the request was processed: if that server died, its running sandboxes \
             are lost"
        )
    };
    ApiError::new(Code::Unavailable, message).after(RETRY_DELAY)
}

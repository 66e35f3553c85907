//! The client that forwards requests to peers.

mod address;
mod connect;
mod connection;
mod exchange;
mod options;
mod pool;
mod upgrade;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{address::PeerAddress, options::ClientOptions};
use self::{connect::unreachable, connection::Runtime, exchange::NotSent, pool::Pool};
use crate::{
    body::{BoxError, PeerBody},
    error::PeerError,
    headers::{WebSocket, prepare_request},
    identity::Identity,
    listener::Peer,
};

/// The number of connections on which a request is tried that end before it is sent.
const MAX_ATTEMPTS: usize = 3;

/// A client that forwards requests to peers. Clones share their connections.
///
/// Connections without requests are closed when the last clone is dropped; requests in
/// progress continue. [`Self::close`] ends everything.
#[derive(Clone)]
pub struct PeerClient {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    runtime: Runtime,
    pools: Mutex<HashMap<PeerAddress, Arc<Pool>>>,
    _dropped: DropGuard,
}

impl fmt::Debug for PeerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerClient").field("node", self.shared.identity.node()).finish()
    }
}

impl PeerClient {
    /// Creates a client. Connections are opened when they are needed.
    #[must_use]
    pub fn new(identity: Identity, options: ClientOptions) -> Self {
        let dropped = CancellationToken::new();
        let runtime = Runtime {
            options: Arc::new(options),
            tasks: TaskTracker::new(),
            dropped: dropped.clone(),
            closing: CancellationToken::new(),
        };
        let _dropped = dropped.drop_guard();
        Self { shared: Arc::new(Shared { identity, runtime, pools: Mutex::default(), _dropped }) }
    }

    /// Forwards a request to a peer, and returns its response when it begins.
    ///
    /// Both bodies are streamed, as fast as they are read, with their trailers. There is no
    /// limit of time: a peer that no longer answers is noticed after about 10 s, also in the
    /// middle of a body. Dropping the future, or the response's body before its end, cancels
    /// the request at the peer. Headers that apply to one connection only are removed from
    /// the request and the response; see [`AddedHeaders`](crate::AddedHeaders).
    ///
    /// A WebSocket, asked for by `Upgrade` of HTTP/1.1 or by an extended CONNECT of HTTP/2,
    /// gets a connection of its own. The caller passes the request as it received it from
    /// hyper, and returns the response to hyper: then both ends are connected, until both
    /// have closed, or one failed.
    ///
    /// # Errors
    ///
    /// See [`PeerError`]. [`PeerError::is_retryable`] tells whether the request may be sent
    /// again. The body of the response ends with a [`PeerError`], too, if the peer fails
    /// after the response has begun.
    pub async fn send<B>(
        &self,
        address: &PeerAddress,
        mut request: Request<B>,
    ) -> Result<Response<PeerBody>, PeerError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if let Some(Peer(from)) = request.extensions().get::<Peer>() {
            return Err(PeerError::Loop { from: from.clone() });
        }
        let runtime = &self.shared.runtime;
        if runtime.closing.is_cancelled() {
            return Err(unreachable(address, "this node has closed its connections".to_owned()));
        }
        let web_socket = WebSocket::of(&request);
        if request.method() == Method::CONNECT && web_socket.is_none() {
            return Err(PeerError::InvalidRequest("CONNECT is supported for WebSockets only"));
        }
        let pool = self.pool(address);
        if let Some(web_socket) = web_socket {
            return upgrade::forward(address, &pool, runtime, web_socket, request).await;
        }
        prepare_request(&mut request);
        let mut request = request.map(PeerBody::new);
        for _ in 0..MAX_ATTEMPTS {
            match exchange::send(pool.slot().await?, request, &runtime.tasks).await {
                Ok(result) => return result,
                Err(NotSent(unsent)) => request = unsent,
            }
        }
        Err(unreachable(address, "its connections end at once".to_owned()))
    }

    /// Closes all connections at once, and waits until they are closed. Requests in progress
    /// fail, and so do later ones.
    pub async fn close(&self) {
        let runtime = &self.shared.runtime;
        runtime.closing.cancel();
        runtime.tasks.close();
        runtime.tasks.wait().await;
    }

    /// Returns the connections to a peer. Forgets peers to which there are none.
    fn pool(&self, address: &PeerAddress) -> Arc<Pool> {
        let mut pools = self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(address) {
            return Arc::clone(pool);
        }
        pools.retain(|_, pool| Arc::strong_count(pool) > 1 || !pool.is_unused());
        let runtime = self.shared.runtime.clone();
        let pool = Arc::new(Pool::new(address.clone(), self.shared.identity.clone(), runtime));
        pools.insert(address.clone(), Arc::clone(&pool));
        pool
    }
}

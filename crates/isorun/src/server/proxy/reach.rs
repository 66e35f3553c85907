//! Connections to ports of sandboxes, kept for a while between requests.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Method, Request, Response, Uri, header},
};
use futures_util::future::BoxFuture;
use http_body::Body as _;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use isorun_agent::client::{self, ClientError};
use isorun_engine::{Engine, SandboxId, network::wire::Stream};

use crate::server::{
    limits::{
        descriptors::{self, Counted},
        ledger::Ledger,
    },
    runs::Runs,
};

/// How long a connection that nobody uses is kept, and how many of a port.
const IDLE: Duration = Duration::from_secs(5);
const KEPT: usize = 128;
/// Fields that the header of an answer may have.
pub const MAX_FIELDS: usize = 1000;
/// Bytes that the header of an answer may have.
pub const MAX_HEADER: usize = 512 << 10;

/// All ports of all sandboxes.
pub struct Ports {
    /// Keeps connections for the next request.
    kept: Client<Reach, Body>,
    /// Makes one for each request.
    fresh: Client<Reach, Body>,
}

/// Why a server inside has not answered.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nobody listens there, or it takes no connections; the agent's words.
    #[error("{0}")]
    Refused(String),
    /// The sandbox cannot be reached.
    #[error("the sandbox cannot be reached: {0}")]
    Away(String),
    /// Its tenant has too many connections.
    #[error("{0}")]
    Busy(String),
    /// The header of its answer is larger than it may be.
    #[error("the header of the answer is too large")]
    TooLarge,
    /// What it answers is no HTTP.
    #[error("{0}")]
    Broken(String),
}

impl Ports {
    pub fn new(engine: Arc<dyn Engine>, runs: Arc<Runs>, descriptors: Arc<Ledger>) -> Self {
        let reach = Reach { engine, runs, descriptors };
        let client = |kept| {
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(kept)
                .pool_timer(TokioTimer::new())
                .http1_max_headers(MAX_FIELDS)
                .http1_max_buf_size(MAX_HEADER)
                // Header names as the client wrote them are of no use to a server;
                // their values are.
                .set_host(false)
                .build(reach.clone())
        };
        Self { kept: client(KEPT), fresh: client(0) }
    }

    /// Sends a request, whose URI is a path, to a port.
    ///
    /// A connection that was kept may be one that the server closes just now. Then
    /// a request that may be repeated is sent once more, on a new connection.
    pub async fn send(
        &self,
        sandbox: &SandboxId,
        port: u16,
        mut request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, Trouble> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://{sandbox}:{port}{path}");
        *request.uri_mut() = uri.parse().map_err(|error| Trouble::Broken(format!("{error}")))?;
        let again = copy_of_safe(&request);
        match (self.kept.request(request).await, again) {
            (Err(error), Some(again)) if was_closed(&error) => {
                self.fresh.request(again).await.map_err(trouble)
            }
            (answer, _) => answer.map_err(trouble),
        }
    }
}

/// Copies a request that changes nothing and has no body (RFC 9110, 9.2.1 and
/// 9.2.2). One that wants another protocol has state of its own.
fn copy_of_safe(request: &Request<Body>) -> Option<Request<Body>> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && request.body().is_end_stream()
        && !request.headers().contains_key(header::UPGRADE);
    if !is_safe {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// Returns whether the connection ended before anything of an answer came.
fn was_closed(error: &legacy::Error) -> bool {
    if error.is_connect() {
        return false;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            return matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset);
        }
        cause = error.source();
    }
    false
}

fn trouble(error: legacy::Error) -> Trouble {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
    let mut last = error.to_string();
    while let Some(error) = cause {
        if let Some(ClientError::Failed(failure)) = error.downcast_ref() {
            return Trouble::Refused(failure.message.clone());
        }
        if let Some(Trouble::Busy(why)) = error.downcast_ref() {
            return Trouble::Busy(why.clone());
        }
        if let Some(error) = error.downcast_ref::<Trouble>() {
            return Trouble::Away(error.to_string());
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
            return Trouble::TooLarge;
        }
        last = error.to_string();
        cause = error.source();
    }
    if error.is_connect() { Trouble::Away(last) } else { Trouble::Broken(last) }
}

/// Makes connections, to the sandbox that is the host of a URI.
#[derive(Clone)]
struct Reach {
    engine: Arc<dyn Engine>,
    runs: Arc<Runs>,
    descriptors: Arc<Ledger>,
}

impl tower_service::Service<Uri> for Reach {
    type Response = TokioIo<Stream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { engine, runs, descriptors } = self.clone();
        Box::pin(async move {
            let sandbox: SandboxId = uri.host().unwrap_or_default().parse()?;
            let run = sandbox.as_str().parse().ok().and_then(|id| runs.get(&id));
            let run = run.ok_or_else(|| Trouble::Away("its run has ended".to_owned()))?;
            let hold = descriptors::agent_connection(&descriptors, &run.tenant)
                .map_err(|error| Trouble::Busy(error.message))?;
            let stream = engine.connect(&sandbox).await?;
            let stream = Counted::new(stream, hold);
            let forward = client::forward(stream, uri.port_u16().unwrap_or_default()).await?;
            Ok(TokioIo::new(Stream::new(forward)))
        })
    }
}

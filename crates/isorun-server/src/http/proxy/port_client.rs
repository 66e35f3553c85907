//! HTTP client for ports of sandboxes, with a pool of connections.

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
use isorun_egress::upstream::UpstreamStream;
use isorun_engine::SandboxId;

use crate::core::{
    accounts::{
        agent_connections::{self, CountedStream},
        ledger::Ledger,
    },
    engines::Engines,
    runs::Runs,
};

/// The maximum time that an idle connection stays in the pool.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of idle connections to one port.
const MAX_IDLE_CONNECTIONS_PER_PORT: usize = 128;
/// The maximum number of fields in a response header.
pub const MAX_HEADER_FIELDS: usize = 1000;
/// The maximum size of a response header, in bytes.
pub const MAX_HEADER_BYTES: usize = 512 << 10;

// Another node can forward such a response: HTTP/2 counts 28 bytes more for each field than
// HTTP/1.1 needs, and this server adds fields.
const _: () = assert!(
    MAX_HEADER_BYTES + 32 * MAX_HEADER_FIELDS + (64 << 10)
        <= isorun_peers::MAX_RESPONSE_HEADER_BYTES as usize
);

/// The client for all ports of all sandboxes.
pub struct PortClient {
    /// Reuses connections.
    pooled: Client<AgentConnector, Body>,
    /// Opens a connection for each request.
    unpooled: Client<AgentConnector, Body>,
}

/// The reason why the server in a sandbox has not responded.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The connection to the port failed; with the agent's message.
    #[error("{0}")]
    Refused(String),
    /// The connection to the sandbox failed.
    #[error("the sandbox cannot be reached: {0}")]
    Unreachable(String),
    /// The tenant has too many connections.
    #[error("{0}")]
    Busy(String),
    /// The response header exceeds the limits.
    #[error("the response header is too large")]
    TooLarge,
    /// The response is not valid HTTP.
    #[error("{0}")]
    InvalidResponse(String),
}

impl PortClient {
    pub fn new(engines: Arc<Engines>, runs: Arc<Runs>, descriptors: Arc<Ledger>) -> Self {
        let connector = AgentConnector { engines, runs, descriptors };
        let client = |max_idle| {
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(POOL_IDLE_TIMEOUT)
                .pool_max_idle_per_host(max_idle)
                .pool_timer(TokioTimer::new())
                .http1_max_headers(MAX_HEADER_FIELDS)
                .http1_max_buf_size(MAX_HEADER_BYTES)
                // `inward::rewrite` sets `Host`. The case of header names is not preserved.
                .set_host(false)
                .build(connector.clone())
        };
        Self { pooled: client(MAX_IDLE_CONNECTIONS_PER_PORT), unpooled: client(0) }
    }

    /// Sends a request, whose URI is a path, to a port.
    ///
    /// The server may be closing a pooled connection at the same time. Then a request that
    /// can safely be repeated is sent again, on a new connection.
    pub async fn send(
        &self,
        sandbox: &SandboxId,
        port: u16,
        mut request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, UpstreamError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://{sandbox}:{port}{path}");
        *request.uri_mut() =
            uri.parse().map_err(|error| UpstreamError::InvalidResponse(format!("{error}")))?;
        let retry = copy_if_safe(&request);
        match (self.pooled.request(request).await, retry) {
            (Err(error), Some(retry)) if was_closed(&error) => {
                self.unpooled.request(retry).await.map_err(classify)
            }
            (response, _) => response.map_err(classify),
        }
    }
}

/// Copies a request that changes nothing and has no body (RFC 9110, 9.2.1 and
/// 9.2.2). An upgrade is never repeated, since its connection has state.
fn copy_if_safe(request: &Request<Body>) -> Option<Request<Body>> {
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

/// Reports whether the connection was closed before any byte of a response was received.
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

/// Determines the reason of a failed request.
fn classify(error: legacy::Error) -> UpstreamError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
    let mut last = error.to_string();
    while let Some(error) = cause {
        if let Some(ClientError::Failed(failure)) = error.downcast_ref() {
            return UpstreamError::Refused(failure.message.clone());
        }
        if let Some(UpstreamError::Busy(why)) = error.downcast_ref() {
            return UpstreamError::Busy(why.clone());
        }
        if let Some(error) = error.downcast_ref::<UpstreamError>() {
            return UpstreamError::Unreachable(error.to_string());
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
            return UpstreamError::TooLarge;
        }
        last = error.to_string();
        cause = error.source();
    }
    if error.is_connect() {
        UpstreamError::Unreachable(last)
    } else {
        UpstreamError::InvalidResponse(last)
    }
}

/// Opens connections to a port of the sandbox that is the host of a URI.
#[derive(Clone)]
struct AgentConnector {
    engines: Arc<Engines>,
    runs: Arc<Runs>,
    descriptors: Arc<Ledger>,
}

impl tower_service::Service<Uri> for AgentConnector {
    type Response = TokioIo<UpstreamStream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { engines, runs, descriptors } = self.clone();
        Box::pin(async move {
            let sandbox: SandboxId = uri.host().unwrap_or_default().parse()?;
            let run = sandbox.as_str().parse().ok().and_then(|id| runs.get(&id));
            let run =
                run.ok_or_else(|| UpstreamError::Unreachable("the run has ended".to_owned()))?;
            let hold = agent_connections::take(&descriptors, &run.tenant)
                .map_err(|error| UpstreamError::Busy(error.message))?;
            let stream = engines.connect(&sandbox).await?;
            let stream = CountedStream::new(stream, hold);
            let forward = client::forward(stream, uri.port_u16().unwrap_or_default()).await?;
            Ok(TokioIo::new(UpstreamStream::new(forward)))
        })
    }
}

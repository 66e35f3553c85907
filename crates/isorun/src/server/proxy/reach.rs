//! Connections to ports of sandboxes, kept for a while between requests.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response, Uri},
};
use futures_util::future::BoxFuture;
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

/// All ports of all sandboxes.
pub struct Ports(Client<Reach, Body>);

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
    /// What it answers is no HTTP.
    #[error("{0}")]
    Broken(String),
}

impl Ports {
    pub fn new(engine: Arc<dyn Engine>, runs: Arc<Runs>, descriptors: Arc<Ledger>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(KEPT)
            .pool_timer(TokioTimer::new())
            // Header names as the client wrote them are of no use to a server;
            // their values are.
            .set_host(false)
            .build(Reach { engine, runs, descriptors });
        Self(client)
    }

    /// Sends a request, whose URI is a path, to a port.
    pub async fn send(
        &self,
        sandbox: &SandboxId,
        port: u16,
        mut request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, Trouble> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://{sandbox}:{port}{path}");
        *request.uri_mut() = uri.parse().map_err(|error| Trouble::Broken(format!("{error}")))?;
        self.0.request(request).await.map_err(trouble)
    }
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

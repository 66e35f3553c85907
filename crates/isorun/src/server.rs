//! The server: one process with one data directory and one engine.

mod audit_log;
mod auth;
pub mod config;
mod connections;
mod destroy_on_drop;
mod early;
pub mod engine;
mod error;
mod exec;
mod extract;
mod files;
mod history;
mod images;
mod lifecycle;
pub mod limits;
mod listen;
mod metrics;
pub mod network;
mod observe;
pub mod openapi;
mod proxy;
mod routes;
mod runs;
mod shell;
mod state;
pub mod strict;
mod validate;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use isorun_engine::{AgentStream, Engine};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use auth::Caller;
pub use config::Config;
pub use error::ApiError;
pub use isorun_api::Code;
pub use listen::Listening;
#[cfg(any(test, feature = "fuzzing"))]
pub use network::fuzz_network;
#[cfg(any(test, feature = "fuzzing"))]
pub use proxy::fuzz_urls;
#[cfg(any(test, feature = "fuzzing"))]
pub use state::archive::fuzz_manifests;
#[cfg(any(test, feature = "fuzzing"))]
pub use validate::fuzz_new_run;

use self::{
    auth::Rates,
    connections::Connections,
    images::Images,
    lifecycle::engine_error,
    limits::{Accounts, guard::Guard},
    metrics::Metrics,
    runs::{LiveRun, Runs},
    state::StateDirs,
};
use crate::{secret::Secret, store::Store};

/// The shared state of all handlers.
pub type App = Arc<Server>;

/// A running or stopping server.
pub struct Server {
    pub config: Config,
    pub store: Store,
    pub secret: Secret,
    pub engine: Arc<dyn Engine>,
    images: Images,
    runs: Arc<Runs>,
    state_dirs: StateDirs,
    rates: Rates,
    /// The client of the servers in sandboxes, for the URLs of their ports.
    ports: proxy::PortClient,
    accounts: Accounts,
    guard: Guard,
    connections: Arc<Connections>,
    metrics: Metrics,
    /// Cancelled when the server stops and accepts no new runs.
    pub stopping: CancellationToken,
    /// Tasks that are independent of requests. Stopping waits for them.
    tasks: TaskTracker,
    /// The lock of the data directory, held while the server runs.
    _lock: std::fs::File,
}

impl Server {
    /// Opens the data directory, and recovers the runs of an earlier server process.
    pub async fn open(config: Config, engine: Arc<dyn Engine>, lock: std::fs::File) -> Result<App> {
        let store = Store::open(&config.data_dir).with_context(|| {
            format!("cannot open the data directory {}", config.data_dir.display())
        })?;
        let runs = Arc::new(Runs::new(&config.limits));
        let accounts = Accounts::new(&config.limits);
        let app = Arc::new(Self {
            secret: Secret::open(&config.data_dir)?,
            images: Images::open(&config.data_dir, &config.pulls)?,
            ports: proxy::PortClient::new(
                Arc::clone(&engine),
                Arc::clone(&runs),
                Arc::clone(&accounts.descriptors),
            ),
            runs,
            state_dirs: StateDirs::open(&config.data_dir)?,
            rates: Rates::new(config.limits.requests),
            accounts,
            connections: Arc::new(Connections::new(&config.limits.server)),
            guard: Guard::new(&config.limits.server, config.limits.server.descriptors),
            metrics: Metrics::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _lock: lock,
            store,
            engine,
            config,
        });
        app.config.network.blocks.start(&app);
        lifecycle::recover(&app).await?;
        Guard::start(&app).context("cannot start the thread that guards the machine")?;
        app.tasks.spawn(history::run_retention(Arc::downgrade(&app)));
        Ok(app)
    }

    /// Opens a connection to the agent of a run, counted for its tenant.
    async fn connect(&self, run: &LiveRun) -> Result<AgentStream, ApiError> {
        let hold = limits::descriptors::agent_connection(&self.accounts.descriptors, &run.tenant)?;
        let stream = self.engine.connect(&run.sandbox).await;
        let stream = stream.map_err(|error| engine_error("cannot reach the sandbox", error))?;
        Ok(Box::new(limits::descriptors::CountedStream::new(stream, hold)))
    }

    /// Stops the server, after its requests have completed.
    pub async fn close(self: &Arc<Self>) {
        self.stopping.cancel();
        self.end_sandboxes().await;
        if !self.config.keep_sandboxes {
            // Waits until operations in progress are recorded.
            self.tasks.close();
            let _ = timeout(Duration::from_secs(5), self.tasks.wait()).await;
        }
        self.engine.shutdown().await;
    }

    /// Destroys all sandboxes, unless they are kept.
    async fn end_sandboxes(self: &Arc<Self>) {
        if !self.config.keep_sandboxes {
            lifecycle::destroy_all(self, "the server was stopped").await;
        }
    }
}

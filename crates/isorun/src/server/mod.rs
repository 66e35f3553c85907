//! The server: one process, one folder of data, one engine.

mod audit_log;
mod auth;
pub mod config;
mod connections;
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
mod newborn;
mod observe;
pub mod openapi;
mod order;
mod proxy;
mod routes;
mod runs;
mod shell;
mod state;
pub mod strict;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use isorun_engine::{AgentStream, Engine};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use auth::Caller;
pub use config::Config;
pub use error::{ApiError, Code};
pub use listen::Listening;
#[cfg(any(test, feature = "fuzzing"))]
pub use network::fuzz_network;
#[cfg(any(test, feature = "fuzzing"))]
pub use order::fuzz_new_run;
#[cfg(any(test, feature = "fuzzing"))]
pub use proxy::fuzz_urls;
#[cfg(any(test, feature = "fuzzing"))]
pub use state::archive::fuzz_manifests;

use self::{
    auth::Rates,
    connections::Connections,
    images::Images,
    lifecycle::engine_error,
    limits::{Accounts, guard::Guard},
    metrics::Metrics,
    runs::{LiveRun, Runs},
    state::Places,
};
use crate::{secret::Secret, store::Store};

/// What all handlers share.
pub type App = Arc<Server>;

/// A server that is open for business, or stopping.
pub struct Server {
    pub config: Config,
    pub store: Store,
    pub secret: Secret,
    pub engine: Arc<dyn Engine>,
    images: Images,
    runs: Arc<Runs>,
    places: Places,
    rates: Rates,
    /// What the URLs of runs lead to.
    ports: proxy::Ports,
    accounts: Accounts,
    guard: Guard,
    connections: Arc<Connections>,
    metrics: Metrics,
    /// No new runs, please.
    pub stopping: CancellationToken,
    /// What goes on apart from requests; a stop waits for it.
    tasks: TaskTracker,
    /// Held while the server lives: one server for a folder.
    _lock: std::fs::File,
}

impl Server {
    /// Opens the data folder, starts the engine, and takes over what a server
    /// before this one left.
    pub async fn open(config: Config, engine: Arc<dyn Engine>, lock: std::fs::File) -> Result<App> {
        let store = Store::open(&config.data_dir).with_context(|| {
            format!("cannot open the data folder {}", config.data_dir.display())
        })?;
        let runs = Arc::new(Runs::new(&config.limits));
        let accounts = Accounts::new(&config.limits);
        let app = Arc::new(Self {
            secret: Secret::open(&config.data_dir)?,
            images: Images::open(&config.data_dir, &config.pulls)?,
            ports: proxy::Ports::new(
                Arc::clone(&engine),
                Arc::clone(&runs),
                Arc::clone(&accounts.descriptors),
            ),
            runs,
            places: Places::open(&config.data_dir)?,
            rates: Rates::new(config.limits.requests),
            accounts,
            connections: Arc::new(Connections::new(&config.limits.server)),
            guard: Guard::new(&config.limits.server, config.limits.server.division),
            metrics: Metrics::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            _lock: lock,
            store,
            engine,
            config,
        });
        app.config.network.blocks.record(&app);
        lifecycle::recover(&app).await?;
        Guard::start(&app).context("cannot start the thread that guards the machine")?;
        app.tasks.spawn(history::forget_old(Arc::downgrade(&app)));
        Ok(app)
    }

    /// A new connection to the agent of a run, counted as its tenant's.
    async fn connect(&self, run: &LiveRun) -> Result<AgentStream, ApiError> {
        let hold = limits::descriptors::agent_connection(&self.accounts.descriptors, &run.tenant)?;
        let stream = self.engine.connect(&run.sandbox).await;
        let stream = stream.map_err(|error| engine_error("cannot reach the sandbox", error))?;
        Ok(Box::new(limits::descriptors::Counted::new(stream, hold)))
    }

    /// Ends what goes on. Requests have ended before.
    pub async fn close(self: &Arc<Self>) {
        self.stopping.cancel();
        self.end_sandboxes().await;
        if !self.config.keep_sandboxes {
            // What was begun is put on record.
            self.tasks.close();
            let _ = timeout(Duration::from_secs(5), self.tasks.wait()).await;
        }
        self.engine.shutdown().await;
    }

    /// Destroys every sandbox, unless they are to live on.
    async fn end_sandboxes(self: &Arc<Self>) {
        if !self.config.keep_sandboxes {
            lifecycle::destroy_all(self, "the server was stopped").await;
        }
    }
}

//! The isorun server: Linux sandboxes and interpreters over HTTP.
//!
//! ```text
//! http    routes, authentication, exec, shell, files, proxy, OpenAPI    the only user of axum
//!  └▶ core    sandboxes, life cycle, fork, hibernation, snapshots, images, limits of tenants
//!      └▶ store    the database: runs, keys, snapshots and audit logs
//! ```
//!
//! | to change | start in |
//! |---|---|
//! | a route or a response | `http/routes.rs`; its body is in the crate `isorun-api` |
//! | authentication, limits of requests and connections | `http/auth.rs`, `http/limits.rs`, `http/connections.rs` |
//! | commands, shells, files, URLs of ports | `http/exec.rs`, `http/shell.rs`, `http/files.rs`, `http/proxy.rs` |
//! | what happens to a sandbox | `core.rs`, which lists the modules by layer |
//! | how a sandbox is created | `core/new_sandbox.rs`, for `create`, `fork` and `restore` alike |
//! | a table or a query | `store.rs`, `store/schema.rs` |
//! | what the operator sets | `config.rs`; its option is in the crate `isorun` |
//!
//! What must stay true (the tests are in `crates/isorun/tests`):
//!
//! - `core` does not use `http`, and `store` uses neither. (`cargo xtask check edges`)
//! - A run has its row before it has a sandbox, and loses its sandbox before its row is
//!   closed: after a crash, each is found by the other. (tests `state`)
//! - A run of another tenant looks like one that does not exist. (tests `keys`)
//! - The range of a limit of a sandbox is the engine's (`SandboxSpec`); only
//!   [`config::Limits`] restricts it. (unit tests of `core/create_params.rs`)
//! - Whatever a caller can make the server hold is counted in `core/accounts.rs` or
//!   `core/guard.rs`. (tests `tenants`, `hostile`)
//! - Unknown fields, parameters and frames are refused. (tests `unknown`; fuzz target
//!   `requests`)
//! - A restored checkpoint was signed by this server for this owner. (unit tests of
//!   `core/archive.rs`; fuzz target `manifests`)
//!
//! The library is made for the `isorun` command only.

pub mod clock;
pub mod config;
mod core;
pub mod data_dir;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
pub mod secret;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
pub mod store;
mod strict_json;

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use isorun_blobs::{BlobOptions, Collected};
use isorun_engine::Capabilities;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use self::{
    config::Config,
    core::{Core, block_reports::BlockReporter, cluster::Member},
    http::{App, Http, Peers},
    secret::Secret,
    store::{Postgres, PostgresUrl, Store},
};

/// A bound socket that is not served yet.
pub struct Listening(http::Listener);

impl Listening {
    /// Binds the socket, and reads the certificate.
    pub async fn bind(config: &Config) -> Result<Self> {
        http::Listener::bind(config).await.map(Self)
    }

    /// Returns the URL of the server.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Serves until the server stops, then waits for requests in progress for the grace
    /// period. Meanwhile it accepts connections, to respond that it is stopping.
    pub async fn serve(self, server: &Server) -> Result<()> {
        self.0.serve(&server.0).await
    }
}

/// A running or stopping server; cheap to clone.
#[derive(Clone)]
pub struct Server(App);

impl Server {
    /// Starts the engine, opens the data directory, and recovers the runs of an earlier
    /// server process. The server holds the lock of the data directory.
    pub async fn open(config: Config, lock: File) -> Result<Self> {
        let reports = BlockReporter::default();
        // First, so that a wrong option is reported at once.
        let member = match &config.cluster {
            Some(cluster) => Some(Member::connect(cluster, &config.data_dir).await?),
            None => None,
        };
        let engines = core::start_engines::start(&config, Arc::new(reports.clone())).await?;
        let peers = match member.as_ref().zip(config.cluster.as_ref()) {
            Some((member, cluster)) => Some(Peers::bind(cluster, &member.identity).await?),
            None => None,
        };
        let member = member.zip(peers.as_ref().map(Peers::url));
        let core = Core::open(config, Arc::new(engines), reports, lock, member).await?;
        Ok(Self(Http::new(core, peers)))
    }

    /// Reports whether the cluster has declared this node dead: it has to be started again.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.0.core.is_fenced()
    }

    /// Returns the id of this node, and the URL at which other nodes reach it; `None` if it is
    /// not in a cluster.
    #[must_use]
    pub fn node(&self) -> Option<(String, String)> {
        let cluster = self.0.core.cluster.as_ref()?;
        Some((cluster.node.to_string(), self.0.core.node_url.clone()?))
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.core.config
    }

    /// Returns the name, version and isolation of the engine.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.0.core.engines.capabilities()
    }

    /// Returns why the server has no Linux sandboxes; `None` if it has them.
    #[must_use]
    pub fn linux_unavailable(&self) -> Option<&str> {
        self.0.core.engines.linux_unavailable()
    }

    /// Returns the images of the interpreters that the server offers.
    #[must_use]
    pub fn interpreters(&self) -> Vec<&'static str> {
        self.0.core.engines.offered_images()
    }

    /// Returns the database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.core.store
    }

    /// Returns the secret.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0.core.secret
    }

    /// Returns the token that stops the server when it is cancelled.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.core.stopping
    }

    /// Stops the server, after its requests have completed.
    pub async fn close(&self) {
        self.0.core.close().await;
    }
}

/// Opens the database and the secret of a cluster, without joining it. `roots` is a file with
/// additional certificate authorities of the database's server.
pub async fn open_cluster(url: &PostgresUrl, roots: Option<&Path>) -> Result<(Postgres, Secret)> {
    let (database, secrets) = core::cluster::open_database(url, roots, Duration::ZERO).await?;
    let secret = Secret::parse(&secrets.secret)?;
    Ok((database, secret))
}

/// Writes, reads, lists and deletes an object in the object store of a cluster. Returns what
/// fails, and what to do about it.
pub async fn check_object_store(url: &str, secret: &Secret) -> Result<Vec<String>> {
    let cache = tempfile::tempdir()?;
    let opened = core::open_blobs(url, secret, BlobOptions::new(cache.path())).await;
    let blobs = match opened {
        Ok(blobs) => blobs,
        Err(error) => return Ok(vec![format!("{error:#}")]),
    };
    let steps = blobs.check().await.steps.into_iter();
    let failed = steps.filter_map(|step| {
        let (error, advice) = (step.error?, step.advice.unwrap_or_default());
        Some(format!("it cannot {}: {error}; {advice}", step.operation))
    });
    Ok(failed.collect())
}

/// Deletes what nothing in the database of a cluster refers to from its object store.
pub async fn collect_garbage(url: &str, database: &Postgres, secret: &Secret) -> Result<Collected> {
    let cache = tempfile::tempdir()?;
    let blobs = core::open_blobs(url, secret, BlobOptions::new(cache.path())).await?;
    core::uploads::collect_garbage(database, &blobs).await
}

/// Returns the OpenAPI description of the HTTP API.
#[must_use]
pub fn openapi() -> OpenApi {
    http::document()
}

//! The HTTP API: routes, authentication, limits of requests, commands, shells, files, and
//! the proxy to ports of sandboxes. What it serves is in [`core`](crate::core).

mod audit_log;
mod auth;
mod body;
mod code;
mod connections;
mod contexts;
mod early;
mod elsewhere;
mod error;
mod exec;
mod extract;
mod files;
mod health;
mod json_body;
mod limits;
mod listen;
mod metrics;
mod network;
mod observe;
mod openapi;
mod operations;
mod owner;
mod peers;
mod proxy;
mod routes;
mod runs;
mod shell;
mod state;

use std::sync::Arc;

#[cfg(any(test, feature = "fuzzing"))]
pub use code::fuzz_guest_event;
pub use listen::Listener;
pub use peers::Peers;
#[cfg(any(test, feature = "fuzzing"))]
pub use proxy::fuzz_urls;
pub use routes::document;

use self::{connections::Connections, metrics::RequestMetrics, proxy::PortClient};
use crate::core::Core;

/// The shared state of all handlers.
pub type App = Arc<Http>;

/// The state of the HTTP API.
pub struct Http {
    pub core: Arc<Core>,
    /// The client of the servers in sandboxes, for the URLs of their ports.
    ports: PortClient,
    connections: Arc<Connections>,
    metrics: RequestMetrics,
    /// The connections with the other nodes of the cluster.
    peers: Option<Peers>,
}

impl Http {
    pub fn new(core: Arc<Core>, peers: Option<Peers>) -> App {
        let limits = &core.config.limits;
        Arc::new(Self {
            ports: PortClient::new(
                Arc::clone(&core.engines),
                Arc::clone(&core.runs),
                Arc::clone(&core.accounts.descriptors),
            ),
            connections: Arc::new(Connections::new(&limits.server)),
            metrics: RequestMetrics::new(),
            peers,
            core,
        })
    }
}

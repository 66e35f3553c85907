//! The state that the proxies of all sandboxes share: the resolver, the permitted
//! private ranges, the observer and the budgets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::budget::{self, Budget};
use super::resolver::Resolver;
use super::upstream::UpstreamTls;
use super::{Observer, address};

/// The configuration of the proxies of an engine.
#[derive(Clone)]
pub struct ProxyOptions {
    /// The upstream resolvers; those of the machine if empty.
    pub resolvers: Vec<SocketAddr>,
    /// The ranges that are not public and that rules may allow all the same.
    pub permitted: Vec<Ipv4Net>,
    /// A PEM file with certificates of further authorities that are trusted, beside those
    /// of the machine, for the servers to which secrets are sent.
    pub extra_roots: Option<std::path::PathBuf>,
    /// The receiver of reports about blocked connections.
    pub observer: Option<Arc<dyn Observer>>,
    /// The time until a host has to start its response to a request with a secret.
    pub response_timeout: Duration,
    /// The maximum number of file descriptors for connections of all sandboxes together;
    /// if `None`, half of the limit of the process when the engine starts.
    pub max_descriptors: Option<usize>,
    /// The maximum number of file descriptors for connections of one sandbox: two for
    /// each. Never more than half of those for all sandboxes.
    pub max_descriptors_per_sandbox: usize,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            permitted: Vec::new(),
            extra_roots: None,
            observer: None,
            response_timeout: Duration::from_secs(600),
            max_descriptors: None,
            max_descriptors_per_sandbox: budget::MAX_DESCRIPTORS_PER_SANDBOX,
        }
    }
}

impl std::fmt::Debug for ProxyOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyOptions")
            .field("resolvers", &self.resolvers)
            .field("permitted", &self.permitted)
            .finish_non_exhaustive()
    }
}

/// The state that all proxies share.
pub struct ProxyContext {
    pub(super) resolver: Resolver,
    pub(super) permitted: Vec<Ipv4Net>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) upstream: UpstreamTls,
    pub(super) response_timeout: Duration,
    pub(super) descriptors: Arc<Budget>,
    pub(super) queries: Arc<Budget>,
}

impl ProxyContext {
    /// Creates the resolver, the trust store and the budgets.
    ///
    /// # Errors
    ///
    /// A message for the operator: the option that is not valid, and why.
    pub fn new(options: &ProxyOptions) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            resolver: Resolver::new(&options.resolvers)?,
            permitted: options.permitted.clone(),
            observer: options.observer.clone(),
            upstream: UpstreamTls::new(options.extra_roots.as_deref())?,
            response_timeout: options.response_timeout,
            descriptors: Budget::descriptors(
                options.max_descriptors,
                options.max_descriptors_per_sandbox,
            ),
            queries: Budget::queries(),
        }))
    }

    /// Reports whether rules can allow an address: it is public, or in a permitted range.
    pub(super) fn is_reachable(&self, address: Ipv4Addr) -> bool {
        address::is_public(address) || address::within(&self.permitted, address)
    }
}

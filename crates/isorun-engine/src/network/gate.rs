//! What all sandboxes' proxies share: how to resolve, what is permitted, whom to
//! tell.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::budget::{self, Budget};
use super::resolver::Resolver;
use super::wire::Upstream;
use super::{Observer, address};

/// How the proxies of an engine are set up.
#[derive(Clone)]
pub struct Options {
    /// Resolvers to ask; those of the machine if there are none.
    pub resolvers: Vec<SocketAddr>,
    /// Ranges that are not public and that rules may name all the same.
    pub permitted: Vec<Ipv4Net>,
    /// Certificates, as PEM, of authorities that vouch for servers to which
    /// secrets go, beside those of the machine.
    pub extra_roots: Option<std::path::PathBuf>,
    /// Who wants to know what was not let through.
    pub observer: Option<Arc<dyn Observer>>,
    /// How long a host may take until its answer to a request with a secret begins.
    pub patience: Duration,
    /// File descriptors that connections of all sandboxes take together, at most;
    /// half of what the process may have open when the engine starts, if not given.
    pub max_descriptors: Option<usize>,
    /// File descriptors that the connections of one sandbox take, at most: two for
    /// each. Never more than half of those for all.
    pub max_descriptors_per_sandbox: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            permitted: Vec::new(),
            extra_roots: None,
            observer: None,
            patience: Duration::from_secs(600),
            max_descriptors: None,
            max_descriptors_per_sandbox: budget::MAX_DESCRIPTORS_PER_SANDBOX,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("resolvers", &self.resolvers)
            .field("permitted", &self.permitted)
            .finish_non_exhaustive()
    }
}

/// What all proxies share.
pub struct Gate {
    pub(super) resolver: Resolver,
    pub(super) permitted: Vec<Ipv4Net>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) upstream: Upstream,
    pub(super) patience: Duration,
    pub(super) descriptors: Arc<Budget>,
    pub(super) questions: Arc<Budget>,
}

impl Gate {
    /// Sets it up.
    ///
    /// # Errors
    ///
    /// A text for the operator: what cannot be used.
    pub fn open(options: &Options) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            resolver: Resolver::new(&options.resolvers)?,
            permitted: options.permitted.clone(),
            observer: options.observer.clone(),
            upstream: Upstream::open(options.extra_roots.as_deref())?,
            patience: options.patience,
            descriptors: Budget::descriptors(
                options.max_descriptors,
                options.max_descriptors_per_sandbox,
            ),
            questions: Budget::questions(),
        }))
    }

    /// Whether a sandbox may learn that a name has this address.
    pub(super) fn may_be_told(&self, address: Ipv4Addr) -> bool {
        address::is_public(address) || address::within(&self.permitted, address)
    }
}

//! The state of the egress proxy of one sandbox: its rules, the names that it has
//! resolved, its share of descriptors and queries, and what is decided from them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hickory_resolver::proto::rr::{Record, RecordType};
use isorun_agent::SandboxId;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::budget::BudgetShare;
use super::context::ProxyContext;
use super::names::NameTable;
use super::policy::{Connection, Reason, Verdict};
use super::rate::RateLimiter;
use super::resolver::{ResolveError, ResolvedName};
use super::{Blocked, Plan, upstream};

/// Maximum time to connect to an upstream server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The egress proxy of one sandbox.
pub struct EgressProxy {
    pub(super) id: SandboxId,
    pub(super) context: Arc<ProxyContext>,
    pub(super) plan: RwLock<Arc<Plan>>,
    names: Mutex<NameTable>,
    /// Incremented to reset all open connections.
    pub(super) resets: watch::Sender<u64>,
    /// The number of [`QuiesceGuard`]s.
    pub(super) quiesced: watch::Sender<usize>,
    /// The number of open connections.
    pub(super) open: watch::Sender<usize>,
    blocked: AtomicU64,
    pub(super) allowed: AtomicU64,
    /// File descriptors of its connections.
    pub(super) descriptors: BudgetShare,
    /// Pending queries to upstream resolvers.
    queries: BudgetShare,
    /// The rate of queries to upstream resolvers.
    rate: Mutex<RateLimiter>,
}

/// A guard during whose lifetime the sandbox has no connections.
#[derive(Debug)]
pub struct QuiesceGuard(Arc<EgressProxy>);

impl Drop for QuiesceGuard {
    fn drop(&mut self) {
        self.0.quiesced.send_modify(|count| *count -= 1);
    }
}

impl std::fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EgressProxy({})", self.id)
    }
}

impl EgressProxy {
    /// Creates a proxy. It handles connections once [`serve`](Self::serve) runs.
    #[must_use]
    pub fn new(id: SandboxId, context: Arc<ProxyContext>, plan: Plan) -> Arc<Self> {
        let (descriptors, queries) = (context.descriptors.share(), context.queries.share());
        Arc::new(Self {
            id,
            context,
            descriptors,
            queries,
            rate: Mutex::default(),
            plan: RwLock::new(Arc::new(plan)),
            names: Mutex::default(),
            resets: watch::Sender::default(),
            quiesced: watch::Sender::default(),
            open: watch::Sender::default(),
            blocked: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
        })
    }

    /// Returns the current network configuration.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the network configuration and resets all open connections, which were
    /// allowed by the old rules.
    pub fn set_plan(&self, plan: Plan) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
        *self.names() = NameTable::default();
        self.resets.send_modify(|count| *count += 1);
    }

    /// Returns the numbers of allowed and of blocked connections.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.allowed.load(Ordering::Relaxed), self.blocked.load(Ordering::Relaxed))
    }

    /// Resets all connections, and refuses new ones until the guard is dropped.
    pub async fn quiesce(self: &Arc<Self>) -> QuiesceGuard {
        self.quiesced.send_modify(|count| *count += 1);
        let guard = QuiesceGuard(Arc::clone(self));
        self.resets.send_modify(|count| *count += 1);
        let mut open = self.open.subscribe();
        // The sender is a field of `self`, so the channel is not closed.
        let _ = open.wait_for(|open| *open == 0).await;
        guard
    }

    pub(super) fn context(&self) -> &ProxyContext {
        &self.context
    }

    pub(super) fn names(&self) -> MutexGuard<'_, NameTable> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and reports a blocked connection or request.
    pub(super) fn report(&self, name: Option<String>, to: SocketAddrV4, reason: Reason) {
        self.blocked.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = &self.context.observer {
            let blocked = Blocked { name, address: *to.ip(), port: to.port(), reason };
            observer.blocked(&self.id, blocked);
        }
    }

    /// Evaluates the policy for a connection.
    pub(super) fn decide(&self, plan: &Plan, connection: Connection<'_>) -> Result<(), Reason> {
        match plan.policy.decide(connection, &self.context.permitted) {
            Verdict::Allow => Ok(()),
            Verdict::Deny(reason) => Err(reason),
        }
    }

    /// Verifies a claimed name by its addresses, and evaluates the policy.
    /// `is_tls_or_http` is set if a rule by name can allow the connection.
    pub(super) async fn check_name(
        &self,
        plan: &Plan,
        to: SocketAddrV4,
        claimed: Option<&str>,
        known: &[String],
        is_tls_or_http: bool,
    ) -> Result<(), Reason> {
        let verified = match claimed {
            Some(claimed) if known.iter().any(|known| known == claimed) => true,
            Some(claimed)
                if plan.policy.resolves(claimed) || plan.credentials.has_host(claimed) =>
            {
                self.addresses(claimed)
                    .await
                    .is_ok_and(|resolved| resolved.addresses.contains(to.ip()))
            }
            _ => false,
        };
        let (address, port) = (*to.ip(), to.port());
        let connection = Connection { address, port, claimed, verified, known, is_tls_or_http };
        // A credential allows its own host, unless a rule denies it.
        let own =
            claimed.or(known.first().map(String::as_str)).filter(|_| claimed.is_none() || verified);
        match self.decide(plan, connection) {
            Err(Reason::Unlisted | Reason::Nameless)
                if is_tls_or_http
                    && own.is_some_and(|name| plan.credentials.has_host_port(name, port)) =>
            {
                Ok(())
            }
            verdict => verdict,
        }
    }

    /// Connects to an allowed destination, from outside the sandbox's namespace.
    pub(super) async fn connect(&self, to: SocketAddrV4) -> io::Result<TcpStream> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(to))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Creates an HTTP client that verifies the certificate of the host.
    pub(super) fn tls_client(&self, to: SocketAddrV4, name: &str) -> upstream::HttpClient {
        upstream::client(self.context.upstream.connector(to, name, self.descriptors.clone()))
    }

    /// Returns the maximum time until a host starts its response to a request with a secret.
    pub(super) fn response_timeout(&self) -> Duration {
        self.context.response_timeout
    }

    /// Resolves a name to an address that rules can allow.
    pub(super) async fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let resolved = self.addresses(name).await.ok()?;
        resolved.addresses.into_iter().find(|address| self.context.is_reachable(*address))
    }

    /// Queries the upstream resolver for the addresses of a name.
    pub(super) async fn addresses(&self, name: &str) -> Result<ResolvedName, ResolveError> {
        self.limited(self.context.resolver.addresses(name)).await
    }

    /// Queries the upstream resolver for records of a name.
    pub(super) async fn records(
        &self,
        name: &str,
        kind: RecordType,
    ) -> Result<Vec<Record>, ResolveError> {
        self.limited(self.context.resolver.records(name, kind)).await
    }

    /// Runs a query within the limits of the sandbox on upstream queries.
    async fn limited<T>(
        &self,
        query: impl Future<Output = Result<T, ResolveError>>,
    ) -> Result<T, ResolveError> {
        let within_rate = self
            .rate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_take(std::time::Instant::now());
        let Some(_permit) = self.queries.try_acquire(1).filter(|_| within_rate) else {
            return Err(ResolveError::TooManyQueries);
        };
        query.await
    }
}

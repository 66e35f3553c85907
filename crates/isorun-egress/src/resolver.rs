//! The upstream DNS resolver: that of the machine, or servers that the operator sets. One
//! for the engine; answers are cached for their TTL.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};

/// Maximum time for one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum number of cached answers, for all sandboxes.
const MAX_CACHED_ANSWERS: u64 = 4096;
/// Maximum time that an answer is cached.
const MAX_CACHE_TTL: Duration = Duration::from_secs(3600);
/// Maximum number of pending queries on one connection to a server.
const MAX_PENDING_QUERIES: usize = 1024;

/// A caching DNS client.
pub struct Resolver(TokioResolver);

/// The addresses and aliases of a name.
#[derive(Clone, Debug, Default)]
pub struct ResolvedName {
    /// The addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The names that it is an alias of (CNAME), in the order of the chain.
    pub aliases: Vec<String>,
    /// The minimum TTL of the records, in seconds.
    pub ttl: u32,
}

/// An error of a DNS query.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist.
    #[error("the name does not exist")]
    NoSuchName,
    /// The name has no records of the requested type.
    #[error("the name has no records of the requested type")]
    NoData,
    /// The sandbox sends too many queries.
    #[error("too many queries")]
    TooManyQueries,
    /// The upstream resolver failed or did not answer in time.
    #[error("the upstream resolver failed: {0}")]
    Failed(String),
}

impl ResolvedName {
    /// Collects the addresses and aliases in the records of an answer.
    #[must_use]
    pub fn from_records(records: &[Record]) -> Self {
        let mut answer = Self { ttl: u32::MAX, ..Self::default() };
        for record in records {
            answer.ttl = answer.ttl.min(record.ttl);
            match &record.data {
                RData::A(address) => answer.addresses.push(address.0),
                RData::CNAME(alias) => {
                    answer.aliases.push(alias.0.to_ascii().trim_end_matches('.').to_lowercase());
                }
                _ => {}
            }
        }
        answer
    }
}

impl Resolver {
    /// Creates a resolver that queries these servers, or those of the machine if empty.
    ///
    /// # Errors
    ///
    /// The machine's configuration cannot be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().unwrap_or_else(|error| {
                // No name is resolved then; addresses can still be reached.
                tracing::warn!(%error, "this machine has no usable DNS resolver: sandboxes cannot resolve names");
                let config = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
                Hickory::builder_with_config(config, TokioRuntimeProvider::default())
            })
        } else {
            let servers = servers
                .iter()
                .map(|server| {
                    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                    let connections = connections.map(|mut connection| {
                        connection.port = server.port();
                        connection
                    });
                    NameServerConfig::new(server.ip(), true, connections.to_vec())
                })
                .collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            Hickory::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4Only;
        options.timeout = Duration::from_secs(2);
        options.attempts = 2;
        options.ndots = 0;
        options.cache_size = MAX_CACHED_ANSWERS;
        options.positive_max_ttl = Some(MAX_CACHE_TTL);
        options.negative_max_ttl = Some(MAX_CACHE_TTL);
        // High enough that a sandbox whose queries time out does not block others: pending
        // queries are limited per sandbox elsewhere.
        options.max_active_requests = options.max_active_requests.max(MAX_PENDING_QUERIES);
        // The hosts file of the machine is not for sandboxes.
        options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        builder.build().map(Self).map_err(|error| error.to_string())
    }

    /// Returns the addresses of a name.
    ///
    /// # Errors
    ///
    /// There are none, or the query failed.
    pub async fn addresses(&self, name: &str) -> Result<ResolvedName, ResolveError> {
        let records = self.records(name, RecordType::A).await?;
        let answer = ResolvedName::from_records(&records);
        if answer.addresses.is_empty() { Err(ResolveError::NoData) } else { Ok(answer) }
    }

    /// Reports whether a name has an address.
    pub async fn has(&self, name: &str, address: Ipv4Addr) -> bool {
        self.addresses(name).await.is_ok_and(|answer| answer.addresses.contains(&address))
    }

    /// Returns the records of a name that have the given type.
    ///
    /// # Errors
    ///
    /// There are none, or the query failed.
    pub async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<Record>, ResolveError> {
        // Built from labels: parsed from text it would have to be an IDNA name, which cannot
        // contain an underscore. Fully qualified, so no search domain of the machine is
        // appended.
        let labels = name.split('.').map(str::as_bytes);
        let lookup = Name::from_labels(labels)
            .map_err(|error| ResolveError::Failed(error.to_string()))
            .map(|mut name| {
                name.set_fqdn(true);
                self.0.lookup(name, kind)
            })?;
        match tokio::time::timeout(QUERY_TIMEOUT, lookup).await {
            Ok(Ok(lookup)) => Ok(lookup.answers().to_vec()),
            Ok(Err(error)) if error.is_nx_domain() => Err(ResolveError::NoSuchName),
            Ok(Err(error)) if error.is_no_records_found() => Err(ResolveError::NoData),
            Ok(Err(error)) => Err(ResolveError::Failed(error.to_string())),
            Err(_) => Err(ResolveError::Failed(format!("no answer within {QUERY_TIMEOUT:?}"))),
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

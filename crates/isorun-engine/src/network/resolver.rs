//! Names to addresses, asked of the machine's resolver or one that the operator
//! names. One for the whole engine; its answers are kept as long as they say.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Answers that are kept, of all sandboxes, and for how long.
const CACHED: u64 = 4096;
const LONGEST: Duration = Duration::from_secs(3600);
/// Questions under way on one connection to a resolver.
const UNDER_WAY: usize = 1024;

/// Asks, and remembers.
pub struct Resolver(TokioResolver);

/// What a name has.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The names that it is an alias of, one after the other.
    pub aliases: Vec<String>,
    /// How long this holds, in seconds.
    pub ttl: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// There is no such name.
    #[error("there is no such name")]
    NoName,
    /// There is nothing of that kind under the name.
    #[error("there is nothing of that kind under the name")]
    NoData,
    /// The sandbox asks too much.
    #[error("too many questions")]
    TooMany,
    /// Nobody answers.
    #[error("the resolver does not answer: {0}")]
    Failed(String),
}

impl Answer {
    /// Reads the records of an answer.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
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
    /// One that asks these servers, or those of the machine if there are none.
    ///
    /// # Errors
    ///
    /// The machine's configuration cannot be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().unwrap_or_else(|error| {
                // Then no name is resolved; addresses can be reached all the same.
                tracing::warn!(%error, "this machine has no resolver that can be used");
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
        options.cache_size = CACHED;
        options.positive_max_ttl = Some(LONGEST);
        options.negative_max_ttl = Some(LONGEST);
        // A sandbox that asks for what nobody answers is not in the way of others:
        // what is under way is counted elsewhere.
        options.max_active_requests = options.max_active_requests.max(UNDER_WAY);
        // What the machine calls by a name of its own is no business of a guest.
        options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        builder.build().map(Self).map_err(|error| error.to_string())
    }

    /// The addresses of a name.
    ///
    /// # Errors
    ///
    /// There are none, or nobody answers.
    pub async fn addresses(&self, name: &str) -> Result<Answer, Unanswered> {
        let records = self.records(name, RecordType::A).await?;
        let answer = Answer::of(&records);
        if answer.addresses.is_empty() { Err(Unanswered::NoData) } else { Ok(answer) }
    }

    /// Whether a name has an address.
    pub async fn has(&self, name: &str, address: Ipv4Addr) -> bool {
        self.addresses(name).await.is_ok_and(|answer| answer.addresses.contains(&address))
    }

    /// All that is under a name, of one kind.
    ///
    /// # Errors
    ///
    /// There is nothing, or nobody answers.
    pub async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<Record>, Unanswered> {
        // By its labels, as it is: as a text it would have to be a name of IDNA, which
        // knows no underscore. It is whole: no domain of the machine's is appended.
        let labels = name.split('.').map(str::as_bytes);
        let asked = Name::from_labels(labels)
            .map_err(|error| Unanswered::Failed(error.to_string()))
            .map(|mut name| {
                name.set_fqdn(true);
                self.0.lookup(name, kind)
            })?;
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(lookup)) => Ok(lookup.answers().to_vec()),
            Ok(Err(error)) if error.is_nx_domain() => Err(Unanswered::NoName),
            Ok(Err(error)) if error.is_no_records_found() => Err(Unanswered::NoData),
            Ok(Err(error)) => Err(Unanswered::Failed(error.to_string())),
            Err(_) => Err(Unanswered::Failed("in time".to_owned())),
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

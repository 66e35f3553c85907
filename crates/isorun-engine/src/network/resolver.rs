//! Names to addresses, asked of the machine's resolver or one that the operator
//! names. One for the whole engine; its answers are kept as long as they say.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(4);

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
    /// There is no such name, or nothing of that kind under it.
    #[error("there is nothing under that name")]
    Nothing,
    /// Nobody answers.
    #[error("the resolver does not answer: {0}")]
    Failed(String),
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
        let mut answer = Answer { ttl: u32::MAX, ..Answer::default() };
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
        if answer.addresses.is_empty() { Err(Unanswered::Nothing) } else { Ok(answer) }
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
        // With its dot, no domain of the machine's is appended.
        let asked = self.0.lookup(format!("{name}."), kind);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(lookup)) => Ok(lookup.answers().to_vec()),
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => {
                Err(Unanswered::Nothing)
            }
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

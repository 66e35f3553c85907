//! The configuration of a server.

mod descriptors;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use descriptors::{DescriptorBudget, open_descriptors};

use crate::store::PostgresUrl;

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address of the listening socket.
    pub listen: SocketAddr,
    /// Certificate chain and private key, both as PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The region in API keys and descriptions of runs.
    pub region: String,
    /// The limits of callers.
    pub limits: Limits,
    /// The images that may be pulled.
    pub pulls: PullPolicy,
    /// The URLs of the ports of runs.
    pub urls: Urls,
    /// The network of all runs.
    pub network: NetworkConfig,
    /// If true, sandboxes keep running when the server stops.
    pub keep_sandboxes: bool,
    /// If true, the server offers the interpreters whose runtimes it finds.
    pub interpreters: bool,
    /// The number of sandboxes that are created in advance.
    pub warm: usize,
    /// The number of containers that are created in advance for restoring checkpoints.
    pub warm_copies: usize,
    /// If true, writes the local client configuration if there is none.
    pub write_client_config: bool,
    /// The cluster that the server is a node of.
    pub cluster: Option<ClusterConfig>,
}

/// The cluster of a server.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The database that its nodes share.
    pub database: PostgresUrl,
    /// Additional certificate authorities of the database's server.
    pub database_roots: Option<PathBuf>,
    /// The address of the socket for other nodes.
    pub peer_listen: SocketAddr,
    /// The URL at which other nodes reach that socket; by default of the address from which
    /// the database is reached.
    pub advertise: Option<String>,
    /// The object store in which checkpoints are kept, so that other nodes can use them.
    pub blobs: Option<BlobConfig>,
    /// The time without a renewal of its lease after which a node may be declared dead. It
    /// is, after half as long again.
    pub lease: Duration,
}

/// The object store of a cluster.
#[derive(Clone, Debug)]
pub struct BlobConfig {
    /// `s3://BUCKET/PREFIX` or `file:///DIRECTORY`.
    pub url: String,
    /// The disk space for copies of snapshots of other nodes, in bytes.
    pub max_cache_bytes: u64,
}

/// Network settings of all runs.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// DNS resolvers; those of the machine if empty.
    pub resolvers: Vec<SocketAddr>,
    /// Private address ranges that rules may allow.
    pub permitted: Vec<ipnet::Ipv4Net>,
    /// Additional CA certificates for the hosts of credentials.
    pub extra_roots: Option<PathBuf>,
    /// The longest time until the response of such a host starts.
    pub credential_timeout: Duration,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            permitted: Vec::new(),
            extra_roots: None,
            credential_timeout: Duration::from_secs(600),
        }
    }
}

/// The URLs of the ports of runs.
#[derive(Clone, Debug, Default)]
pub struct Urls {
    /// If true, there are URLs that need no API key.
    pub anonymous: bool,
    /// If true, pages of `/sb/<run>/p/<port>/` share the server's origin, with cookies
    /// and storage, instead of being sandboxed by the browser.
    pub shared_origin: bool,
    /// The domain of which each run has a subdomain.
    pub domain: Option<String>,
    /// The scheme, and the domain with its port, as clients see them; for example of
    /// `https://sandboxes.example`.
    pub base: Option<(String, String)>,
}

/// The images that may be pulled.
#[derive(Clone, Debug)]
pub enum PullPolicy {
    /// None.
    Never,
    /// Images of these registries.
    From(Vec<String>),
    /// Images of all registries.
    Anywhere,
}

/// The minimum rate of a request body.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The longest time without a byte.
    pub stall: Duration,
    /// The lowest average rate after the first `stall`, in bytes per second.
    pub min_rate: u64,
}

/// The limits of callers.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest number of virtual CPUs of a sandbox.
    pub vcpus: u32,
    /// The largest memory of a sandbox, in MiB.
    pub mem_mib: u64,
    /// The largest disk of a sandbox, in MiB.
    pub disk_mib: u64,
    /// Processes and threads of a sandbox.
    pub pids: u32,
    /// Concurrent runs of a tenant.
    pub runs: usize,
    /// Concurrent commands, terminals and transfers of a run.
    pub execs: usize,
    /// Sustained requests per second of a key.
    pub requests: u32,
    /// Concurrent requests of all callers.
    pub in_flight: usize,
    /// Bytes of standard output, and of standard error, in a response.
    pub output: usize,
    /// Bytes of an uploaded file.
    pub upload: u64,
    /// The longest time that requests may take to complete when the server stops.
    pub grace: Duration,
    /// The limits of all callers together.
    pub server: ServerLimits,
}

/// The limits of the server, and their division among tenants.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// The percentage of each total that one tenant may use.
    pub tenant_share: u8,
    /// Sandboxes, running or hibernated.
    pub sandboxes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Concurrent image pulls.
    pub pulls: u64,
    /// Bytes of request bodies and responses that are held in memory.
    pub held_memory: u64,
    /// Bytes of disk that stay free.
    pub disk_reserve: u64,
    /// Bytes of memory that stay free.
    pub mem_reserve: u64,
    /// Processes and threads of the machine that stay free.
    pub pids_reserve: u64,
    /// The division of the process's file descriptors.
    pub descriptors: DescriptorBudget,
    /// Connections of clients.
    pub connections: u64,
    /// Unauthenticated connections of one address.
    pub connections_per_address: usize,
    /// The longest time from opening a connection to the end of the first request's head.
    pub head_timeout: Duration,
    /// The longest time that a connection without a request is kept open.
    pub idle_timeout: Duration,
    /// The longest time that an unauthenticated connection is kept open.
    pub unauthenticated_lifetime: Duration,
    /// The longest time that a client may not read a pending response.
    pub write_stall: Duration,
    /// The slowest allowed rate of a request body.
    pub body_pace: Pace,
    /// The time that destroyed runs and their audit logs are kept.
    pub history_age: Duration,
    /// The number of destroyed runs of a tenant that are kept.
    pub history_runs: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for ServerLimits {
    /// Returns limits for this machine, except those that depend on its disk and its
    /// limit of open files: see [`Self::of_machine`].
    fn default() -> Self {
        let memory = machine_memory();
        Self {
            tenant_share: 50,
            sandboxes: 1000,
            snapshots: 10_000,
            pulls: 8,
            held_memory: (memory / 16).clamp(64 * MIB, GIB),
            disk_reserve: 0,
            mem_reserve: (memory / 20).clamp(128 * MIB, 2 * GIB),
            pids_reserve: (machine_pids() / 10).clamp(512, 8192),
            descriptors: DescriptorBudget::new(1024),
            connections: DescriptorBudget::new(1024).clients,
            connections_per_address: 256,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            unauthenticated_lifetime: Duration::from_secs(120),
            write_stall: Duration::from_secs(60),
            body_pace: Pace { stall: Duration::from_secs(15), min_rate: 1024 },
            history_age: Duration::from_secs(365 * 86400),
            history_runs: 100_000,
        }
    }
}

impl ServerLimits {
    /// Returns limits for this machine, with a disk reserve of a twentieth of the disk,
    /// but 512 MiB to 4 GiB. Raises the process's limit of open files to the maximum.
    pub fn of_machine(data_dir: &Path) -> Self {
        let descriptors = DescriptorBudget::new(descriptors::raise_limit());
        let limits = Self::default();
        let size = statvfs(data_dir).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        Self {
            connections: descriptors.clients,
            sandboxes: descriptors.sandboxes.min(limits.sandboxes),
            disk_reserve: (size / 20).clamp(512 * MIB, 4 * GIB),
            descriptors,
            ..limits
        }
    }

    /// Returns the memory that a tenant's sandboxes may use together, in bytes.
    pub fn tenant_memory(&self) -> u64 {
        share_of(machine_memory().saturating_sub(self.mem_reserve), self.tenant_share)
    }

    /// Returns the part of the free disk space that a tenant may use, in bytes.
    pub fn tenant_disk(&self, data_dir: &Path) -> u64 {
        let free = statvfs(data_dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        share_of(free.saturating_sub(self.disk_reserve), self.tenant_share)
    }
}

/// The smallest share of a total, in its unit: smaller shares would not be useful.
const MIN_SHARE: u64 = 32;

/// Returns a tenant's share of a total, in the unit of the total.
pub fn share_of(total: u64, percent: u8) -> u64 {
    let share = u128::from(total) * u128::from(percent.min(100)) / 100;
    u64::try_from(share).unwrap_or(total).max(MIN_SHARE.min(total))
}

fn statvfs(data_dir: &Path) -> Option<rustix::fs::StatVfs> {
    rustix::fs::statvfs(existing_ancestor(data_dir)).ok()
}

/// Returns the directory, or its nearest ancestor that exists.
fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Returns the machine's memory, in bytes.
pub fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// Returns the number of processes and threads that the kernel allows.
pub fn machine_pids() -> u64 {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(u64::MAX)
    };
    read("pid_max").min(read("threads-max"))
}

impl Config {
    /// Returns the configuration of a server within a command: one user, few requests.
    pub fn embedded(data_dir: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            region: "local".to_owned(),
            limits: Limits {
                vcpus: u32::MAX,
                mem_mib: u64::MAX >> 20,
                disk_mib: u64::MAX >> 20,
                pids: 512,
                runs: 1,
                execs: 256,
                requests: 1000,
                in_flight: 4096,
                output: 8 << 20,
                upload: 4 << 30,
                grace: Duration::from_secs(1),
                // There is only one tenant.
                server: ServerLimits { tenant_share: 100, ..ServerLimits::of_machine(&data_dir) },
            },
            pulls: PullPolicy::Anywhere,
            network: NetworkConfig::default(),
            urls: Urls { anonymous: false, ..Urls::default() },
            keep_sandboxes: false,
            interpreters: true,
            warm: 0,
            warm_copies: 2,
            write_client_config: false,
            cluster: None,
            data_dir,
        }
    }
}

/// The largest JSON body of a request, in bytes.
pub const MAX_JSON_BYTES: usize = 1 << 20;
/// The default number of virtual CPUs of a sandbox.
pub const DEFAULT_VCPUS: u32 = 1;
/// The default memory of a sandbox, in MiB.
pub const DEFAULT_MEM_MIB: u64 = 1024;
/// The default disk of a sandbox, in MiB.
pub const DEFAULT_DISK_MIB: u64 = 10240;
/// The default idle timeout of a run.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The default timeout of a command.
pub const DEFAULT_EXEC_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest number of contexts of a run.
pub const MAX_CONTEXTS: u32 = 16;
/// The bytes of results in one response; further results are left out. A stream has no limit.
pub const MAX_RESULTS_BYTES: usize = 64 << 20;
/// The longest timeout, in seconds: longer ones are likely mistakes.
pub const MAX_TIMEOUT_SECS: f64 = 366.0 * 86400.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_share_has_a_minimum() {
        for (total, percent, share) in
            [(0, 50, 0), (2, 50, 2), (40, 50, 32), (4096, 50, 2048), (4096, 100, 4096)]
        {
            assert_eq!(share_of(total, percent), share, "{percent} % of {total}");
        }
        assert_eq!(share_of(u64::MAX, 100), u64::MAX);
    }
}

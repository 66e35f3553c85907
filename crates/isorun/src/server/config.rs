//! What a server is told when it starts, checked.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::limits::{
    body::Pace,
    descriptors::{Division, raise_limit},
    ledger::share_of,
};

/// Where clients look for a server that they were not told about.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7676";

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    /// Certificate chain and private key, both as PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub data_dir: PathBuf,
    pub region: String,
    pub limits: Limits,
    pub pulls: Pulls,
    pub urls: Urls,
    pub network: Network,
    /// Whether sandboxes live on when the server stops.
    pub keep_sandboxes: bool,
    /// How many sandboxes are made before anybody asks for them.
    pub warm: usize,
    /// How many containers wait for a checkpoint to be restored in them.
    pub warm_copies: usize,
    /// Whether to write the local client configuration when there is none.
    pub write_client_config: bool,
}

/// What all runs' networks share.
#[derive(Clone, Debug)]
pub struct Network {
    /// Resolvers to ask; those of the machine if there are none.
    pub resolvers: Vec<SocketAddr>,
    /// Ranges that are not public and that rules may name all the same.
    pub permitted: Vec<ipnet::Ipv4Net>,
    /// Certificates of authorities that vouch for hosts of credentials.
    pub extra_roots: Option<PathBuf>,
    /// How long such a host may take until its answer begins.
    pub patience: Duration,
    pub blocks: super::network::Blocks,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            permitted: Vec::new(),
            extra_roots: None,
            patience: Duration::from_secs(600),
            blocks: super::network::Blocks::default(),
        }
    }
}

/// How ports of runs are reached from outside.
#[derive(Clone, Debug, Default)]
pub struct Urls {
    /// Whether there are URLs that need no API key.
    pub anonymous: bool,
    /// Whether pages of `/sb/<run>/p/<port>/` share the server's origin, with
    /// their cookies and storage, instead of being sandboxed by the browser.
    pub shared_origin: bool,
    /// The name below which each run has its own.
    pub domain: Option<String>,
    /// The same with its scheme and port, such as `https://sandboxes.example`:
    /// those that clients see.
    pub base: Option<(String, String)>,
}

/// Which images that are not here yet are fetched.
#[derive(Clone, Debug)]
pub enum Pulls {
    Never,
    /// From these registries.
    From(Vec<String>),
    Anywhere,
}

/// What callers may use.
#[derive(Clone, Debug)]
pub struct Limits {
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    /// Processes and threads of one sandbox.
    pub pids: u32,
    /// Runs of one tenant at the same time.
    pub runs: usize,
    /// Commands, terminals and transfers of one run at the same time.
    pub execs: usize,
    /// Requests of one key in a second, over time.
    pub requests: u32,
    /// Requests of all callers at the same time.
    pub in_flight: usize,
    /// Each of standard output and standard error, in one answer.
    pub output: usize,
    /// One uploaded file.
    pub upload: u64,
    /// How long requests may still go on when the server stops.
    pub grace: Duration,
    /// What all callers share.
    pub server: ServerLimits,
}

/// Totals of the server, and how they are divided among tenants.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Percent of each total that one tenant may hold.
    pub tenant_share: u8,
    /// Sandboxes, running or hibernated.
    pub sandboxes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Image pulls under way.
    pub pulls: u64,
    /// Bytes of request bodies and answers that are held in memory.
    pub held_memory: u64,
    /// Bytes of disk that are left free.
    pub disk_reserve: u64,
    /// Bytes of memory that are left free.
    pub mem_reserve: u64,
    /// Processes and threads of the machine that are left free.
    pub pids_reserve: u64,
    /// How the process's file descriptors are divided.
    pub division: Division,
    /// Connections of clients.
    pub connections: u64,
    /// Connections of one address that have not shown a key.
    pub connections_per_address: usize,
    /// From the opening of a connection to the end of the first request's head.
    pub head_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long a connection that shows no key is kept.
    pub unauthenticated_lifetime: Duration,
    /// How long a client may take none of an answer that is ready.
    pub write_stall: Duration,
    /// How slowly the body of a request may come.
    pub body_pace: Pace,
    /// How long runs that are gone, and their audit logs, are kept.
    pub history_age: Duration,
    /// How many runs of a tenant that are gone are kept.
    pub history_runs: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for ServerLimits {
    /// Limits that suit the machine, apart from its disk and its limit of open files:
    /// see [`Self::of_machine`].
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
            division: Division::new(1024),
            connections: Division::new(1024).clients,
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
    /// Limits that suit the machine, with a twentieth of the disk left free: 512 MiB
    /// to 4 GiB. Raises the process's limit of open files as far as it can be.
    pub fn of_machine(data_dir: &Path) -> Self {
        let division = Division::new(raise_limit());
        let limits = Self::default();
        let size = disk(data_dir).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        Self {
            connections: division.clients,
            sandboxes: division.sandboxes.min(limits.sandboxes),
            disk_reserve: (size / 20).clamp(512 * MIB, 4 * GIB),
            division,
            ..limits
        }
    }

    /// The most memory that a tenant's sandboxes may use together, in bytes.
    pub fn tenant_memory(&self) -> u64 {
        share_of(machine_memory().saturating_sub(self.mem_reserve), self.tenant_share)
    }

    /// The most of the disk, as far as it is free now, that a tenant may use, in bytes.
    pub fn tenant_disk(&self, data_dir: &Path) -> u64 {
        let free = disk(data_dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        share_of(free.saturating_sub(self.disk_reserve), self.tenant_share)
    }
}

fn disk(data_dir: &Path) -> Option<rustix::fs::StatVfs> {
    rustix::fs::statvfs(existing(data_dir)).ok()
}

/// The folder, or the nearest one above it that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// The machine's memory, in bytes.
pub fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// How many processes and threads the machine's kernel allows.
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
    /// For a command that brings its own server: one user, a few requests.
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
                // There is one tenant.
                server: ServerLimits { tenant_share: 100, ..ServerLimits::of_machine(&data_dir) },
            },
            pulls: Pulls::Anywhere,
            network: Network::default(),
            urls: Urls { anonymous: false, ..Urls::default() },
            keep_sandboxes: false,
            warm: 0,
            warm_copies: 2,
            write_client_config: false,
            data_dir,
        }
    }
}

/// The largest body of a request that is JSON.
pub const MAX_JSON: usize = 1 << 20;
/// Of a run that asks for nothing else.
pub const DEFAULT_VCPUS: u32 = 1;
pub const DEFAULT_MEM_MIB: u64 = 1024;
pub const DEFAULT_DISK_MIB: u64 = 10240;
pub const DEFAULT_IDLE: Duration = Duration::from_secs(300);
/// Of a command that asks for nothing else.
pub const DEFAULT_EXEC_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer timeouts than a year are mistakes.
pub const MAX_SECONDS: f64 = 366.0 * 86400.0;
